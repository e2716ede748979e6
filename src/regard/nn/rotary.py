"""Rotary positions as a layer: one table, turned once a forward pass and shared by all layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard._positions import rotary_table


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), adjacent pairs of a head turned by position-dependent angles.

    `rotary(positions)` gives the turns (..., 1, head_dim / 2), complex, that `turn` applies to (..., H, head_dim).
    """

    table: Tensor

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base
        self.register_buffer("table", self._table(64), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        needed = int(positions.max()) + 1 if positions.numel() else 1
        if needed > len(self.table):
            self.table = self._table(2 * needed).to(self.table.device)
        return self.table[positions].unsqueeze(-2)

    def _table(self, length: int) -> Tensor:
        cosine, sine = rotary_table(length, self.head_dim, self.base)
        return torch.complex(torch.as_tensor(cosine).float(), torch.as_tensor(sine).float())


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Apply turns (..., 1, D / 2) to x (..., H, D); the result keeps the dtype of x."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
