"""Which tokens a text can be translated to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import CheckpointError
from regard.decoding import shortlist as module
from regard.decoding.shortlist import Shortlist

TOKENS = st.lists(st.integers(0, 7), max_size=5)


@given(
    pairs=st.lists(st.tuples(TOKENS, TOKENS), max_size=12), common=st.integers(0, 3), each=st.integers(1, 4)
)
def test_it_holds_what_belongs_together(pairs, common, each):
    found = Shortlist.learn(pairs, 8, common=common, each=each)
    ones = [Counter(token for pair in pairs for token in set(pair[side])) for side in (0, 1)]
    both = Counter((s, t) for source, target in pairs for s in set(source) for t in set(target))
    for source in range(8):
        dice = {t: 2 * n / (ones[0][s] + ones[1][t]) for (s, t), n in both.items() if s == source and n > 1}
        best = sorted(dice, key=lambda token: (-dice[token], token))[:each]
        assert [token for token in found.candidates[source] if token >= 0] == best
    frequent = sorted(range(8), key=lambda token: (-ones[1][token], token))[:common]
    assert found.common.tolist() == frequent


def test_it_does_not_depend_on_the_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 9, 4).tolist(), rng.integers(0, 9, 4).tolist()) for _ in range(25_000)]
    whole = Shortlist.learn(pairs, 9, each=5)
    split = Shortlist.learn(iter(pairs), 9, each=5)
    np.testing.assert_array_equal(whole.candidates, split.candidates)
    assert len(module._counted(np.zeros(0, np.int64), np.zeros(0, np.int64), [])[0]) == 0


def test_texts_share_their_candidates():
    shortlist = Shortlist(np.array([[1, 2], [3, -1], [2, 5]], np.int32), np.array([4], np.int32))
    assert shortlist.allowed([[0, 1], [0]], also=[6]).tolist() == [1, 2, 3, 4, 6]
    assert shortlist.allowed([]).tolist() == [4]


def test_it_can_be_kept(tmp_path):
    shortlist = Shortlist(np.array([[1, 2], [0, -1], [2, 1]], np.int32), np.array([1], np.int32))
    shortlist.save(tmp_path / "short.npz")
    again = Shortlist.load(tmp_path / "short.npz", 3)
    np.testing.assert_array_equal(again.candidates, shortlist.candidates)
    np.testing.assert_array_equal(again.common, shortlist.common)
    shortlist.save(tmp_path / "short")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short", "short.npz"]
    np.testing.assert_array_equal(Shortlist.load(tmp_path / "short", 3).common, shortlist.common)
    with pytest.raises(CheckpointError, match=r"another vocabulary\. Expected: 4 tokens\. Received: 3"):
        Shortlist.load(tmp_path / "short.npz", 4)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Shortlist.load(tmp_path / "none.npz", 3)
    np.savez(tmp_path / "other.npz", numbers=np.arange(3))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Shortlist.load(tmp_path / "other.npz", 3)
