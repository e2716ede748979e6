from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import Packed
from regard.nn import AttentionPool, watch


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_the_query_reads_each_sequence_by_itself(lengths):
    torch.manual_seed(0)
    pool = AttentionPool(8, 2).double()
    values = torch.randn(sum(lengths), 8, dtype=torch.float64)
    found = pool(Packed(values, np.cumsum([0, *lengths])))
    layer = pool.attention
    for length, part, state in zip(lengths, values.split(lengths), found, strict=True):
        if length == 0:
            assert (state == 0).all()
            continue
        query = layer.query(pool.query).view(2, 4)
        key, value = layer.key_value(part).view(length, 2, 2, 4).unbind(1)
        weights = torch.softmax(torch.einsum("hd,shd->hs", query, key) / 2, -1)
        expected = layer.output(torch.einsum("hs,shd->hd", weights, value).flatten())
        torch.testing.assert_close(state, expected)


def test_its_weights_can_be_watched():
    pool = AttentionPool(8, 2)
    with watch(pool) as seen:
        pool(Packed(torch.randn(5, 8), [0, 5]))
    assert seen[0].shape == (1, 2, 5)
    np.testing.assert_allclose(seen[0].sum(-1), 1, rtol=1e-5)


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="multiple of heads"):
        AttentionPool(10, 4)
