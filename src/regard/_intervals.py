"""Masks as key intervals: boxes given by formulas, and the intervals of each query row.

Shapes: N sequences, B blocks of consecutive query rows, R query rows, K intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Intervals = tuple[NDArray[np.int32], NDArray[np.int32]]
Bound = int | Integers

# Stands for infinity. Sums of two of them still fit an int64.
FAR = 1 << 40

# A product of unions with more boxes than this is no longer a short list: rows or bits serve better.
_MANY_BOXES = 512


class Spans(Protocol):
    """N sequences of queries and the keys that each reads: integer arrays (N,). `regard._plan.Spans` is one."""

    @property
    def q_begin(self) -> NDArray[Any]: ...
    @property
    def q_length(self) -> NDArray[Any]: ...
    @property
    def k_begin(self) -> NDArray[Any]: ...
    @property
    def k_length(self) -> NDArray[Any]: ...
    @property
    def query_start(self) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Box:
    """The pairs with `position_low <= position < position_high` and
    `max(key_low, position + low_shift) <= key < min(key_high, position + high_shift)`.

    Each bound is an int, or an int64 array (N,) with one number per sequence; `-FAR` and `FAR` leave it open.
    """

    position_low: Bound = -FAR
    position_high: Bound = FAR
    key_low: Bound = -FAR
    key_high: Bound = FAR
    low_shift: Bound = -FAR
    high_shift: Bound = FAR

    def intersect(self, other: Box) -> Box:
        bounds = {}
        for name in _BOUNDS:
            tighter = np.minimum if "high" in name else np.maximum
            bounds[name] = tighter(getattr(self, name), getattr(other, name))
        return Box(**bounds)

    def complement(self) -> tuple[Box, ...]:
        """Boxes whose union holds exactly the pairs outside this one; bounds that are open give none."""
        outside = (
            Box(position_high=self.position_low),
            Box(position_low=self.position_high),
            Box(key_high=self.key_low),
            Box(key_low=self.key_high),
            Box(high_shift=self.low_shift),
            Box(low_shift=self.high_shift),
        )
        return tuple(box for box in outside if not box.is_empty())

    def is_empty(self) -> bool:
        """True when no pair of any sequence can be inside (False does not promise one)."""
        empty = (
            (np.asarray(self.position_low) >= self.position_high)
            | (np.asarray(self.key_low) >= self.key_high)
            | (np.asarray(self.low_shift) >= self.high_shift)
            | (np.asarray(self.position_low) + self.low_shift >= self.key_high)
            | (np.asarray(self.position_high) - 1 + self.high_shift <= self.key_low)
        )
        return bool(np.all(empty))

    def hull(self, sequence: Integers, first: Integers, last: Integers) -> tuple[Integers, Integers]:
        """The keys (start, end) that positions `first..last` (inclusive) of `sequence` may see in this box."""
        first = np.maximum(first, _of(self.position_low, sequence))
        last = np.minimum(last, _of(self.position_high, sequence) - 1)
        start = np.maximum(_of(self.key_low, sequence), first + _of(self.low_shift, sequence))
        end = np.minimum(_of(self.key_high, sequence), last + _of(self.high_shift, sequence))
        return start, np.where(first <= last, end, start)


_BOUNDS = tuple(field.name for field in fields(Box))


@dataclass(frozen=True, eq=False)
class Boxes:
    """The pairs inside any of `boxes` whose `position - key` is a multiple of `step`."""

    boxes: tuple[Box, ...]
    step: int = 1

    def intersect(self, other: Boxes) -> Boxes | None:
        """The pairs in both, or None when that takes too many boxes."""
        if len(self.boxes) * len(other.boxes) > _MANY_BOXES**2:
            return None
        both = (a.intersect(b) for a in self.boxes for b in other.boxes)
        kept = tuple(box for box in both if not box.is_empty())
        return Boxes(kept, math.lcm(self.step, other.step)) if len(kept) <= _MANY_BOXES else None

    def union(self, other: Boxes) -> Boxes | None:
        """The pairs in either, or None when the steps differ."""
        return Boxes(self.boxes + other.boxes, self.step) if self.step == other.step else None

    def complement(self) -> Boxes | None:
        """The pairs in none, by De Morgan, or None with a step or when that takes too many boxes."""
        if self.step != 1:
            return None
        outside = EVERYTHING
        for box in self.boxes:
            fewer = outside.intersect(Boxes(box.complement()))
            if fewer is None:
                return None
            outside = fewer
        return outside

    def hulls(
        self,
        spans: Spans,
        sequence: NDArray[np.integer],
        first_position: NDArray[np.integer],
        last_position: NDArray[np.integer],
        key_length: NDArray[np.integer] | None = None,
    ) -> Intervals:
        """For each block of query rows, a range of keys per box that holds every key the block may see.

        Block b has the positions `first_position[b]..last_position[b]` (inclusive) of sequence `sequence[b]`; `key_length`
        (default: the spans') clips the ranges. Returns starts and ends, both (B, K) int32; `start >= end` never
        occurs but as `start == end == 0`, where the box has nothing for the block.
        """
        sequence, first, last = _wide(sequence), _wide(first_position), _wide(last_position)
        length = _wide(spans.k_length)[sequence] if key_length is None else _wide(key_length)
        starts = np.zeros((len(sequence), len(self.boxes)), np.int32)
        ends = np.zeros_like(starts)
        for column, box in enumerate(self.boxes):
            start, end = box.hull(sequence, first, last)
            start, end = np.maximum(start, 0), np.minimum(end, length)
            some = start < end
            starts[:, column] = np.where(some, start, 0)
            ends[:, column] = np.where(some, end, 0)
        return starts, ends

    def rows(self, spans: Spans, sequence: NDArray[np.integer], row: NDArray[np.integer]) -> Intervals:
        """Disjoint, ascending key intervals of query rows `row` (R,) of sequences `sequence` (R,).

        Returns starts and ends, (R, K) int32, padded by empty intervals 0, 0 on the right. With a step, the keys are
        `start, start + step, ...` below `end`.
        """
        position = _wide(spans.query_start)[_wide(sequence)] + _wide(row)
        starts, ends = self.hulls(spans, sequence, position, position)
        return merge_rows(starts, ends, position, self.step)


EVERYTHING = Boxes((Box(),))


def merge_rows(
    starts: NDArray[np.integer], ends: NDArray[np.integer], position: NDArray[np.integer], step: int = 1
) -> Intervals:
    """Sorts intervals (R, K) and joins those that overlap or touch, keeping keys with `position - key` divisible by `step`."""
    phase = (_wide(position) % step)[:, None]
    # In units of steps the keys of a row are consecutive.
    starts, ends = -((phase - starts) // step), -((phase - ends) // step)
    ends = np.where(starts < ends, ends, FAR)
    starts = np.where(ends < FAR, starts, FAR)
    order = np.argsort(starts, axis=1, kind="stable")
    starts, ends = np.take_along_axis(starts, order, 1), np.take_along_axis(ends, order, 1)
    reach = np.maximum.accumulate(ends, axis=1)
    opens = starts < FAR
    opens[:, 1:] &= starts[:, 1:] > reach[:, :-1]
    closes = starts < FAR
    closes[:, :-1] &= starts[:, 1:] > reach[:, :-1]
    rank = np.cumsum(opens, axis=1) - 1
    width = int(rank.max(initial=-1)) + 1
    joined_starts = np.zeros((len(starts), width), np.int32)
    joined_ends = np.zeros_like(joined_starts)
    row, column = np.nonzero(opens)
    joined_starts[row, rank[row, column]] = starts[row, column] * step + phase[row, 0]
    row, column = np.nonzero(closes)
    joined_ends[row, rank[row, column]] = (reach[row, column] - 1) * step + phase[row, 0] + 1
    return joined_starts, joined_ends


def intersect_rows(a: Intervals, b: Intervals, position: NDArray[np.integer], step: int = 1) -> Intervals:
    """The keys in both of two interval lists of the same rows, (R, K) and (R, L)."""
    starts = np.maximum(a[0][:, :, None], b[0][:, None, :])
    ends = np.minimum(a[1][:, :, None], b[1][:, None, :])
    rows, width = len(starts), starts.shape[1] * starts.shape[2]
    return merge_rows(starts.reshape(rows, width), ends.reshape(rows, width), position, step)


def complement_rows(
    rows: Intervals, key_length: NDArray[np.integer], position: NDArray[np.integer]
) -> Intervals:
    """The keys below `key_length` (R,) that disjoint, ascending unit-step intervals (R, K) leave out."""
    starts, ends = rows
    column = np.asarray(key_length, np.int32)[:, None]
    # Empty intervals stand at the right end; moving them to the length leaves nothing behind them.
    empty = starts >= ends
    gap_ends = np.concatenate([np.where(empty, column, starts), column], axis=1)
    gap_starts = np.concatenate([np.zeros_like(column), np.where(empty, column, ends)], axis=1)
    return merge_rows(gap_starts, gap_ends, position)


def no_rows(count: int) -> Intervals:
    """Interval lists of `count` rows that see nothing."""
    return np.zeros((count, 0), np.int32), np.zeros((count, 0), np.int32)


def count_keys(rows: Intervals, step: int = 1) -> int:
    """How many (row, key) pairs disjoint intervals hold."""
    width = _wide(rows[1]) - rows[0]
    return int(np.sum(-(-width // step)))


def _wide(numbers: NDArray[np.integer]) -> Integers:
    return np.asarray(numbers, np.int64)


def _of(bound: Bound, sequence: Integers) -> Integers:
    bound = np.asarray(bound, np.int64)
    return bound[sequence] if bound.ndim else bound
