"""Linear layers: blocks of rows in bfloat16, and the plain layer elsewhere."""

from __future__ import annotations

import pytest
import torch

import ways
from regard._lowering import kernel
from regard.nn import Linear
from regard.nn import linear as module
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


@pytest.fixture(params=ways.WAYS)
def way(request, monkeypatch):
    """PyTorch's operations, then the kernel's products on every instruction set, for any number of rows."""
    monkeypatch.setattr(module, "FEW_ROWS", 0)
    monkeypatch.setattr(module, "SMALL_WEIGHT", 0)
    if request.param == "plain":
        monkeypatch.setattr(module, "is_fused", lambda *tensors: False)
    with ways.used(request.param):
        yield request.param


@pytest.mark.parametrize("shape", [(0,), (1,), (37,), (2, 0, 3), (2, 3, 70)])
@pytest.mark.parametrize("narrow", [False, True])
def test_every_way_gives_the_product_and_its_gradients(way, shape, narrow):
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=False)
    x = torch.randn(*shape, 24, requires_grad=True)
    grad = torch.randn(*shape, 40)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        out = layer(x)
    assert out.dtype == (torch.bfloat16 if narrow else torch.float32)
    assert out.shape == (*shape, 40)
    found = torch.autograd.grad(out, [x, layer.weight], grad.to(out.dtype))
    exact = x.double() @ layer.weight.double().T
    expected = torch.autograd.grad(exact, [x, layer.weight], grad.double())
    for one, other in zip((out, *found), (exact, *expected), strict=True):
        scale = other.abs().max().item() if other.numel() else 0
        torch.testing.assert_close(
            one.double(), other.double(), atol=scale * (2e-2 if narrow else 1e-6), rtol=0
        )


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_one_of_the_two_may_be_frozen(way, frozen):
    torch.manual_seed(0)
    layer, x = Linear(8, 5, bias=False), torch.randn(7, 8, requires_grad=frozen != "x")
    layer.weight.requires_grad_(frozen != "weight")
    wanted = layer.weight if frozen == "x" else x
    (found,) = torch.autograd.grad(layer(x).square().sum(), wanted)
    (expected,) = torch.autograd.grad(torch.nn.functional.linear(x, layer.weight).square().sum(), wanted)
    torch.testing.assert_close(found, expected)


def test_second_derivatives(way):
    torch.manual_seed(0)
    layer, x = Linear(4, 3, bias=False), torch.randn(5, 4, requires_grad=True)

    def second(of):
        (first,) = torch.autograd.grad(of(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, layer.weight])

    for one, other in zip(second(layer), second(lambda x: x @ layer.weight.T), strict=True):
        torch.testing.assert_close(one, other)


def test_functional_transforms(way):
    torch.manual_seed(0)
    layer, x = Linear(4, 3, bias=False), torch.randn(5, 4)
    found = torch.func.jacrev(layer)(x[0])
    torch.testing.assert_close(found, layer.weight)
    torch.testing.assert_close(torch.func.vmap(layer)(x), x @ layer.weight.T)


def test_gradients_do_not_depend_on_threads(way, monkeypatch):
    if way == "plain":
        pytest.skip("PyTorch decides")
    torch.manual_seed(0)
    layer, x = Linear(96, 130, bias=False), torch.randn(300, 96, requires_grad=True)
    found = []
    for count in (1, 2, 5):
        monkeypatch.setenv("REGARD_NUM_THREADS", str(count))
        out = layer(x)
        found.append((out, *torch.autograd.grad(out.sin().sum(), [x, layer.weight])))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_in_training_float32_goes_by_the_kernel_where_that_pays():
    if kernel() is None:
        pytest.skip("there is no kernel")
    layer = Linear(128, 128, bias=False)
    many, few = torch.randn(module.FEW_ROWS, 128), torch.randn(module.FEW_ROWS - 1, 128)
    assert layer(many).grad_fn.name() == "_KernelLinearBackward"
    assert layer(few).grad_fn.name() != "_KernelLinearBackward"
    assert layer.double()(many.double()).grad_fn.name() != "_KernelLinearBackward"
