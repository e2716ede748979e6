from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regard import _intervals
from regard._masks import (
    And,
    Causal,
    Coordinates,
    Dense,
    Documents,
    Global,
    Lengths,
    Not,
    Or,
    Prefix,
    Window,
    _base,
)
from regard._plan import Spans

distances = st.one_of(st.integers(0, 6), st.just(math.inf))


@st.composite
def spans(draw):
    count = draw(st.integers(1, 3))
    lengths = st.lists(st.integers(0, 7), min_size=count, max_size=count)
    q, k = np.array(draw(lengths)), np.array(draw(lengths))
    start = draw(st.one_of(st.none(), st.lists(st.integers(-5, 5), min_size=count, max_size=count)))
    if draw(st.booleans()):  # all sequences read the same keys
        k[:], k_begin = k[0], np.zeros_like(k)
    else:
        k_begin = np.cumsum(k) - k
    return Spans(np.cumsum(q) - q, q, k_begin, k, k - q if start is None else np.array(start))


@st.composite
def masks(draw, where, depth=3):
    if depth and draw(st.booleans()):
        kind = draw(st.sampled_from([And, Or, Not]))
        return kind(*(draw(masks(where, depth - 1)) for _ in range(1 if kind is Not else 2)))
    count = len(where.q_begin)
    lengths = st.one_of(st.integers(0, 8), st.lists(st.integers(0, 8), min_size=count, max_size=count))
    total_q, total_k = int(where.q_length.sum()), int((where.k_begin + where.k_length).max())
    ids = st.integers(0, 2)
    choices = [
        st.builds(Causal),
        st.builds(Window, distances, st.one_of(st.none(), distances), st.sampled_from([1, 1, 2, 3])),
        st.builds(Prefix, lengths),
        st.builds(Global, st.lists(st.integers(0, 7), min_size=1, max_size=3)),
        st.builds(Lengths, st.one_of(st.none(), lengths), st.one_of(st.none(), lengths)),
        st.builds(
            lambda q, k: Documents(np.array(q, np.int64), np.array(k, np.int64)),
            st.lists(ids, min_size=total_q, max_size=total_q),
            st.lists(ids, min_size=total_k, max_size=total_k),
        ),
        st.builds(
            lambda seed, shape: Dense(np.random.default_rng(seed).random(shape) < 0.6),
            st.integers(0, 9),
            st.sampled_from([(7, 7), (2, 5, 8), (count, 1, 7, 1), (1, 6)]),
        ),
    ]
    return draw(st.one_of(choices))


@st.composite
def cases(draw):
    where = draw(spans())
    return where, draw(masks(where))


def rows_of(where):
    sequence = np.repeat(np.arange(len(where.q_begin)), where.q_length)
    return sequence, np.arange(len(sequence)) - where.q_begin[sequence]


def predicate(mask, where, sequence, row, head):
    """(R, longest key length): the mask's own answer, pair by pair."""
    longest = int(where.k_length.max(initial=0))
    allowed = np.zeros((len(row), longest), bool)
    for r, (n, i) in enumerate(zip(sequence, row, strict=True)):
        keys = np.arange(where.k_length[n])
        numbers = (n, head, i, where.query_start[n] + i)
        at = Coordinates(
            *(np.full((1, 1, 1, 1), number) for number in numbers),
            key=keys.reshape(1, 1, 1, -1),
            query_token=np.full((1, 1, 1, 1), where.q_begin[n] + i),
            key_token=(where.k_begin[n] + keys).reshape(1, 1, 1, -1),
            bring=np.asarray,
        )
        allowed[r, : len(keys)] = np.broadcast_to(mask.allows(at), (1, 1, 1, len(keys)))[0, 0, 0]
    return allowed


def pairs(starts, ends, step, longest):
    allowed = np.zeros((len(starts), longest), bool)
    for row, column in np.argwhere(starts < ends):
        allowed[row, starts[row, column] : ends[row, column] : step] = True
    return allowed


@given(cases(), st.integers(0, 1))
def test_intervals_are_the_predicate(case, head):
    where, mask = case
    sequence, row = rows_of(where)
    starts, ends, step = mask.intervals(where, sequence, row, head)
    expected = predicate(mask, where, sequence, row, head)
    np.testing.assert_array_equal(pairs(starts, ends, step, expected.shape[1]), expected)
    assert _intervals.count_keys((starts, ends), step) == expected.sum()


@given(cases())
def test_intervals_are_disjoint_ascending_and_apart(case):
    where, mask = case
    sequence, row = rows_of(where)
    starts, ends, step = mask.intervals(where, sequence, row)
    filled = starts < ends
    assert (filled[:, :-1] >= filled[:, 1:]).all()
    assert (starts[~filled] == 0).all()
    assert (ends[~filled] == 0).all()
    # Neighbors would have been joined: a key is missing between two intervals.
    later = filled[:, 1:]
    assert (starts[:, 1:][later] > (ends[:, :-1] + step - 1)[later]).all()


@given(cases(), st.integers(1, 4))
def test_hulls_hold_every_allowed_key(case, height):
    where, mask = case
    sequence, row = rows_of(where)
    block_sequence = np.concatenate([np.repeat(n, -(-q // height)) for n, q in enumerate(where.q_length)])
    first = np.concatenate([np.arange(0, q, height) for q in where.q_length]).astype(np.int64)
    last = np.minimum(first + height, where.q_length[block_sequence]) - 1
    start = where.query_start[block_sequence]
    starts, ends = mask.cover(where).hulls(where, block_sequence, start + first, start + last)
    assert (starts <= ends).all()
    assert (starts >= 0).all()
    assert (ends <= where.k_length[block_sequence][:, None]).all()
    for head in range(2):
        allowed = predicate(mask, where, sequence, row, head)
        for b, n in enumerate(block_sequence):
            rows = (sequence == n) & (row >= first[b]) & (row <= last[b])
            covered = pairs(starts[b : b + 1], ends[b : b + 1], 1, allowed.shape[1])[0]
            assert not (allowed[rows].any(0) & ~covered).any()


def one_sequence(queries, keys):
    return Spans(*(np.array([n]) for n in (0, queries, 0, keys, keys - queries)))


def test_hulls_of_a_window_are_tight():
    where = one_sequence(100, 100)
    blocks = np.zeros(2, np.int64), np.array([0, 50]), np.array([9, 59])
    starts, ends = (Causal() & Window(5)).boxes(where).hulls(where, *blocks)
    np.testing.assert_array_equal(starts, [[0], [45]])
    np.testing.assert_array_equal(ends, [[10], [60]])


def test_long_sequences_need_no_pairs():
    where = one_sequence(10**9, 10**9)
    mask = (Causal() & Window(4096)) | Global([0, 5])
    far = np.array([10**9 - 1])
    starts, ends, step = mask.intervals(where, np.zeros(1, np.int64), far)
    np.testing.assert_array_equal(starts, [[0, 5, 10**9 - 4097]])
    np.testing.assert_array_equal(ends, [[1, 6, 10**9]])
    assert step == 1


def test_too_many_boxes_are_no_formula_but_still_intervals():
    where = one_sequence(300, 300)
    scattered = ~(Global(range(0, 120, 2)) & Global(range(1, 120, 2)))
    assert scattered.boxes(where) is None
    sequence, row = rows_of(where)
    starts, ends, step = scattered.intervals(where, sequence, row)
    np.testing.assert_array_equal(
        pairs(starts, ends, step, 300), predicate(scattered, where, sequence, row, 0)
    )


def test_the_predicate_is_evaluated_in_bounded_chunks(monkeypatch):
    monkeypatch.setattr(_base, "_CHUNK", 50)
    array = np.random.default_rng(0).random((30, 20)) < 0.5
    where = one_sequence(30, 20)
    seen = []

    class Watched(Dense):
        def allows(self, at):
            seen.append(at.row.size * at.key.size)
            return super().allows(at)

    starts, ends, _ = Watched(array).intervals(where, *rows_of(where))
    np.testing.assert_array_equal(pairs(starts, ends, 1, 20), array)
    assert max(seen) <= 50


def test_documents_cost_no_pairs():
    ids = np.repeat(np.arange(200_000), 5)
    where = one_sequence(10**6, 10**6)
    row = np.arange(0, 10**6, 7)
    starts, ends, _ = Documents(ids).intervals(where, np.zeros_like(row), row)
    np.testing.assert_array_equal(starts[:, 0], row // 5 * 5)
    np.testing.assert_array_equal(ends[:, 0], row // 5 * 5 + 5)
