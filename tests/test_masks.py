from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regard._errors import RegardError, ShapeError
from regard._masks import (
    Causal,
    Coordinates,
    Dense,
    Documents,
    Global,
    Lengths,
    Prefix,
    Window,
    count_pairs,
    split_lengths,
)
from regard._plan import Spans


def spans(q_length, k_length, query_start=None):
    q, k = np.array(q_length), np.array(k_length)
    start = k - q if query_start is None else np.array(query_start)
    return Spans(np.cumsum(q) - q, q, np.cumsum(k) - k, k, start)


def coordinates(where, rows, keys, bring=np.asarray):
    """All pairs of `rows` x `keys` of every sequence; flat tokens are clipped to the sequences."""
    sequence = np.arange(len(where.q_begin))[:, None, None, None]
    row, key = np.arange(rows)[:, None], np.arange(keys)
    return Coordinates(
        sequence=bring(sequence),
        head=bring(np.arange(2)[:, None, None]),
        row=bring(row),
        position=bring(where.query_start[sequence] + row),
        key=bring(key),
        query_token=bring(where.q_begin[sequence] + np.minimum(row, where.q_length[sequence] - 1)),
        key_token=bring(where.k_begin[sequence] + np.minimum(key, where.k_length[sequence] - 1)),
        bring=bring,
    )


def table(mask, rows=5, keys=5, where=None):
    where = where or spans([rows], [keys])
    at = coordinates(where, rows, keys)
    return np.broadcast_to(mask.allows(at), (len(where.q_begin), 2, rows, keys))


def test_causal():
    np.testing.assert_array_equal(table(Causal())[0, 0], np.tri(5, dtype=bool))
    np.testing.assert_array_equal(table(Causal(), rows=2)[0, 0], np.tri(2, 5, 3, dtype=bool))


def test_window_distances_are_inclusive():
    distance = np.arange(5)[:, None] - np.arange(5)
    np.testing.assert_array_equal(table(Window(1, 2))[0, 0], (distance <= 1) & (distance >= -2))
    np.testing.assert_array_equal(table(Window(1))[0, 0], abs(distance) <= 1)
    np.testing.assert_array_equal(table(Window(math.inf, 0))[0, 0], distance >= 0)
    assert table(Window(math.inf)).all()


def test_dilated_window():
    distance = np.arange(9)[:, None] - np.arange(9)
    np.testing.assert_array_equal(
        table(Window(4, dilation=2), 9, 9)[0, 0], (abs(distance) <= 4) & (distance % 2 == 0)
    )


def test_prefix_counts_per_sequence():
    where = spans([3, 3], [4, 4])
    allowed = table(Prefix([1, 3]), 3, 4, where)
    np.testing.assert_array_equal(allowed.sum(-1), np.array([1, 3])[:, None, None] * np.ones((1, 2, 3)))


def test_global_positions_see_and_are_seen():
    index = np.isin(np.arange(5), [0, 3])
    np.testing.assert_array_equal(table(Global([3, 0, 3]))[0, 0], index[:, None] | index)


def test_documents_compare_tokens():
    ids = np.array([7, 7, 2, 7, 2])
    np.testing.assert_array_equal(table(Documents(ids))[0, 0], ids[:, None] == ids)
    keys = np.array([[7, 2]])
    np.testing.assert_array_equal(table(Documents(ids, keys), 5, 2)[0, 0], ids[:, None] == keys)


def test_lengths():
    allowed = table(Lengths(q=[1, 3], k=2), 3, 4, spans([3, 3], [4, 4]))
    np.testing.assert_array_equal(allowed[:, 0].any(-1).sum(-1), [1, 3])
    np.testing.assert_array_equal(allowed[:, 0].any(-2).sum(-1), [2, 2])


def test_dense_broadcasts_and_masks_outside():
    array = np.random.default_rng(0).random((2, 2, 3, 4)) < 0.5
    where = spans([4, 4], [5, 5])
    for part in (array, array[:, :1], array[:1], array[0], array[0, 0], array[0, 0, :1]):
        expected = np.zeros((2, 2, 4, 5), bool)
        rows = 4 if part.shape[-2] == 1 else 3
        expected[:, :, :rows, :4] = np.broadcast_to(part, (2, 2, rows, 4))
        np.testing.assert_array_equal(table(Dense(part), 4, 5, where), expected)


def test_algebra():
    a, b = table(Causal()), table(Window(1))
    np.testing.assert_array_equal(table(Causal() & Window(1)), a & b)
    np.testing.assert_array_equal(table(Causal() | Window(1)), a | b)
    np.testing.assert_array_equal(table(~Causal()), ~a)
    assert ~~Causal() == Causal()


def test_torch_gives_the_same():
    ids = np.array([1, 1, 2, 2, 1])
    mask = (Causal() | Prefix([2]) | Global([4])) & Documents(torch.tensor(ids)) & ~Window(1, dilation=2)
    mask = mask & Dense(torch.ones(5, 5, dtype=torch.bool)) & Lengths(k=[4])
    at = coordinates(spans([5], [5]), 5, 5, torch.as_tensor)
    np.testing.assert_array_equal(np.broadcast_to(mask.allows(at).numpy(), (1, 2, 5, 5)), table(mask))


def test_masks_are_values():
    assert Prefix([1, 2]) == Prefix(np.array([1, 2], np.int32))
    assert hash(Causal() & Prefix([1, 2])) == hash(Causal() & Prefix([1, 2]))
    assert Prefix([1, 2]) != Prefix([1, 3])
    assert (Causal() & Window(1)) != (Causal() | Window(1))
    assert Dense(np.ones((2, 2), bool)) == Dense(np.ones((2, 2), bool))
    tensor = torch.ones(2, 2, dtype=torch.bool)
    assert Dense(tensor) == Dense(tensor)
    assert Dense(tensor) != Dense(tensor.clone())


def test_a_mask_keeps_its_numbers():
    lengths = np.array([1, 2])
    mask = Prefix(lengths)
    lengths[0] = 9
    assert mask == Prefix([1, 2])
    with pytest.raises(AttributeError):
        mask.lengths = 3


def test_repr_is_readable():
    mask = (Causal() & Window(3, math.inf)) | ~Global([0])
    assert repr(mask) == "((Causal() & Window(left=3, right=inf, dilation=1)) | ~Global(indices=(0,)))"
    assert repr(Dense(np.ones((3, 4), bool))) == "Dense(array=<bool (3, 4)>)"
    assert repr(Lengths(k=[1, 2])) == "Lengths(k=[1, 2])"


def test_split_lengths_takes_the_conjuncts_only():
    mask = Lengths(k=[3, 2]) & Causal() & (Lengths(4, 2) & Window(1)) & (Lengths(k=1) | Causal())
    rest, lengths = split_lengths(mask)
    assert lengths == Lengths(4, [2, 2])
    assert rest == Causal() & Window(1) & (Lengths(k=1) | Causal())
    assert split_lengths(Lengths(1)) == (None, Lengths(1))
    assert split_lengths(Causal()) == (Causal(), None)


def test_count_pairs():
    where = spans([3, 0, 2], [3, 4, 5])
    assert count_pairs(None, where, 2) == 2 * (9 + 0 + 10)
    assert count_pairs(Causal(), where) == 6 + 9
    heads = np.zeros((2, 3, 5), bool)
    heads[1, 0] = True
    assert count_pairs(Dense(heads), where, 2) == 3 + 5


def test_and_or_not_raise():
    with pytest.raises(RegardError, match=r"use `&`, `\|` and `~`"):
        bool(Causal())
    with pytest.raises(TypeError):
        Causal() & np.ones(3, bool)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Window(-1),
            r"Window\(left=\) must be an integer of at least 0, or math.inf for no limit, got -1",
        ),
        (lambda: Window(1, 1.5), r"Window\(right=\)"),
        (lambda: Window(1, dilation=0), "at least 1, got 0"),
        (lambda: Prefix([-1]), r"Prefix\(lengths=\) must be an integer of at least 0"),
        (lambda: Prefix([1.5]), r"Prefix\(lengths=\) must hold integers"),
        (lambda: Global([-1]), "count positions from the start"),
        (lambda: Dense(np.ones((2, 2))), "pass numbers that are added to the scores as bias="),
        (lambda: Dense(np.ones((1, 1, 1, 2, 2), bool)), "5 dimensions"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(RegardError, match=message):
        make()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Prefix([1]), "one integer per sequence, 2 in all, got 1"),
        (Causal() & ~Lengths(k=[1, 2, 3]), "2 in all, got 3"),
        (Documents(np.arange(4)), r"Documents\(queries=\) must hold one id per token, 6 in all, got 4"),
        (Documents(np.arange(6)), r"Documents\(keys=\) must hold one id per token, 8 in all, got 6"),
        (Dense(np.ones((3, 1, 3, 4), bool)), "1 or 2 sequences, got 3"),
        (Dense(np.ones((5, 3, 4), bool)), "1 or 2 heads, got 5"),
        (Dense(np.ones((0, 4), bool)), "empty along its queries"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(ShapeError, match=message):
        mask.check(spans([3, 3], [4, 4]), 6, 8, 2)
