"""The biases of the bias items: ours as values, the peer's as an N x N array in PyTorch's operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import regard
from cpu_attention.items import Item

MAX_DISTANCE = 128


def ours_bias(item: Item) -> Callable[..., Any]:
    """What makes our bias of the inputs behind query, key and value."""
    if item.bias == "relative":
        return lambda table: regard.RelativeBias(
            table, bidirectional=not item.causal, max_distance=MAX_DISTANCE
        )
    fixed = regard.Alibi(_slopes(item.heads)) if item.bias == "alibi" else None
    return lambda: fixed


def peer_bias(item: Item) -> Callable[..., Tensor]:
    """What makes the peer's bias (1, H, N, N), causality included, of the inputs behind query, key and value."""
    distance = distances(item.lengths[0])
    hidden = torch.zeros(()).masked_fill(distance < 0, -math.inf) if item.causal else None
    if item.bias == "relative":
        buckets = t5_buckets(distance, not item.causal)

        def relative(table: Tensor) -> Tensor:
            bias = torch.nn.functional.embedding(buckets, table).permute(2, 0, 1)[None]
            return bias if hidden is None else bias + hidden

        return relative
    bias = -_slopes(item.heads)[:, None, None] * distance.abs()
    fixed = (bias if hidden is None else bias + hidden)[None]
    return lambda: fixed


def distances(length: int) -> Tensor:
    """(N, N): how far each key lies behind each query."""
    positions = torch.arange(length)
    return positions[:, None] - positions


def t5_buckets(distance: Tensor, bidirectional: bool, buckets: int = 32) -> Tensor:
    """The rows of the table, as T5 counts them (Raffel et al. 2020)."""
    side = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        side = (distance < 0) * buckets
        distance = distance.abs()
    distance = distance.clamp(min=0)
    narrow = buckets // 2
    ratio = torch.log(distance.clamp(min=1) / narrow) / math.log(MAX_DISTANCE / narrow)
    wide = (narrow + (ratio * (buckets - narrow)).long()).clamp(max=buckets - 1)
    return side + torch.where(distance < narrow, distance, wide)


def _slopes(heads: int) -> Tensor:
    return 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
