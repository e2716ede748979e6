from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regard.nn import RMSNorm
from regard.nn.norm import JointRMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 4, 6), (0, 8), (3, 1)])
def test_numbers_and_gradients_are_those_of_torch(dtype, shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    up = torch.randn(shape, dtype=dtype)
    ours, theirs = RMSNorm()(x), F.rms_norm(x, shape[-1:], eps=1e-6)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)
    received, expected = (torch.autograd.grad(y, x, up)[0] for y in (ours, theirs))
    assert received.dtype == dtype
    tolerance = {"atol": 0.03, "rtol": 0.03} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(received, expected, **tolerance)


def test_derivatives_of_both_orders():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RMSNorm(), x)
    assert torch.autograd.gradgradcheck(RMSNorm(), x)


def test_used_twice_its_gradients_add_up():
    """Two norms over one tensor, as the halves of a block, and one norm over two tensors, as queries and keys."""
    norm = RMSNorm()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x) * norm(2 * x + 1) + norm(norm(x)), x)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-3])
def test_small_inputs_stay_finite(scale):
    x = torch.full((2, 4), scale, requires_grad=True)
    out = RMSNorm()(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


def test_without_gradients_the_numbers_are_the_same():
    x = torch.randn(3, 5)
    with torch.no_grad():
        expected = RMSNorm()(x)
    assert torch.equal(RMSNorm()(x.requires_grad_()), expected)
    with torch.inference_mode():
        assert torch.equal(RMSNorm()(x), expected)


def test_a_row_does_not_depend_on_the_others():
    x = torch.randn(3, 5)
    expected = RMSNorm()(x)[1]
    x[0], x[2] = torch.nan, torch.inf
    assert torch.equal(RMSNorm()(x)[1], expected)


@pytest.mark.parametrize("shape", [(5, 2, 8), (0, 3, 4), (2, 3, 1, 6)])
def test_the_joint_norm_is_the_norm_of_all_heads_side_by_side(shape):
    x = torch.randn(shape, requires_grad=True)
    ours, theirs = JointRMSNorm()(x), RMSNorm()(x.flatten(-2)).view(shape)
    assert torch.equal(ours, theirs)
    up = torch.randn(shape)
    assert torch.equal(torch.autograd.grad(ours, x, up)[0], torch.autograd.grad(theirs, x, up)[0])
