"""Rotary positions as a layer: one table, turned once a forward pass and shared by all layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard._arrays import is_traced
from regard._errors import ShapeError
from regard._positions import rotary_table


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), adjacent pairs of a head turned by position-dependent angles.

    Pair i turns by `position * base ** (-2 * i / head_dim)`. `rotary(positions)` gives the turns (..., 1, head_dim / 2),
    complex, that `turn` applies to queries and keys (..., H, head_dim).

    Arguments:
        head_dim: size of one head, even.
        base: how slowly the last pair turns.

    Raises:
        ShapeError: `head_dim` is odd.

    >>> turns = regard.nn.Rotary(8)(torch.arange(5))
    >>> regard.nn.rotary.turn(torch.randn(5, 2, 8), turns).shape
    torch.Size([5, 2, 8])
    """

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ShapeError(
                f"rotary positions turn pairs, so the head size must be even. Received {head_dim}."
            )
        self.head_dim, self.base = head_dim, base
        # No buffer: casting a model to another dtype would make its complex numbers real.
        self._turns = self._table(64)

    def forward(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The turns of integer positions (...), on their device, for heads of a dtype."""
        if is_traced(positions):
            return self._computed(positions).unsqueeze(-2).to(_precision(dtype))
        needed = int(positions.max()) + 1 if positions.numel() else 1
        if needed > len(self._turns):
            self._turns = self._table(2 * needed)
        if self._turns.device != positions.device:
            self._turns = self._turns.to(positions.device)
        return self._turns[positions].unsqueeze(-2).to(_precision(dtype))

    def _computed(self, positions: Tensor) -> Tensor:
        """The turns by their formula: a table's length would depend on the positions."""
        pair = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float64)
        angles = positions.unsqueeze(-1) * self.base ** (-pair / self.head_dim)
        return torch.complex(angles.cos(), angles.sin())

    def _table(self, length: int) -> Tensor:
        cosine, sine = rotary_table(length, self.head_dim, self.base)
        return torch.complex(torch.as_tensor(cosine), torch.as_tensor(sine))


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Apply turns (..., 1, D / 2) to x (..., H, D), in float32, or float64 for float64; the result keeps the dtype of x."""
    wide = x if x.dtype == torch.float64 else x.float()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.to(_precision(x.dtype))).flatten(-2).to(x.dtype)


def _precision(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64
