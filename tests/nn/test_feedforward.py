from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regard._errors import ConfigError
from regard.nn import Dropout, FeedForward


@pytest.mark.parametrize("bias", [False, True])
def test_the_formula(bias):
    torch.manual_seed(0)
    layer = FeedForward(6, 10, bias=bias)
    x = torch.randn(2, 3, 6)
    gate, up = layer.gate_up.weight.split(10)
    gate_bias, up_bias = layer.gate_up.bias.split(10) if bias else (0, 0)
    hidden = F.silu(x @ gate.T + gate_bias) * (x @ up.T + up_bias)
    expected = hidden @ layer.down.weight.T + (layer.down.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("p", [-0.1, 1.0, 0.999])
def test_a_share_that_leaves_nothing_is_refused(p):
    with pytest.raises(ConfigError, match=f"at least 0 and below 1. Received {p}"):
        Dropout(p)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_the_share_that_is_dropped_and_what_is_left(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(1000, 1001))
    share = round(p * 256) / 256
    assert abs(share - p) <= 1 / 512
    values = out.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / (1 - share)]))
    assert abs((out == 0).float().mean() - share) < 5 * (share * (1 - share) / out.numel()) ** 0.5
    assert abs(out.mean() - 1) < 0.01


def test_neighbors_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.25)(torch.ones(1 << 18)) == 0).float()
    for distance in (1, 2, 7, 8, 64):
        together = (dropped[distance:] * dropped[:-distance]).mean()
        assert abs(together - 0.0625) < 0.005


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_any_number_of_entries(size):
    assert Dropout(0.5)(torch.ones(size)).shape == (size,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_pass_where_entries_do(dtype):
    x = torch.ones(100, dtype=dtype, requires_grad=True)
    out = Dropout(0.5)(x)
    assert out.dtype == dtype
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_outside_of_training_and_at_zero_nothing_happens():
    x = torch.ones(5)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x


def test_the_seed_decides():
    for _ in range(2):
        torch.manual_seed(4)
        first = Dropout(0.5)(torch.ones(50))
        assert not torch.equal(first, Dropout(0.5)(torch.ones(50)))
        torch.manual_seed(4)
        assert torch.equal(first, Dropout(0.5)(torch.ones(50)))
