"""`silu(gate) * up` of the two halves of one buffer, in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.nn._fused import BYTES, address, is_fused, kernel, threads


def gated(gate_up: Tensor) -> Tensor:
    """(..., 2 * hidden) -> (..., hidden)."""
    if not is_fused(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    if torch.is_grad_enabled() and gate_up.requires_grad:
        return _Gated.apply(gate_up)
    return _compute(gate_up)


def _compute(gate_up: Tensor) -> Tensor:
    gate_up = gate_up.detach().contiguous()
    *rows, width = gate_up.shape
    out = torch.empty((*rows, width // 2), dtype=gate_up.dtype)
    kernel().gate(
        BYTES[out.dtype], gate_up.shape[:-1].numel(), width // 2, address(gate_up), address(out), threads()
    )
    return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _compute(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative follows operations that have one
            gate, up = gate_up.chunk(2, dim=-1)
            share = torch.sigmoid(gate)
            silu = gate * share
            return torch.cat([grad * up * (share + silu * (1 - share)), grad * silu], dim=-1)
        gate_up, grad = gate_up.contiguous(), grad.contiguous()
        found = torch.empty_like(gate_up)
        size, rows = BYTES[found.dtype], grad.shape[:-1].numel()
        arrays = address(gate_up), 0, address(grad), address(found)
        kernel().gate_backward(size, rows, grad.shape[-1], *arrays, threads())
        return found
