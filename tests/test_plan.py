from __future__ import annotations

import numpy as np
import pytest

from regard import Causal, Documents, Lengths, Prefix, Window, attention
from regard._errors import ShapeError
from regard._plan import is_small, packed_spans, padded_spans, remembered_plan

PARAMETERS = {"mask": None, "query_start": None, "scale": None, "softcap": None, "dropout_p": 0.0}


def plan(q_shape, k_shape, **parameters):
    return remembered_plan(None, None, None, q_shape, k_shape, **(PARAMETERS | parameters))


def test_packed_spans_follow_key_sequence():
    spans = packed_spans(5, 6, [0, 2, 5], [0, 1, 6], [1, 1])
    assert spans.q_begin.tolist() == [0, 2]
    assert spans.q_length.tolist() == [2, 3]
    assert spans.k_begin.tolist() == [1, 1]
    assert spans.k_length.tolist() == [5, 5]
    assert spans.query_start.tolist() == [3, 2]


def test_padded_spans_read_broadcast_keys_in_place():
    spans, leading = padded_spans((2, 1, 3, 4, 8), (3, 5, 4, 8))
    assert leading == (2, 3)
    assert spans.q_begin.tolist() == [0, 3, 6, 9, 12, 15]
    assert spans.k_begin.tolist() == [0, 5, 10, 0, 5, 10]
    assert padded_spans((7, 1, 1), (9, 1, 1))[1] == ()


def test_lengths_shorten_the_spans_and_the_default_positions():
    found = plan((2, 4, 1, 8), (2, 6, 1, 8), mask=Causal() & Lengths(q=[1, 4], k=[3, 2]))
    assert found.spans.q_length.tolist() == [1, 4]
    assert found.spans.k_length.tolist() == [3, 2]
    assert found.spans.query_start.tolist() == [2, -2]
    assert found.mask == Causal()
    assert found.total_queries == 8


def test_positions_may_be_given_for_all_or_for_each():
    spans = plan((2, 4, 1, 8), (2, 6, 1, 8), mask=Causal(), query_start=-3).spans
    assert spans.query_start.tolist() == [-3, -3]


def test_neighbors_that_read_the_same_keys_become_one_where_nothing_depends_on_places():
    shapes = (3, 2, 1, 8), (1, 5, 1, 8)
    assert plan(*shapes).spans.q_length.tolist() == [6]
    assert plan(*shapes, mask=Causal()).spans.q_length.tolist() == [2, 2, 2]
    assert plan(*shapes, dropout_p=0.1).spans.q_length.tolist() == [2, 2, 2]


def test_the_default_scale_is_one_over_the_root_of_the_head_size():
    assert plan((2, 1, 16), (2, 1, 16)).scale == 0.25
    assert plan((2, 1, 0), (2, 1, 0)).scale == 1.0
    assert plan((2, 1, 16), (2, 1, 16), scale=2).scale == 2.0


def test_the_same_call_has_the_same_plan():
    remembered_plan.cache_clear()
    first = plan((2, 1, 16), (2, 1, 16), mask=Causal() & Window(3))
    assert plan((2, 1, 16), (2, 1, 16), mask=Causal() & Window(3)) is first
    others = [
        plan((2, 1, 16), (2, 1, 16), mask=mask) for mask in (Causal() & Window(4), Causal(), Window(3), None)
    ]
    assert all(other is not first for other in others)
    assert plan((2, 1, 16), (2, 1, 16), mask=Causal() & Window(3), softcap=1.0) is not first


def test_only_small_masks_are_remembered():
    assert is_small(None)
    assert is_small(Causal() & Window(2) & Lengths(k=3))
    for mask in (
        Documents(np.zeros(3, int)),
        Lengths(k=[1, 2]),
        Lengths(q=1),
        Causal() & Prefix(np.array([1])),
    ):
        assert not is_small(mask)


def test_what_is_remembered_does_not_leak_between_calls():
    """Equal shapes, other offsets; equal offsets, other key sequences: each its own numbers."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(4, 1, 2)) for _ in range(3))
    results = {}
    for offsets in ([0, 4], [0, 2, 4], [0, 1, 4], [0, 0, 4]):
        for reads in (None, [len(offsets) - 2] * (len(offsets) - 1)):
            results[str((offsets, reads))] = attention(
                query, key, value, cu_seqlens_q=np.array(offsets), key_sequence=reads
            )
    remembered_plan.cache_clear()
    for name, expected in results.items():
        offsets, reads = eval(name)
        again = attention(query, key, value, cu_seqlens_q=np.array(offsets), key_sequence=reads)
        np.testing.assert_array_equal(again, expected)
    assert not np.allclose(results[str(([0, 2, 4], None))], results[str(([0, 1, 4], None))])


def test_offsets_beyond_32_bits_are_refused():
    x = np.ones((4, 1, 2))
    with pytest.raises(ShapeError):
        attention(x, x, x, cu_seqlens_q=np.array([0, 2**32 + 4]))


def test_wrong_calls_are_refused_every_time():
    """A refusal is not remembered as a plan."""
    x = np.ones((4, 1, 2))
    for _ in range(2):
        with pytest.raises(ShapeError, match="must never fall"):
            attention(x, x, x, cu_seqlens_q=np.array([0, 3, 2, 4]))
