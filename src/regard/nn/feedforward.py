"""The feed-forward half of a block, and dropout by random bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard._errors import ConfigError
from regard.nn._fused import BYTES, Drop, address, is_fused, kernel, threads
from regard.nn._gate import gated
from regard.nn.linear import Linear


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): `(silu(x W_g) * x W_u) W_d`, gate and value projected in one product.

    Arguments:
        dim: width of the tokens going in and coming out.
        hidden: width between.
        bias: whether the projections add a bias.

    >>> regard.nn.FeedForward(8, hidden=16)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = Linear(dim, 2 * hidden, bias=bias)
        self.down = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.down(gated(self.gate_up(x)))


class Dropout(nn.Module):
    """`x * kept / (1 - p)` in training, by one random byte an entry (Srivastava et al. 2014); otherwise `x`.

    PyTorch draws a float for every entry on a CPU and keeps which ones stay. Here one number is drawn a call; the bytes are a
    function of it and of the entry's place, and computed again for the gradient.

    Arguments:
        p: share of the entries that become 0, rounded to a multiple of 1/256.

    Raises:
        ConfigError: the share is not in [0, 1).

    >>> regard.nn.Dropout(0.25)(torch.ones(1000)).unique()
    tensor([0.0000, 1.3333])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= round(p * 256) < 256:
            raise ConfigError(f"dropout must be a share of at least 0 and below 1. Received {p}.")
        self.p = p

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Any shape, in and out; what comes out is multiplied by `scale` besides."""
        drop = self.drawn(scale)
        if drop.factor == 1:
            return x
        if x.dtype not in (torch.float32, torch.float64) or x.ndim == 0 or not is_fused(x):
            return drop.anew(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Dropped.apply(x, drop)
        return _compute(x, drop)

    def drawn(self, scale: float = 1.0) -> Drop:
        """What is dropped at this call: decided by PyTorch's generator in training, nothing otherwise."""
        threshold = round(self.p * 256) if self.training else 0
        return Drop(threshold, torch.randint(2**31, ()) if threshold else 0, scale)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: Drop) -> Tensor:
        ctx.drop = drop
        return _compute(x, drop)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.drop(grad) if torch.is_grad_enabled() else _compute(grad, ctx.drop), None


def _compute(x: Tensor, drop: Drop) -> Tensor:
    x = x.detach().contiguous()
    out, size = torch.empty_like(x), BYTES[x.dtype]
    kernel().residual(
        size, size, x.shape[:-1].numel(), x.shape[-1], 0, address(x), address(out), 0, 0, 0.0, *drop.arguments(), threads()
    )  # fmt: skip
    return out
