from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import DataError
from regard.data.store import TokenStore

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=6)


@given(examples=st.lists(st.tuples(IDS, IDS), max_size=12), data=st.data())
def test_gather_gives_what_was_written(
    examples: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = TokenStore.write(folder, examples, ("source", "target"))
        assert len(store) == len(examples)
        assert store.lengths.shape == (len(examples), 2)
        assert store.lengths.tolist() == [[len(ids) for ids in example] for example in examples]
        chosen = data.draw(st.lists(st.integers(0, len(examples) - 1), max_size=20)) if examples else []
        gathered = store.gather(np.array(chosen, dtype=np.int64))
        for number, field in enumerate(("source", "target")):
            values, offsets = gathered[field]
            assert values.dtype == offsets.dtype == np.int32
            parts = [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]
            assert parts == [examples[index][number] for index in chosen]
            assert offsets[-1] == len(values)


def test_large_stores_are_written_in_pieces(tmp_path: Path) -> None:
    examples = [(np.arange(n, n + 300).tolist(),) for n in range(2000)]
    store = TokenStore.write(tmp_path / "a" / "b", iter(examples), ("text",))
    values, offsets = TokenStore.open(tmp_path / "a" / "b").gather([1999, 0])["text"]
    assert values[[0, 299, 300]].tolist() == [1999, 2298, 0]
    assert offsets.tolist() == [0, 300, 600]
    assert "600,000 tokens" in repr(store)


def test_writing_again_replaces(tmp_path: Path) -> None:
    TokenStore.write(tmp_path, [([1, 2],)], ("text",))
    assert TokenStore.write(tmp_path, [([3],)], ("text",)).gather([0])["text"][0].tolist() == [3]


def test_unfinished_or_damaged_stores(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        TokenStore.open(tmp_path / "nowhere")

    def interrupted():  # type: ignore[no-untyped-def]
        yield ([1, 2],)
        raise RuntimeError("power cut")

    TokenStore.write(tmp_path, [([1],)], ("text",))
    with pytest.raises(RuntimeError, match="power cut"):
        TokenStore.write(tmp_path, interrupted(), ("text",))
    with pytest.raises(DataError, match="cannot be used"):
        TokenStore.open(tmp_path)
    for damage in ("text.values", "lengths", "store.json"):
        TokenStore.write(tmp_path, [([1, 2, 3],)], ("text",))
        (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:-2])
        with pytest.raises(DataError, match="written again"):
            TokenStore.open(tmp_path)


def test_bad_examples_and_indices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wrong number of fields"):
        TokenStore.write(tmp_path, [([1], [2])], ("text",))
    for ids in ([2**31], ["a"]):
        with pytest.raises(DataError, match="32-bit"):
            TokenStore.write(tmp_path, [(ids,)], ("text",))
    store = TokenStore.write(tmp_path, [([1],)], ("text",))
    for index in (-1, 1):
        with pytest.raises(DataError, match="outside the store"):
            store.gather([index])


def test_rows_of_bytes_stand_beside_ids(tmp_path):
    rng = np.random.default_rng(0)
    examples = [([n], rng.integers(256, size=(n, 6), dtype=np.uint8)) for n in (3, 0, 5, 1)]
    written = TokenStore.write(tmp_path / "store", iter(examples), ("label", "patches"))
    for store in (written, TokenStore.open(tmp_path / "store")):
        assert store.lengths.tolist() == [[1, 3], [1, 0], [1, 5], [1, 1]]
        values, offsets = store.gather([2, 1, 0])["patches"]
        assert values.dtype == np.uint8
        assert offsets.tolist() == [0, 5, 5, 8]
        np.testing.assert_array_equal(values, np.concatenate([examples[2][1], examples[0][1]]))
        assert store.gather([3])["label"][0].tolist() == [1]


@pytest.mark.parametrize("other", [np.zeros((2, 5), np.uint8), [1, 2], np.zeros((2, 6), np.int32)])
def test_rows_of_bytes_have_one_width(tmp_path, other):
    with pytest.raises(DataError, match="rows of 6 bytes"):
        TokenStore.write(tmp_path / "store", [(np.zeros((1, 6), np.uint8),), (other,)], ("patches",))
