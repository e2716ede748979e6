"""Root-mean-square normalization without a gain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
        if torch.is_grad_enabled():  # a second derivative needs to see how the inverse came about
            inverse = _inverse(x, ctx.eps)
        grad, normalized = grad.to(inverse.dtype), x.to(inverse.dtype) * inverse
        along = (grad * normalized).mean(-1, keepdim=True)
        return (torch.addcmul(grad, normalized, along, value=-1) * inverse).to(x.dtype), None


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

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim), in and out, in the dtype of x."""
        if torch.is_grad_enabled():
            return _Normalize.apply(x, self.eps)[0]
        return _Normalize.forward(x, self.eps)[0]


class JointRMSNorm(RMSNorm):
    """`RMSNorm` over all heads of a token together, so that a head may be sharper than another.

    >>> from regard.nn.norm import JointRMSNorm
    >>> JointRMSNorm()(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor([[1.2000, 0.0000],
            [0.0000, 1.6000]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., heads, head_dim), in and out, in the dtype of x."""
        return super().forward(x.flatten(-2)).view_as(x)
