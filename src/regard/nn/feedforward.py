"""The feed-forward half of a block, and dropout by random bytes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.nn.linear import Linear


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): `(silu(x W_g) * x W_u) W_d`, gate and value projected in one product.

    Arguments: `dim`, the width of the tokens; `hidden`, the width between.
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = Linear(dim, 2 * hidden, bias=bias)
        self.down = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Dropout(nn.Module):
    """Dropout whose share is a multiple of 1/256, chosen by one random byte an entry.

    On a CPU PyTorch draws a float for every entry, which took a tenth of a training step; bytes take a tenth of that.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share of the entries and scale the others, in training; nothing otherwise."""
        threshold = round(self.p * 256)
        if not self.training or threshold == 0:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = (words.view(torch.uint8)[: x.numel()] >= threshold).view(x.shape)
        return x * (kept * (256 / (256 - threshold))).to(x.dtype)
