"""`silu(gate) * up` in the kernel, on every instruction set, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.nn._gate import gated
from twins import assert_close, differentiated, plain

pytestmark = pytest.mark.usefixtures("instruction_set")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def random(*shape, dtype, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(0, 4), size=st.integers(1, 70))
def test_numbers_and_gradients_are_those_of_torch(dtype, rows, size):
    leaves, grads = [random(rows, 2 * size, dtype=dtype)], [random(rows, size, dtype=dtype, seed=1)]
    found = differentiated(gated, leaves, grads)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with plain():
        expected = differentiated(
            gated, [leaf.to(wide) for leaf in leaves], [grad.to(wide) for grad in grads]
        )
    assert_close(found, [array.to(dtype) for array in expected])


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_gates_and_what_is_not_finite(dtype):
    numbers = [0.0, -0.0, 1e4, -1e4, 88.0, -88.0, -104.0, 1e30, -1e30, torch.inf, torch.nan]
    gate_up = torch.tensor([[*numbers, *([2.0] * len(numbers))]], dtype=dtype)
    found = gated(gate_up)
    with plain():
        torch.testing.assert_close(found, gated(gate_up), equal_nan=True, atol=1e-30, rtol=1e-5)


def test_derivatives_of_both_orders():
    gate_up = random(2, 3, 10, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(gated, gate_up)
    assert torch.autograd.gradgradcheck(gated, gate_up)


def test_threads_and_strides():
    gate_up = random(1200, 200, dtype=torch.float32)
    alone = gated(gate_up)
    assert torch.equal(gated(gate_up.mT.contiguous().mT), alone)
    try:
        torch.set_num_threads(3)
        assert torch.equal(gated(gate_up), alone)
    finally:
        torch.set_num_threads(1)
