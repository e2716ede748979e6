"""The layers' elementwise work by plain PyTorch in place of the kernel."""

from __future__ import annotations

import contextlib
from unittest import mock

import torch

from regard.nn import _gate, _heads, _stack, feedforward, norm, residual

# Rounding once to bfloat16 against rounding at every step; sums in another order.
CLOSE = {
    torch.float64: {"atol": 1e-12, "rtol": 1e-12},
    torch.float32: {"atol": 2e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 0.04, "rtol": 0.03},
}


@contextlib.contextmanager
def plain():
    """Compute without the kernel."""
    with contextlib.ExitStack() as stack:
        for module in (_gate, _heads, _stack, feedforward, norm, residual):
            stack.enter_context(mock.patch.object(module, "is_fused", return_value=False))
        yield


def differentiated(function, leaves, grads):
    """What a function of leaves gives, and their gradients given those of what comes out."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    outs = function(*leaves)
    outs = outs if isinstance(outs, tuple) else (outs,)
    return [*outs, *torch.autograd.grad(outs, leaves, grads)]


def assert_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **CLOSE[one.dtype])
