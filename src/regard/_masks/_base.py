"""What every mask is, and how masks combine by `&`, `|` and `~`.

Shapes: coordinates broadcast to (G, H, Q, K): sequences, heads, queries, keys. R query rows, K intervals of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard import _intervals
from regard._arrays import host_array
from regard._errors import RegardError
from regard._intervals import EVERYTHING, Boxes, Integers, Spans
from regard._masks import _arrays

RowIntervals = tuple[NDArray[np.int32], NDArray[np.int32], int]

# Pairs whose predicate is evaluated at once where a mask has no formula, and rows whose intervals are held at once.
_CHUNK = 1 << 22
_ROWS = 1 << 16


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Integer arrays of one framework that broadcast together to (G, H, Q, K)."""

    sequence: Any  # number of the sequence
    head: Any  # query head
    row: Any  # index of the query in its sequence
    position: Any  # position of the query: query_start + row
    key: Any  # index, and so position, of the key in its sequence
    query_token: Any  # row of the query in the flat array
    key_token: Any  # row of the key in the flat array
    bring: Callable[[Any], Any]  # turns a NumPy or framework array into one of the coordinates' own kind


class Mask:
    """Base of all masks. True means "may attend"; combine masks with `&`, `|` and `~`.

    Masks are immutable and equal when they hold equal values. A mask has no truth value: `and`, `or`, `not` raise RegardError.
    """

    def allows(self, at: Coordinates) -> Any:
        """A boolean array, broadcastable to (G, H, Q, K), by operators that every framework has."""
        raise NotImplementedError

    def boxes(self, spans: Spans) -> Boxes | None:
        """The mask as a union of boxes, or None where no formula gives one."""
        return None

    def cover(self, spans: Spans) -> Boxes:
        """Boxes that hold every allowed pair, and perhaps others."""
        boxes = self.boxes(spans)
        return EVERYTHING if boxes is None else boxes

    def intervals(self, spans: Spans, sequence: Integers, row: Integers, head: int = 0) -> RowIntervals:
        """Disjoint, ascending key intervals of the query rows `row` (R,) in `sequence` (R,): starts, ends (R, K), step."""
        boxes = self.boxes(spans)
        if boxes is None:
            return self._row_intervals(spans, sequence, row, head)
        return *boxes.rows(spans, sequence, row), boxes.step

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        """Raises `ShapeError` where the mask's arrays do not fit the call."""

    def depends_on_head(self) -> bool:
        """Whether heads differ in what they may see."""
        return False

    def _row_intervals(self, spans: Spans, sequence: Integers, row: Integers, head: int) -> RowIntervals:
        return *_runs(self, spans, sequence, row, head), 1

    def _identity(self) -> tuple[Any, ...]:
        return (type(self), *(_arrays.fingerprint(value) for value in vars(self).values()))

    def __and__(self, other: Mask) -> Mask:
        return And(self, other) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: Mask) -> Mask:
        return Or(self, other) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> Mask:
        return Not(self)

    def __bool__(self) -> bool:
        raise RegardError(
            "a mask has no truth value, so `and`, `or` and `not` cannot combine masks; use `&`, `|` and `~`, "
            "and `mask is None` to ask whether there is one"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        inside = (f"{name}={_arrays.show(value)}" for name, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({', '.join(inside)})"


@dataclass(frozen=True, eq=False, repr=False)
class _Pair(Mask):
    first: Mask
    second: Mask

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        self.first.check(spans, total_queries, total_keys, heads)
        self.second.check(spans, total_queries, total_keys, heads)

    def depends_on_head(self) -> bool:
        return self.first.depends_on_head() or self.second.depends_on_head()


@dataclass(frozen=True, eq=False, repr=False)
class And(_Pair):
    """Pairs that both masks allow."""

    def allows(self, at: Coordinates) -> Any:
        return self.first.allows(at) & self.second.allows(at)

    def boxes(self, spans: Spans) -> Boxes | None:
        first, second = self.first.boxes(spans), self.second.boxes(spans)
        return None if first is None or second is None else first.intersect(second)

    def cover(self, spans: Spans) -> Boxes:
        first, second = self.first.cover(spans), self.second.cover(spans)
        return first.intersect(second) or first

    def _row_intervals(self, spans: Spans, sequence: Integers, row: Integers, head: int) -> RowIntervals:
        starts, ends, step = self.first.intervals(spans, sequence, row, head)
        others, other_ends, other_step = self.second.intervals(spans, sequence, row, head)
        step, position = math.lcm(step, other_step), _positions(spans, sequence, row)
        return *_intervals.intersect_rows((starts, ends), (others, other_ends), position, step), step

    def __repr__(self) -> str:
        return f"({self.first!r} & {self.second!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Or(_Pair):
    """Pairs that at least one of two masks allows."""

    def allows(self, at: Coordinates) -> Any:
        return self.first.allows(at) | self.second.allows(at)

    def boxes(self, spans: Spans) -> Boxes | None:
        first, second = self.first.boxes(spans), self.second.boxes(spans)
        return None if first is None or second is None else first.union(second)

    def cover(self, spans: Spans) -> Boxes:
        first, second = self.first.cover(spans), self.second.cover(spans)
        return Boxes(first.boxes + second.boxes, math.gcd(first.step, second.step))

    def _row_intervals(self, spans: Spans, sequence: Integers, row: Integers, head: int) -> RowIntervals:
        *first, step = self.first.intervals(spans, sequence, row, head)
        *second, other = self.second.intervals(spans, sequence, row, head)
        if step != other:
            return super()._row_intervals(spans, sequence, row, head)
        starts, ends = (np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
        return *_intervals.merge_rows(starts, ends, _positions(spans, sequence, row), step), step

    def __repr__(self) -> str:
        return f"({self.first!r} | {self.second!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Not(Mask):
    """Pairs that a mask does not allow."""

    mask: Mask

    def allows(self, at: Coordinates) -> Any:
        return ~self.mask.allows(at)

    def boxes(self, spans: Spans) -> Boxes | None:
        boxes = self.mask.boxes(spans)
        return None if boxes is None else boxes.complement()

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        self.mask.check(spans, total_queries, total_keys, heads)

    def depends_on_head(self) -> bool:
        return self.mask.depends_on_head()

    def _row_intervals(self, spans: Spans, sequence: Integers, row: Integers, head: int) -> RowIntervals:
        starts, ends, step = self.mask.intervals(spans, sequence, row, head)
        if step != 1:
            return super()._row_intervals(spans, sequence, row, head)
        length = np.asarray(spans.k_length)[sequence]
        return *_intervals.complement_rows((starts, ends), length, _positions(spans, sequence, row)), 1

    def __invert__(self) -> Mask:
        return self.mask

    def __repr__(self) -> str:
        return f"~{self.mask!r}"


def count_pairs(mask: Mask | None, spans: Spans, heads: int = 1) -> int:
    """How many (query, key) pairs the mask keeps, summed over heads, without holding more than a chunk of rows at once."""
    if mask is None:
        return heads * int(np.sum(np.asarray(spans.q_length, np.int64) * spans.k_length))
    pairs = 0
    by_head = heads if mask.depends_on_head() else 1
    for begin in range(0, int(np.sum(spans.q_length)), _ROWS):
        sequence, row = _some_rows(spans, begin, _ROWS)
        for head in range(by_head):
            starts, ends, step = mask.intervals(spans, sequence, row, head)
            pairs += _intervals.count_keys((starts, ends), step)
    return pairs * (heads // by_head)


def _some_rows(spans: Spans, begin: int, count: int) -> tuple[Integers, Integers]:
    """Sequence and row of the query rows `begin` to `begin + count`, counted through all sequences."""
    ends = np.cumsum(spans.q_length)
    number = np.arange(begin, min(begin + count, int(ends[-1])))
    sequence = np.searchsorted(ends, number, side="right")
    return sequence, number - (ends - spans.q_length)[sequence]


def _runs(mask: Mask, spans: Spans, sequence: Integers, row: Integers, head: int) -> _intervals.Intervals:
    """The runs of allowed keys of each row, by evaluating the predicate on a bounded number of pairs at once."""
    width = int(np.max(np.asarray(spans.k_length)[sequence], initial=0))
    if not width:
        return _intervals.no_rows(len(row))
    chunk = max(1, _CHUNK // width)
    parts = [
        _chunk_runs(mask, spans, sequence[begin : begin + chunk], row[begin : begin + chunk], head, width)
        for begin in range(0, len(row), chunk)
    ]
    most = max(starts.shape[1] for starts, _ in parts)
    starts, ends = np.zeros((len(row), most), np.int32), np.zeros((len(row), most), np.int32)
    for number, (part_starts, part_ends) in enumerate(parts):
        rows = slice(number * chunk, number * chunk + len(part_starts))
        starts[rows, : part_starts.shape[1]], ends[rows, : part_ends.shape[1]] = part_starts, part_ends
    return starts, ends


def _chunk_runs(
    mask: Mask, spans: Spans, sequence: Integers, row: Integers, head: int, width: int
) -> _intervals.Intervals:
    column = np.arange(width)
    sequence, row = (np.asarray(a, np.int64)[:, None, None, None] for a in (sequence, row))
    last_token = int(np.max(np.asarray(spans.k_begin) + spans.k_length)) - 1
    at = Coordinates(
        sequence=sequence,
        head=np.full((1, 1, 1, 1), head),
        row=row,
        position=np.asarray(spans.query_start, np.int64)[sequence] + row,
        key=column[None, None, None, :],
        query_token=np.asarray(spans.q_begin, np.int64)[sequence] + row,
        key_token=np.minimum(np.asarray(spans.k_begin, np.int64)[sequence] + column, last_token),
        bring=host_array,
    )
    allowed = mask.allows(at) & (at.key < np.asarray(spans.k_length)[sequence])
    allowed = np.broadcast_to(allowed, (len(row), 1, 1, width)).reshape(len(row), width)
    edges = np.diff(allowed.astype(np.int8), axis=1, prepend=0, append=0)
    count = np.sum(edges == 1, axis=1)
    place = np.arange(int(count.max(initial=0))) < count[:, None]
    starts, ends = np.zeros(place.shape, np.int32), np.zeros(place.shape, np.int32)
    starts[place], ends[place] = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
    return starts, ends


def _positions(spans: Spans, sequence: Integers, row: Integers) -> Integers:
    return np.asarray(spans.query_start, np.int64)[sequence] + row
