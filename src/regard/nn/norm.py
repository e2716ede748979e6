"""Root-mean-square normalisation without a gain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        wide = x.float() if x.dtype != torch.float64 else x
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.rsqrt(size.square() / x.shape[-1] + eps)
        return (wide * inverse).to(x.dtype), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        normalised, inverse = output
        ctx.mark_non_differentiable(inverse)
        ctx.save_for_backward(normalised, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        normalised, inverse = ctx.saved_tensors
        grad = grad.to(inverse.dtype)
        along = (grad * normalised).mean(-1, keepdim=True)
        return torch.addcmul(grad, normalised.to(inverse.dtype), along, value=-1).mul(inverse).to(normalised.dtype), None


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x ** 2) + eps)` over the last dimension (Zhang and Sennrich 2019), without a gain.

    The linear layer that follows can learn every gain itself; without one the backward pass reads half as much.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim), in and out, in the dtype of x."""
        return _Normalise.apply(x, self.eps)[0]
