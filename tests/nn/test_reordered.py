"""Linear layers with a copy of the weight: the numbers of the plain product, also after the weight has changed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from regard.nn.reordered import ONEDNN, ReorderedLinear

needs_onednn = pytest.mark.skipif(
    ONEDNN is None or not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN"
)


def checked(layer, x):
    with torch.no_grad():
        found = layer(x)
        exact = F.linear(
            x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
        )
        bound = 1e-5 * F.linear(x.double().abs(), layer.weight.double().abs()).add(1)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= bound).all()


@pytest.mark.parametrize("shape", [(0, 24), (1, 24), (7, 24), (300, 24), (2, 3, 24), (24,)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_without_gradient(shape, bias):
    checked(ReorderedLinear(24, 40, bias=bias), torch.randn(shape))


def test_strided_rows():
    checked(ReorderedLinear(24, 40), torch.randn(24, 7).mT)
    checked(ReorderedLinear(24, 40), torch.randn(7, 48)[:, ::2])


@needs_onednn
def test_the_copy_is_made_once_and_follows_the_weight():
    layer, x = ReorderedLinear(24, 40), torch.randn(9, 24)
    checked(layer, x)
    first = layer._copy
    checked(layer, x)
    assert layer._copy is first is not None
    with torch.no_grad():
        layer.weight.mul_(2)
    checked(layer, x)
    assert layer._copy is not first
    layer.weight = torch.nn.Parameter(torch.randn(40, 24))
    checked(layer, x)
    layer.load_state_dict(ReorderedLinear(24, 40).state_dict())
    checked(layer, x)
    layer.weight.data = torch.randn(40, 24)
    checked(layer, x)
    layer.weight.data.zero_()
    layer.forget()
    checked(layer, x)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
def test_steps_of_an_optimiser_are_seen(options):
    layer, x = ReorderedLinear(24, 40), torch.randn(9, 24)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, **options)
    for _ in range(2):
        checked(layer, x)
        layer(x).square().sum().backward()
        assert layer._copy is None
        optimiser.step()
    checked(layer, x)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated"
)  # PyTorch's own, on first use of tangents
def test_gradients_are_those_of_the_plain_layer():
    layer = ReorderedLinear(24, 40)
    plain = torch.nn.Linear(24, 40)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(9, 24, requires_grad=True)
    checked(layer, x.detach())
    found = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(plain(x).square().sum(), [x, *plain.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    layer.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(layer(x).square().sum(), x)[0], expected[0])
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x.detach(), torch.ones(9, 24)))).tangent
    torch.testing.assert_close(tangent, layer.weight.sum(1).expand(9, 40), rtol=1e-4, atol=1e-5)


def test_other_types_and_transforms_take_the_plain_product():
    layer, x = ReorderedLinear(24, 40), torch.randn(9, 24)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x), rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert copy.deepcopy(layer).double()(x.double()).dtype == torch.float64
    with torch.inference_mode():
        torch.testing.assert_close(ReorderedLinear(24, 40)(x).shape, torch.Size([9, 40]))


def test_without_onednn_the_plain_product_serves(monkeypatch):
    monkeypatch.setattr("regard.nn.reordered.ONEDNN", None)
    layer, x = ReorderedLinear(24, 40), torch.randn(9, 24)
    checked(layer, x)
    assert layer._copy is None
