"""One state for a whole sequence: a learned query that reads it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from regard._packed import Packed
from regard.nn.attention import CrossAttention


class AttentionPool(nn.Module):
    """A learned query attends to every sequence, `attention(q, K, V) W_o`: packed, one query a sequence (Lee et al. 2019).

    `regard.nn.watch(pool)` collects its weights: how much each token counted. The query begins small, so that a new pool is
    about a mean over the tokens. A sequence of no tokens gives zeros.

    Arguments:
        dim: width of the tokens and of the result.
        heads: ways of looking; `dim` must be a multiple of it.

    Raises:
        ShapeError: `dim` is no multiple of `heads`.

    >>> pool = regard.nn.AttentionPool(32, heads=4)
    >>> pool(regard.Packed(torch.randn(7, 32), np.array([0, 3, 7]))).shape
    torch.Size([2, 32])
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(dim))
        self.attention = CrossAttention(dim, heads)

    def forward(self, x: Packed) -> Tensor:
        """`Packed` (total, dim) of N sequences to states (N, dim)."""
        queries = Packed(self.query.expand(len(x), -1), np.arange(len(x) + 1))
        found: Tensor = self.attention(queries, x).values
        return found
