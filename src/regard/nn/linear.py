"""Linear layers whose bfloat16 products on a CPU do not depend on the number of tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# PyTorch compiles a bfloat16 product anew for every shape on a CPU, which takes as long as the product itself, and every packed
# batch has another number of tokens. Whole blocks of rows have few shapes; the rows that remain are computed within the last block.
BLOCK = 128


class Linear(nn.Linear):
    """`x W^T + b`, with the arguments of `torch.nn.Linear`; under bfloat16 autocast on a CPU by blocks of rows.

    >>> regard.nn.Linear(4, 3)(torch.randn(2, 5, 4)).shape
    torch.Size([2, 5, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if x.device.type != "cpu" or not in_bfloat16():
            return F.linear(x, self.weight, self.bias)
        out = _BlockedLinear.apply(x, self.weight)
        return out if self.bias is None else out + self.bias.to(out.dtype)


def in_bfloat16() -> bool:
    """Whether autocast asks for bfloat16 on the CPU."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def dtype_of_products(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer reads x: what is written in it needs no cast."""
    narrow = x.dtype == torch.float32 and x.device.type == "cpu" and in_bfloat16()
    return torch.bfloat16 if narrow else x.dtype


def blocked_product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in bfloat16 for (M, K) and (K, N); rows that fill no block are computed with those before them."""
    whole = len(a) // BLOCK * BLOCK
    if not whole:
        return (a.float() @ b.float()).to(torch.bfloat16)
    out = torch.empty(len(a), b.shape[1], dtype=torch.bfloat16)
    torch.mm(a[:whole], b, out=out[:whole])
    if whole < len(a):
        torch.mm(a[-BLOCK:], b, out=out[-BLOCK:])
    return out


def blocked_outer(a: Tensor, b: Tensor) -> Tensor:
    """`a.T @ b` in float32 for bfloat16 (M, K) and (M, N); rows that fill no block are added with zeros before them."""
    whole = len(a) // BLOCK * BLOCK
    if not whole:
        return a.float().mT @ b.float()
    out = (a[:whole].mT @ b[:whole]).float()
    if whole < len(a):
        last = a[-BLOCK:].clone()
        last[: BLOCK - (len(a) - whole)] = 0
        out += last.mT @ b[-BLOCK:]
    return out


class _BlockedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            rows, table = x.reshape(-1, x.shape[-1]).to(torch.bfloat16), weight.to(torch.bfloat16)
            out = blocked_product(rows, table.mT)
        ctx.save_for_backward(rows, table)
        ctx.x_dtype, ctx.weight_dtype = x.dtype, weight.dtype
        return out.unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, table = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1]).to(torch.bfloat16)
        grad_x = blocked_product(flat, table).to(ctx.x_dtype)
        return grad_x.unflatten(0, grad.shape[:-1]), blocked_outer(flat, rows).to(ctx.weight_dtype)
