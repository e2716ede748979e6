"""The masks that users write: small immutable values over positions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from regard import _intervals
from regard._arrays import dtype_name, host_array, is_traced
from regard._errors import ShapeError
from regard._intervals import Box, Boxes, Integers, Spans
from regard._masks import _arrays
from regard._masks._base import And, Coordinates, Mask, RowIntervals


@dataclass(frozen=True, eq=False, repr=False)
class Causal(Mask):
    """A query sees the keys up to its own position: `key <= position`.

    Positions count from `query_start`; by default the last query meets the last key.

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> (regard.attention(x, x, keys, mask=regard.Causal())[:, 0] > 0).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    def allows(self, at: Coordinates) -> Any:
        return at.key <= at.position

    def boxes(self, spans: Spans) -> Boxes:
        return Boxes((Box(high_shift=1),))


@dataclass(frozen=True, eq=False, repr=False)
class Window(Mask):
    """A query sees keys near its position: `position - left <= key <= position + right`.

    Distances are inclusive, as in FlashAttention, JAX and ONNX.

    Args:
        left: how many positions back, an integer or `math.inf`.
        right: how many positions ahead; by default as many as back.
        dilation: only distances divisible by it count.

    Raises:
        ShapeError: a negative or fractional distance, or a dilation below 1.

    Source: Beltagy et al. 2020, "Longformer", arXiv 2004.05150, section 3.1.

    >>> x, keys = np.zeros((4, 1, 2)), np.eye(4)[:, None]
    >>> (regard.attention(x, x, keys, mask=regard.Window(1, 0))[:, 0] > 0).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    """

    left: float
    right: float | None = None
    dilation: int = 1

    def __post_init__(self) -> None:
        right = self.left if self.right is None else self.right
        object.__setattr__(self, "left", _arrays.distance("left", self.left))
        object.__setattr__(self, "right", _arrays.distance("right", right))
        if self.dilation != int(self.dilation) or self.dilation < 1:
            raise ShapeError(f"Window(dilation=) must be an integer of at least 1, got {self.dilation!r}")

    def allows(self, at: Coordinates) -> Any:
        distance = at.position - at.key
        near = distance % self.dilation == 0 if self.dilation > 1 else at.key >= 0
        if self.left != math.inf:
            near = near & (distance <= self.left)
        if self.right != math.inf:
            near = near & (distance >= -cast("int", self.right))
        return near

    def boxes(self, spans: Spans) -> Boxes:
        low = -_intervals.FAR if self.left == math.inf else -int(self.left)
        high = _intervals.FAR if self.right == math.inf else cast("int", self.right) + 1
        return Boxes((Box(low_shift=low, high_shift=high),), self.dilation)


@dataclass(frozen=True, eq=False, repr=False)
class Prefix(Mask):
    """Every query sees the first keys of its sequence: `key < lengths`.

    Args:
        lengths: an integer, or one for each sequence, (N,).

    Raises:
        RegardError: a length is no integer.
        ShapeError: a length is negative; at the call, another number of them than sequences.

    Source: the prefix language model of Raffel et al. 2020, "T5", section 3.2.1: `Causal() | Prefix(lengths)`.

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> (regard.attention(x, x, keys, mask=regard.Causal() | regard.Prefix(2))[:, 0] > 0).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    lengths: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", _arrays.counts("Prefix(lengths=)", self.lengths))

    def allows(self, at: Coordinates) -> Any:
        return at.key < _arrays.per_sequence(self.lengths, at)

    def boxes(self, spans: Spans) -> Boxes:
        return Boxes((Box(key_high=self.lengths),))

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        _arrays.check_counts("Prefix(lengths=)", self.lengths, spans)


@dataclass(frozen=True, eq=False, repr=False)
class Global(Mask):
    """Some positions see every key, and every query sees them: `key in indices or position in indices`.

    Args:
        indices: positions (any number,), integers from 0.

    Raises:
        ShapeError: an index is negative or no integer.

    Source: Beltagy et al. 2020, "Longformer", arXiv 2004.05150, section 3.1: `Window(w) | Global(indices)`.

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> (regard.attention(x, x, keys, mask=regard.Global([0]))[:, 0] > 0).astype(int)
    array([[1, 1, 1],
           [1, 0, 0],
           [1, 0, 0]])
    """

    indices: Any

    def __post_init__(self) -> None:
        if is_traced(self.indices):
            return
        indices = np.unique(host_array(self.indices))
        if indices.size and (indices.dtype.kind not in "iu" or indices[0] < 0):
            raise ShapeError(
                f"Global(indices=) must be integers of at least 0, got {_arrays.show(indices)}; "
                "count positions from the start of the sequence"
            )
        object.__setattr__(self, "indices", tuple(int(index) for index in indices))

    def allows(self, at: Coordinates) -> Any:
        key, position = at.key < 0, at.row < 0
        for low, high in self._ranges():
            key = key | ((at.key >= low) & (at.key < high))
            position = position | ((at.position >= low) & (at.position < high))
        return key | position

    def boxes(self, spans: Spans) -> Boxes:
        keys = tuple(Box(key_low=low, key_high=high) for low, high in self._ranges())
        return Boxes(keys + tuple(Box(position_low=low, position_high=high) for low, high in self._ranges()))

    def _ranges(self) -> Iterator[tuple[int, int]]:
        indices = np.asarray(self.indices, np.int64)
        breaks = np.flatnonzero(np.diff(indices) > 1) + 1
        for run in np.split(indices, breaks):
            if run.size:
                yield int(run[0]), int(run[-1]) + 1


@dataclass(frozen=True, eq=False, repr=False)
class Documents(Mask):
    """A query sees the keys of its own document: `queries[query] == keys[key]`.

    Args:
        queries: ids (total queries,), one integer for each token of the flat arrays; other shapes are flattened.
        keys: the same for the keys, (total keys,); by default `queries`.

    Raises:
        RegardError: an id is no integer.
        ShapeError: at the call, another number of ids than tokens.

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> (regard.attention(x, x, keys, mask=regard.Documents([7, 7, 8]))[:, 0] > 0).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """

    queries: Any
    keys: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", _arrays.token_ids("Documents(queries=)", self.queries))
        object.__setattr__(
            self,
            "keys",
            self.queries if self.keys is None else _arrays.token_ids("Documents(keys=)", self.keys),
        )

    def allows(self, at: Coordinates) -> Any:
        return at.bring(self.queries)[at.query_token] == at.bring(self.keys)[at.key_token]

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        for name, ids, total in (("queries", self.queries, total_queries), ("keys", self.keys, total_keys)):
            if ids.shape[0] != total:
                raise ShapeError(
                    f"Documents({name}=) must hold one id per token, {total} in all, got {ids.shape[0]}; "
                    "give keys= too where queries and keys are not the same tokens"
                )

    def _row_intervals(self, spans: Spans, sequence: Integers, row: Integers, head: int) -> RowIntervals:
        queries, keys = host_array(self.queries), host_array(self.keys)
        begin = np.asarray(spans.k_begin, np.int64)[sequence]
        length = np.asarray(spans.k_length, np.int64)[sequence]
        if not len(keys) or not len(begin):
            return *_intervals.no_rows(len(begin)), 1
        edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        run_start, run_end = np.append(0, edges), np.append(edges, len(keys))
        ids, run_id = np.unique(keys[run_start], return_inverse=True)
        wanted = queries[np.asarray(spans.q_begin, np.int64)[sequence] + row]
        number = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        # Runs ordered by (id, place): those of one id that touch a span are consecutive.
        order = np.argsort(run_id, kind="stable")
        run_start, run_end, stride = run_start[order], run_end[order], len(keys) + 1
        first = np.searchsorted(run_id[order] * stride + run_end, number * stride + begin, side="right")
        last = np.searchsorted(
            run_id[order] * stride + run_start, number * stride + begin + length, side="left"
        )
        count = np.where(ids[number] == wanted, np.maximum(last - first, 0), 0)
        column = np.arange(int(count.max(initial=0)))
        run = np.minimum(first[:, None] + column, len(run_start) - 1)
        starts = np.maximum(run_start[run] - begin[:, None], 0)
        ends = np.minimum(run_end[run] - begin[:, None], length[:, None])
        ends = np.where(column < count[:, None], ends, starts)
        return *_intervals.merge_rows(starts, ends, np.zeros(len(begin), np.int64)), 1


@dataclass(frozen=True, eq=False, repr=False)
class Lengths(Mask):
    """Only the first queries and keys of a sequence take part: `row < q and key < k`.

    Args:
        q: queries that count, an integer or one for each sequence, (N,); by default all. The others give 0.
        k: keys that count, likewise.

    Raises:
        RegardError: a length is no integer.
        ShapeError: a length is negative; at the call, another number of them than sequences.

    >>> x = np.zeros((2, 3, 1, 4))  # two padded sequences, of 1 and 3 tokens
    >>> regard.explain(x, x, x, mask=regard.Lengths(q=[1, 3], k=[1, 3])).pairs
    10
    """

    q: Any = None
    k: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", None if self.q is None else _arrays.counts("Lengths(q=)", self.q))
        object.__setattr__(self, "k", None if self.k is None else _arrays.counts("Lengths(k=)", self.k))

    def allows(self, at: Coordinates) -> Any:
        queries = at.row >= 0 if self.q is None else at.row < _arrays.per_sequence(self.q, at)
        keys = at.key >= 0 if self.k is None else at.key < _arrays.per_sequence(self.k, at)
        return queries & keys

    def boxes(self, spans: Spans) -> Boxes:
        position_high = _intervals.FAR if self.q is None else np.asarray(spans.query_start, np.int64) + self.q
        return Boxes(
            (Box(position_high=position_high, key_high=_intervals.FAR if self.k is None else self.k),)
        )

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        _arrays.check_counts("Lengths(q=)", self.q, spans)
        _arrays.check_counts("Lengths(k=)", self.k, spans)


@dataclass(frozen=True, eq=False, repr=False)
class Dense(Mask):
    """A query sees the keys that an array names: `array[sequence, head, row, key]`; pairs outside it are masked.

    Args:
        array: booleans, True = may attend, broadcastable to (N, H, T, S): 2-D is (T, S), 3-D is (H, T, S). Of any
            framework; it is kept, not copied: do not change it afterwards.

    Raises:
        ShapeError: the array is not boolean or has no or more than four dimensions; at the call, it does not broadcast.

    >>> x, keys = np.zeros((2, 1, 2)), np.eye(2)[:, None]
    >>> (regard.attention(x, x, keys, mask=regard.Dense([[False, True], [True, True]]))[:, 0] > 0).astype(int)
    array([[0, 1],
           [1, 1]])
    """

    array: Any

    def __post_init__(self) -> None:
        if not hasattr(self.array, "dtype"):
            object.__setattr__(self, "array", np.asarray(self.array))
        if "bool" not in str(self.array.dtype):
            raise ShapeError(
                f"Dense needs a boolean array (True = may attend), got {dtype_name(self.array)}; "
                "pass numbers that are added to the scores as bias="
            )
        _arrays.check_dense("Dense", self.array)

    def allows(self, at: Coordinates) -> Any:
        values, inside = _arrays.dense_lookup(self.array, at)
        return values & inside

    def depends_on_head(self) -> bool:
        return len(self.array.shape) > 2 and self.array.shape[-3] > 1

    def check(self, spans: Spans, total_queries: int, total_keys: int, heads: int) -> None:
        _arrays.check_dense("Dense", self.array, spans, heads)


def split_lengths(mask: Mask) -> tuple[Mask | None, Lengths | None]:
    """The mask without the `Lengths` that stand at the top of its `&`, and those as one: spans can be cut by them."""
    others, lengths = None, None
    for part in conjuncts(mask):
        if isinstance(part, Lengths):
            lengths = (
                part if lengths is None else Lengths(_fewer(lengths.q, part.q), _fewer(lengths.k, part.k))
            )
        else:
            others = part if others is None else others & part
    return others, lengths


def conjuncts(mask: Mask) -> Iterator[Mask]:
    """The masks that stand at the top of the mask's `&`."""
    if isinstance(mask, And):
        yield from conjuncts(mask.first)
        yield from conjuncts(mask.second)
    else:
        yield mask


def _fewer(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return np.minimum(a, b)
