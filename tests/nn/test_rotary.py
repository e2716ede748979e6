from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from regard import Packed, rotate
from regard._errors import RegardError
from regard.nn import Rotary, SelfAttention
from regard.nn._sequences import positions_of
from regard.nn.rotary import turn

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=GENERATOR)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_turning_is_rotate_over_adjacent_pairs(dtype):
    x = random(7, 2, 6, dtype=torch.float64).to(dtype)
    positions = torch.tensor([0, 3, 1, 100, 7, 7, 2])
    out = turn(x, Rotary(6)(positions, dtype))
    assert out.dtype == dtype
    expected = rotate(x.double().numpy(), positions.numpy(), interleaved=True)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(out.double().numpy(), expected, atol=tolerance)


def test_scores_depend_on_distances_alone():
    rotary = Rotary(8)
    query, key = random(1, 1, 8, dtype=torch.float64), random(1, 1, 8, dtype=torch.float64)

    def score(position, other):
        turns = [rotary(torch.tensor([p]), torch.float64) for p in (position, other)]
        return float((turn(query, turns[0]) * turn(key, turns[1])).sum())

    for distance in (0, 1, 50):
        first = score(distance, 0)
        assert all(abs(score(distance + shift, shift) - first) < 1e-12 for shift in (1, 63, 64, 1000))
    assert abs(score(1, 0) - score(0, 1)) > 1e-3


def test_a_layer_does_not_notice_a_shift_of_all_positions():
    """Two copies of a sequence, one at the beginning and one far behind, in one padded batch of a long table."""
    layer = SelfAttention(16, 2, rotary=True).double()
    x = random(5, 16, dtype=torch.float64)
    near, far = (layer.rotary(torch.arange(start, start + 5), torch.float64) for start in (0, 200))
    torch.testing.assert_close(layer(x, turns=near), layer(x, turns=far), atol=1e-12, rtol=0)


def test_tables_grow_and_casts_leave_them_alone():
    rotary = Rotary(4)
    before = rotary(torch.arange(10))
    rotary(torch.tensor([5000]))
    torch.testing.assert_close(rotary(torch.arange(10)), before, rtol=0, atol=0)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        cast = copy.deepcopy(rotary).to(dtype)
        torch.testing.assert_close(cast(torch.arange(10)), before, rtol=0, atol=0)
    assert rotary(torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 2)
    assert not rotary.state_dict()


def test_gradients_turn_back():
    x = random(3, 1, 4, dtype=torch.float64).requires_grad_()
    turns = Rotary(4)(torch.arange(3), torch.float64)
    assert torch.autograd.gradcheck(lambda x: turn(x, turns), x)


def test_positions_begin_anew_in_every_sequence():
    packed = Packed(random(6, 2), [0, 2, 2, 6])
    assert positions_of(packed).tolist() == [0, 1, 0, 1, 2, 3]
    assert positions_of(packed, 5).tolist() == [5, 6, 5, 6, 7, 8]
    assert positions_of(random(3, 4, 2)).tolist() == [0, 1, 2, 3]
    assert positions_of(Packed(random(0, 2), [0, 0])).tolist() == []


def test_odd_heads_are_refused():
    with pytest.raises(RegardError, match="even"):
        SelfAttention(6, 2, rotary=True)
