"""A plan cut into tiles: blocks of query rows against chunks of the keys they may see. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard._plan import Plan, Spans

QUERY_BLOCK = 256
KEY_CHUNK = 512
SCORES_PER_GROUP = 1 << 19  # scores alive at once, all heads: 2 MiB in float32
PADDING_ALLOWED = 1.25  # computed over kept scores, before a new group is worth its calls


@dataclass(frozen=True, eq=False)
class Chunks:
    """One chunk of keys for each of the first `len(begin)` blocks of a group, `width` keys wide at most."""

    begin: np.ndarray  # flat key row of the chunk's first key
    first: np.ndarray  # index of that key in its sequence
    length: np.ndarray

    @property
    def width(self) -> int:
        return int(self.length.max(initial=0))


@dataclass(frozen=True, eq=False)
class Group:
    """Blocks of query rows of similar shape, computed together; steps[s] holds the s-th key chunk of those that have one."""

    sequence: np.ndarray
    begin: np.ndarray  # flat query row of the block's first row
    first: np.ndarray  # index of that row in its sequence
    position: np.ndarray  # position of that row
    length: np.ndarray
    steps: tuple[Chunks, ...]

    @property
    def height(self) -> int:
        return int(self.length.max(initial=0))


@dataclass(frozen=True, eq=False)
class _Blocks:
    sequence: np.ndarray
    first: np.ndarray
    length: np.ndarray


def tile(plan: Plan) -> tuple[Group, ...]:
    """Cut the plan; blocks that see no key are left out. Memory is O(T + S); no pair is evaluated."""
    if "tiles" not in plan.notes:
        plan.notes["tiles"] = _tile(plan)
    return plan.notes["tiles"]


def single_rows(plan: Plan, rows: np.ndarray) -> Group:
    """Query rows chosen by their flat numbers, each against all keys of its sequence at once."""
    spans = plan.spans
    order = np.argsort(spans.q_begin + spans.q_length, kind="stable")
    ends = (spans.q_begin + spans.q_length)[order]
    sequence = order[np.minimum(np.searchsorted(ends, rows, side="right"), len(ends) - 1)]
    first = rows - spans.q_begin[sequence]
    inside = (first >= 0) & (first < spans.q_length[sequence])
    length = np.where(inside, spans.k_length[sequence], 0)
    keys = Chunks(spans.k_begin[sequence], np.zeros_like(rows), length)
    return Group(sequence, rows, first, spans.query_start[sequence] + first, np.ones_like(rows), (keys,))


def _tile(plan: Plan) -> tuple[Group, ...]:
    blocks = _query_blocks(plan.spans)
    chunk_block, chunk_first, chunk_length = _key_chunks(plan, blocks)
    counts = np.bincount(chunk_block, minlength=len(blocks.sequence))
    chunk_start = np.concatenate([[0], np.cumsum(counts)])
    widest = np.zeros(len(counts), np.int64)
    np.maximum.at(widest, chunk_block, chunk_length)
    order = np.lexsort((blocks.length, widest, -counts))
    order = order[counts[order] > 0]
    groups = []
    for members in _similar(order, blocks.length, widest, plan.heads):
        steps = []
        for step in range(int(counts[members[0]])):
            having = members[counts[members] > step]
            chunk = chunk_start[having] + step
            begin = plan.spans.k_begin[blocks.sequence[having]] + chunk_first[chunk]
            steps.append(Chunks(begin, chunk_first[chunk], chunk_length[chunk]))
        sequence, first = blocks.sequence[members], blocks.first[members]
        begin, position = plan.spans.q_begin[sequence] + first, plan.spans.query_start[sequence] + first
        groups.append(Group(sequence, begin, first, position, blocks.length[members], tuple(steps)))
    return tuple(groups)


def _query_blocks(spans: Spans) -> _Blocks:
    sequence, within = _cut(spans.q_length, QUERY_BLOCK)
    first = within * QUERY_BLOCK
    return _Blocks(sequence, first, np.minimum(spans.q_length[sequence] - first, QUERY_BLOCK))


def _key_chunks(plan: Plan, blocks: _Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every chunk: its block, first key and length; chunks stand in the order of their blocks."""
    owner, starts, ends = _key_ranges(plan, blocks)
    piece, within = _cut(ends - starts, KEY_CHUNK)
    first = starts[piece] + within * KEY_CHUNK
    return owner[piece], first, np.minimum(ends[piece] - first, KEY_CHUNK)


def _key_ranges(plan: Plan, blocks: _Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint key ranges that cover what each block may see: owner block, start, end."""
    if plan.mask is None:
        everything = plan.spans.k_length[blocks.sequence]
        return np.arange(len(everything)), np.zeros_like(everything), everything
    position = plan.spans.query_start[blocks.sequence] + blocks.first
    cover = plan.mask.cover(plan.spans)
    starts, ends = cover.hulls(plan.spans, blocks.sequence, position, position + blocks.length - 1)
    # Dropout draws its numbers for runs of four keys.
    return _disjoint(starts.astype(np.int64) & ~3, ends.astype(np.int64))


def _disjoint(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the K ranges of each row (B, K) where they touch: owner row, start, end of what remains."""
    starts = np.where(starts < ends, starts, np.iinfo(np.int64).max)
    order = np.argsort(starts, axis=1, kind="stable")
    starts, ends = np.take_along_axis(starts, order, 1), np.take_along_axis(ends, order, 1)
    filled = starts < np.iinfo(np.int64).max
    reach = np.maximum.accumulate(np.where(filled, ends, 0), axis=1)
    opens = filled.copy()
    opens[:, 1:] &= starts[:, 1:] > reach[:, :-1]
    closes = filled.copy()
    closes[:, :-1] &= opens[:, 1:] | ~filled[:, 1:]
    return np.nonzero(opens)[0], starts[opens], reach[closes]


def _cut(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut every length into pieces of `size`: the number of the length, and of the piece in it."""
    pieces = -(-np.maximum(lengths, 0) // size)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)


def _similar(order: np.ndarray, height: np.ndarray, width: np.ndarray, heads: int) -> list[np.ndarray]:
    """Cut the ordered blocks into groups that pad little and whose scores fit the budget."""
    groups, start = [], 0
    while start < len(order):
        rest = order[start:]
        tallest, widest = np.maximum.accumulate(height[rest]), np.maximum.accumulate(width[rest])
        number = np.arange(1, len(rest) + 1)
        computed = number * tallest * widest
        kept = np.cumsum(height[rest] * width[rest])
        # Small tiles cost calls, not arithmetic: up to some size padding is cheaper than a group more.
        fits = (computed * heads <= SCORES_PER_GROUP) & (
            computed <= np.maximum(PADDING_ALLOWED * kept, 1 << 16)
        )
        size = max(1, int(np.argmin(fits)) if not fits.all() else len(rest))
        groups.append(rest[:size])
        start += size
    return groups
