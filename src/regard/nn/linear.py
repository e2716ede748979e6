"""Linear layers: on a CPU by the kernel's products where those are quicker than PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regard.nn._fused import is_fused
from regard.nn._products import new_product

# Without the kernel: PyTorch compiles a bfloat16 product anew for every shape on a CPU, which takes as long as the product itself, and every packed
# batch has another number of tokens. Whole blocks of rows have few shapes; the rows that remain are computed within the last block.
BLOCK = 128

# Below, packing the weights costs more than the quicker product saves: rows and numbers of a weight.
FEW_ROWS, SMALL_WEIGHT = 128, 1 << 13


class Linear(nn.Linear):
    """`x W^T + b`, with the arguments of `torch.nn.Linear`; in training on a CPU by the kernel, as under bfloat16 autocast.

    Without the kernel bfloat16 goes by blocks of rows.

    >>> regard.nn.Linear(4, 3)(torch.randn(2, 5, 4)).shape
    torch.Size([2, 5, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if x.device.type != "cpu" or not in_bfloat16():
            if self.bias is None and _is_quicker(x, self.weight):
                return _KernelLinear.apply(x, self.weight, False)
            return F.linear(x, self.weight, self.bias)
        if x.dtype != torch.float64 and is_fused(x, self.weight):
            out = _KernelLinear.apply(x, self.weight, True)
        else:
            out = _BlockedLinear.apply(x, self.weight)
        return out if self.bias is None else out + self.bias.to(out.dtype)


def in_bfloat16() -> bool:
    """Whether autocast asks for bfloat16 on the CPU."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; where it has none, PyTorch's take many times as long as float32's."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


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


def _is_quicker(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel is worth calling for a product in float32 and its gradients."""
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return False
    if (
        x.numel() < FEW_ROWS * weight.shape[1]
        or weight.numel() < SMALL_WEIGHT
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    return x.dtype == weight.dtype == torch.float32 and is_fused(x, weight)


class _KernelLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, narrow: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.narrow = narrow
        out = new_product(_rows(x), weight.mT, torch.bfloat16 if narrow else x.dtype, rounds=narrow)
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows, flat = _rows(x), _rows(grad)
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_x = grad_weight = None
        if torch.is_grad_enabled():  # a second derivative follows operations that have one
            with torch.autocast("cpu", enabled=False):
                wide = flat.to(weight.dtype)
                return (wide @ weight).to(x.dtype).view(x.shape), wide.mT @ rows.to(weight.dtype), None
        if wants_x:
            grad_x = new_product(flat, weight, x.dtype, rounds=ctx.narrow).view(x.shape)
        if wants_weight:
            grad_weight = new_product(flat.mT, rows, weight.dtype, rounds=ctx.narrow)
        return grad_x, grad_weight, None


def _rows(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


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
