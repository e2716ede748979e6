"""Linear layers: blocks of rows in bfloat16, and the plain layer elsewhere."""

from __future__ import annotations

import pytest
import torch

from regard.nn import Linear
from regard.nn.linear import BLOCK


@pytest.mark.parametrize("rows", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_of_rows_give_the_product_and_its_gradients(rows):
    torch.manual_seed(rows)
    layer, plain = Linear(24, 40), torch.nn.Linear(24, 40)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(rows, 24, requires_grad=True)
    grad = torch.randn(rows, 40)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    found = torch.autograd.grad(out.float(), [x, layer.weight, layer.bias], grad)
    exact = plain(x)
    expected = torch.autograd.grad(exact, [x, plain.weight, plain.bias], grad)
    torch.testing.assert_close(out.float(), exact, atol=0.05, rtol=0.02)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=0.02 * max(1, rows) ** 0.5, rtol=0.02)


def test_leading_dimensions_stay():
    layer = Linear(8, 4, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 3, 8)).shape == (2, 3, 4)


def test_without_autocast_it_is_the_plain_layer():
    layer = Linear(8, 4).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
