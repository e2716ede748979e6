"""Root-mean-square normalization without a gain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.nn._fused import BYTES, NOTHING, address, is_fused, kernel, threads


def normalize(x: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """`x / sqrt(mean(x ** 2) + eps)` over the last dimension, in the dtype of x or in another."""
    dtype = dtype or x.dtype
    if computes(x, dtype) and is_fused(x):
        wanted = torch.is_grad_enabled() and x.requires_grad
        return _FusedNormalize.apply(x, eps, dtype) if wanted else _compute(x, eps, dtype)[0]
    found = _Normalize.apply(x, eps) if torch.is_grad_enabled() else _Normalize.forward(x, eps)
    return found[0].to(dtype)


def computes(x: Tensor, other: torch.dtype) -> bool:
    """Whether the kernel takes rows of x beside rows of another dtype."""
    pairs = {torch.float32: (torch.float32, torch.bfloat16), torch.float64: (torch.float64,)}
    return x.ndim > 0 and other in pairs.get(x.dtype, ())


def gradient(x: Tensor, grad: Tensor, eps: float, inverse: Tensor | None = None) -> Tensor:
    """The gradient of x given that of its normalization, in operations that have derivatives; `inverse` where it is known."""
    inverse = _inverse(x, eps) if inverse is None else inverse
    grad, normalized = grad.to(inverse.dtype), x.to(inverse.dtype) * inverse
    along = (grad * normalized).mean(-1, keepdim=True)
    return (torch.addcmul(grad, normalized, along, value=-1) * inverse).to(x.dtype)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        inverse = _inverse(x, eps)
        return (x.to(inverse.dtype) * inverse).to(x.dtype), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        x, inverse = ctx.saved_tensors
        # A second derivative needs to see how the inverse came about.
        return gradient(x, grad, ctx.eps, None if torch.is_grad_enabled() else inverse), None


class _FusedNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        normalized, inverse = _compute(x, eps, dtype)
        ctx.eps = eps
        ctx.save_for_backward(x, inverse)
        return normalized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradient(x, grad, ctx.eps), None, None
        x, grad = x.contiguous(), grad.contiguous()
        found = torch.empty_like(x)
        kernel().residual_backward(
            BYTES[x.dtype], BYTES[grad.dtype], x.shape[:-1].numel(), x.shape[-1], address(x), 0,
            address(inverse), 0, address(grad), address(found), 0, *NOTHING.arguments(), threads(),
        )  # fmt: skip
        return found, None, None


def _compute(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The normalized x and the inverse root mean square, by the kernel."""
    x = x.detach().contiguous()
    normalized, inverse = torch.empty_like(x, dtype=dtype), torch.empty(x.shape[:-1], dtype=x.dtype)
    kernel().residual(
        BYTES[x.dtype], BYTES[dtype], x.shape[:-1].numel(), x.shape[-1], address(x), 0, 0, address(normalized),
        address(inverse), eps, *NOTHING.arguments(), threads(),
    )  # fmt: skip
    return normalized, inverse


def _inverse(x: Tensor, eps: float) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x ** 2) + eps)` over the last dimension (Zhang and Sennrich 2019), without a gain.

    The linear layer that follows can learn every gain itself; without one the backward pass reads half as much.

    Arguments:
        eps: added to the mean square, so that zeros stay zeros.

    >>> regard.nn.RMSNorm()(torch.tensor([3.0, 4.0]))
    tensor([0.8485, 1.1314])
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(..., dim), in and out, in the dtype of x or in another."""
        return normalize(x, self.eps, dtype)
