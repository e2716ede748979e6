"""Tiles as tensors: rows gathered from the packed arrays, scores with everything applied to them, and what is selected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard._aux import checked_rows
from regard._dropout import keep_run
from regard._masks import Coordinates
from regard._plan import Plan
from regard.backends.torch.tiling import Chunks, Group, single_rows, tile

# G blocks, Q rows, K keys, H heads, J key heads, D head size


@dataclass(eq=False)
class Rows:
    """Which rows of a flat array a block or chunk takes: indices (G, L), and which of them are real."""

    index: Tensor
    valid: Tensor
    full: bool
    start: int
    stride: (
        int | None
    )  # the distance between blocks where it is constant: then a view serves instead of a copy

    @classmethod
    def of(cls, begin: np.ndarray, length: np.ndarray, device: torch.device) -> Rows:
        width = int(length.max(initial=0))
        offset = np.arange(width)
        valid = offset < length[:, None]
        full = bool((length == width).all())
        index = np.where(valid, begin[:, None] + offset, 0)
        steps = np.unique(np.diff(begin))
        stride = (
            width if len(begin) == 1 else (int(steps[0]) if len(steps) == 1 and steps[0] >= width else None)
        )
        bring = _bringer(device)
        return cls(bring(index), bring(valid), full, int(begin[0]), stride if full else None)

    def gather(self, flat: Tensor) -> Tensor:
        """(total, ...) -> (G, L, ...); rows that are not real hold some other row."""
        count, width = self.index.shape
        if self.stride is not None and self.start + count * self.stride <= flat.shape[0]:
            block = flat[self.start : self.start + count * self.stride]
            return block.unflatten(0, (count, self.stride))[:, :width]
        return flat.index_select(0, self.index.reshape(-1)).unflatten(0, (count, width))

    def put(self, flat: Tensor, rows: Tensor) -> None:
        """Write rows (G, L, ...) to their places in `flat`, leaving out those that are not real."""
        if self.full:
            flat.index_copy_(0, self.index.reshape(-1), rows.flatten(0, 1))
        else:
            flat.index_copy_(0, self.index[self.valid], rows[self.valid])

    def add(self, flat: Tensor, rows: Tensor) -> None:
        """Add rows (G, L, ...), zero where not real, to their places in `flat`."""
        flat.index_add_(0, self.index.reshape(-1), rows.flatten(0, 1))


@dataclass(eq=False)
class Tile:
    """One group's rows against one chunk of keys for its first blocks."""

    plan: Plan
    blocks: int
    keys: Rows
    at: Coordinates
    allowed: Tensor | None  # broadcastable to (G, H, Q, K); None when every pair may attend

    def kept(self, seed: int, precision: torch.dtype) -> Tensor:
        """Dropout's choice, scaled: 0 or 1 / (1 - p), (G, H, Q, K)."""
        p = self.plan.dropout_p
        chosen = keep_run(seed, self.at.sequence, self.at.head, self.at.position, self.at.key, p)
        return chosen.to(precision) / (1 - p)


@dataclass(eq=False)
class Block:
    """A group as tensors: its query rows and its tiles."""

    rows: Rows
    tiles: tuple[Tile, ...]


def blocks(plan: Plan, device: torch.device) -> Iterator[Block]:
    """The plan's groups as tensors on `device`, kept with the plan while they are small."""
    key = f"blocks on {device}"
    if key in plan.notes:
        yield from plan.notes[key]
        return
    groups = tile(plan)
    if len(groups) <= 4 and all(len(group.steps) == 1 for group in groups):
        # Kept tensors serve later calls, which may record gradients though this one does not.
        with torch.inference_mode(False):
            plan.notes[key] = [_block(plan, group, device) for group in groups]
        yield from plan.notes[key]
        return
    for group in groups:
        yield _block(plan, group, device)


def rows_block(plan: Plan, rows: Any, device: torch.device) -> Block:
    """Single query rows, by their flat numbers, each against all the keys of its sequence."""
    return _block(plan, single_rows(plan, checked_rows(rows, plan.total_queries)), device)


def _block(plan: Plan, group: Group, device: torch.device) -> Block:
    rows = Rows.of(group.begin, group.length, device)
    return Block(rows, tuple(_tile(plan, group, rows, chunks, device) for chunks in group.steps))


def _tile(plan: Plan, group: Group, rows: Rows, chunks: Chunks, device: torch.device) -> Tile:
    count = len(chunks.begin)
    keys = Rows.of(chunks.begin, chunks.length, device)
    bring = _bringer(device)
    down, along = np.arange(group.height)[:, None], np.arange(chunks.width)
    at = Coordinates(
        sequence=bring(group.sequence[:count, None, None, None]),
        head=bring(np.arange(plan.heads)[:, None, None]),
        row=bring(group.first[:count, None, None, None] + down),
        position=bring(group.position[:count, None, None, None] + down),
        key=bring(chunks.first[:, None, None, None] + along),
        query_token=rows.index[:count, None, :, None],
        key_token=keys.index[:, None, None, :],
        bring=bring,
    )
    real = None
    if not (rows.full and keys.full):
        real = rows.valid[:count, None, :, None] & keys.valid[:, None, None, :]
    allowed = real
    if plan.mask is not None:
        chosen = plan.mask.allows(at)
        allowed = chosen if real is None else real & chosen
    return Tile(plan, count, keys, at, allowed)


def _bringer(device: torch.device) -> Any:
    def bring(array: Any) -> Tensor:
        return torch.as_tensor(array, device=device)

    return bring


def by_head(rows: Tensor, heads: int) -> Tensor:
    """(G, L, H, D) -> (G * J, H / J * L, D) with J = `heads`: the query heads of one key head stand together."""
    count, length, all_heads, size = rows.shape
    split = rows.reshape(count, length, heads, all_heads // heads, size).permute(0, 2, 3, 1, 4)
    return split.reshape(count * heads, all_heads // heads * length, size)


def by_row(values: Tensor, count: int, heads: int, length: int) -> Tensor:
    """The inverse of `by_head`: (G * J, H / J * L, D) -> (G, L, H, D)."""
    size = values.shape[-1]
    split = values.reshape(count, heads, -1, length, size).permute(0, 3, 1, 2, 4)
    return split.reshape(count, length, -1, size)


def product(weights: Tensor, values: Tensor, allowed: Tensor | None, finite: bool) -> Tensor:
    """`weights @ values`, (B, L, M) by (B, M, D), in which pairs that are not allowed take no part.

    Weights are zero where not allowed, which is enough while the values are finite; where they are not, 0 * NaN must
    not arise, so the values' NaN and infinities are summed apart, over the allowed pairs alone.
    """
    if finite:
        return torch.bmm(weights, values)
    ordinary = torch.isfinite(values)
    total = torch.bmm(weights.masked_fill(~torch.isfinite(weights), 0), values.masked_fill(~ordinary, 0))
    pairs = torch.ones_like(weights) if allowed is None else allowed.to(weights.dtype)
    rising, falling = (weights > 0).to(weights.dtype) * pairs, (weights < 0).to(weights.dtype) * pairs
    up = (values == torch.inf).to(weights.dtype)
    down = (values == -torch.inf).to(weights.dtype)
    positive = (torch.bmm(rising, up) + torch.bmm(falling, down)) > 0
    negative = (torch.bmm(rising, down) + torch.bmm(falling, up)) > 0
    wrong = pairs * (~torch.isfinite(weights)).to(weights.dtype)
    undefined = torch.bmm(pairs, torch.isnan(values).to(weights.dtype)) > 0
    undefined = undefined | (wrong.sum(-1, keepdim=True) > 0) | (positive & negative)
    total = torch.where(positive, torch.inf, torch.where(negative, -torch.inf, total))
    return torch.where(undefined, torch.nan, total)
