"""Passages in windows, and the pieces that hold an answer."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

Span = tuple[int, int]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows of `window` pieces begin, a stride apart, so that they hold all of `length` pieces; the last ends with them.

    >>> window_starts(10, 4, 3), window_starts(3, 4, 3)
    ([0, 3, 6], [0])
    """
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def covering_pieces(spans: Sequence[Span], begin: int, end: int) -> Span:
    """The first and the last of the fewest pieces that hold the characters `begin` to `end`; `spans` are those of all pieces.

    >>> covering_pieces([(0, 3), (4, 7), (7, 8)], 5, 8)
    (1, 2)
    """
    ends, begins = [stop for _, stop in spans], [start for start, _ in spans]
    first = min(bisect_right(ends, begin), len(spans) - 1)
    return first, max(first, bisect_left(begins, end) - 1)


def best_window(starts: Sequence[int], window: int, first: int, last: int) -> int:
    """The number of the window that holds the pieces `first` to `last` with the most beside them, on the narrower side.

    >>> best_window([0, 3, 6], 4, 4, 5)
    1
    """
    return max(
        range(len(starts)),
        key=lambda number: min(first - starts[number], starts[number] + window - 1 - last),
    )
