"""A call to attention, checked and lowered once to spans and parameters: integers and NumPy, no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from regard._arrays import host_integers
from regard._biases import BiasKind
from regard._errors import RegardError, ShapeError
from regard._masks import And, Causal, Coordinates, Lengths, Mask, Window, dense_index, split_lengths
from regard._packed import checked_offsets

Shape = tuple[int, ...]

# Beyond this a mask cannot tell a position from infinity.
_FARTHEST = 1 << 39

# Distances that a bias may span even where the call has fewer tokens: some tens of MiB for all heads.
_DISTANCES = 1 << 20


@dataclass(frozen=True, eq=False)
class Spans:
    """N sequences of queries and the keys that each reads; every field is an int64 array of shape (N,).

    Sequence n has the queries `q_begin[n]` to `q_begin[n] + q_length[n]` of the flattened query array; they stand at the
    positions `query_start[n]`, `query_start[n] + 1`, ... and read keys `k_begin[n]` to `k_begin[n] + k_length[n]`, at
    positions 0, 1, ... Query spans are disjoint; key spans may coincide.
    """

    q_begin: np.ndarray
    q_length: np.ndarray
    k_begin: np.ndarray
    k_length: np.ndarray
    query_start: np.ndarray

    def __len__(self) -> int:
        return len(self.q_begin)

    def shortened(self, lengths: Lengths) -> Spans:
        """The spans cut to the valid lengths that a `Lengths` mask states."""
        return Spans(
            self.q_begin,
            _shorter(self.q_length, lengths.q, "q"),
            self.k_begin,
            _shorter(self.k_length, lengths.k, "k"),
            self.query_start,
        )

    def started(self, query_start: Any) -> Spans:
        """The spans with positions given, or by default so that the last query meets the last key."""
        if query_start is None:
            start = self.k_length - self.q_length
        else:
            start = _per_sequence(query_start, len(self), "query_start")
            if np.abs(start).max(initial=0) > _FARTHEST:
                raise RegardError(
                    f"query_start must lie between -2**39 and 2**39. Received {start.min()} to {start.max()}; "
                    "count positions from the first key."
                )
        return Spans(self.q_begin, self.q_length, self.k_begin, self.k_length, start)

    def merged(self) -> Spans:
        """Adjacent sequences that read the same keys joined to one: valid where nothing depends on positions."""
        joins = (
            (self.k_begin[1:] == self.k_begin[:-1])
            & (self.k_length[1:] == self.k_length[:-1])
            & (self.q_begin[1:] == self.q_begin[:-1] + self.q_length[:-1])
        )
        if not joins.any():
            return self
        first = np.flatnonzero(np.concatenate([[True], ~joins]))
        q_length = np.add.reduceat(self.q_length, first)
        return Spans(
            self.q_begin[first], q_length, self.k_begin[first], self.k_length[first], self.query_start[first]
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """What a backend computes, apart from the arrays themselves."""

    spans: Spans
    total_queries: int
    total_keys: int
    heads: int
    kv_heads: int
    mask: Mask | None
    bias: BiasKind | None
    scale: float
    softcap: float | None
    dropout_p: float

    @cached_property
    def notes(self) -> dict[Any, Any]:
        """Room for what a backend derives from the plan and wants to find again."""
        return {}

    @property
    def depends_on_place(self) -> bool:
        """Whether a result depends on which sequence or position a query has, beyond the keys it reads."""
        return self.mask is not None or self.bias is not None or self.dropout_p > 0

    @cached_property
    def distances(self) -> range:
        """All distances `position - key` from the least to the greatest that a pair can have."""
        spans = self.spans
        some = (spans.q_length > 0) & (spans.k_length > 0)
        if not some.any():
            return range(0)
        least = spans.query_start[some] - (spans.k_length[some] - 1)
        most = spans.query_start[some] + (spans.q_length[some] - 1)
        return range(int(least.min()), int(most.max()) + 1)

    def bias_places(self, shape: Shape, at: Coordinates) -> tuple[tuple[Any, ...], Any]:
        """Where pairs find their numbers in the bias array that a backend received, and which of them do.

        The array is (N, H, T, S), dimensions of 1 for all, or (H, L) over `distances`. The index, and where it counts,
        broadcast to (G, H, Q, K); a pair that finds none is masked, and its index is any valid one.
        """
        if self.bias == "dense":
            return dense_index(shape, at)
        place = at.position - at.key - self.distances.start
        found = (place >= 0) & (place < len(self.distances))
        return (at.head, place * found), found


# A model makes a few different calls for a batch, again and again in its layers.
@lru_cache(maxsize=8)
def remembered_plan(
    offsets_q: bytes | None,
    offsets_k: bytes | None,
    reads: bytes | None,
    q_shape: Shape,
    k_shape: Shape,
    **parameters: Any,
) -> Plan:
    """The plan of a call whose every parameter is a small value: the layers of a model make the same call again and again.

    Offsets and `key_sequence` come as the bytes of int64 arrays; without offsets the arrays are padded.
    """
    if offsets_q is None:
        spans, leading = padded_spans(q_shape, k_shape)
        q_shape = (*leading, *q_shape[-3:])
    else:
        spans = packed_spans(
            q_shape[0], k_shape[0], *(_from_bytes(array) for array in (offsets_q, offsets_k, reads))
        )
    return make_plan(spans, q_shape, k_shape, **parameters)


def is_small(mask: Mask | None) -> bool:
    """Whether a mask is a small value, quick to compare."""
    if isinstance(mask, And):
        return is_small(mask.first) and is_small(mask.second)
    return (
        mask is None
        or isinstance(mask, Causal | Window)
        or (isinstance(mask, Lengths) and mask.q is None and isinstance(mask.k, int))
    )


def _from_bytes(array: bytes | None) -> np.ndarray | None:
    return None if array is None else np.frombuffer(array, np.int64)


def packed_spans(
    total_q: int, total_k: int, cu_seqlens_q: Any, cu_seqlens_k: Any, key_sequence: Any
) -> Spans:
    """Spans of packed arrays, from their offsets and from which key sequence each query sequence reads."""
    offsets_q = checked_offsets(cu_seqlens_q, total_q, "cu_seqlens_q").astype(np.int64)
    name = "cu_seqlens_q (cu_seqlens_k was not given)" if cu_seqlens_k is None else "cu_seqlens_k"
    offsets_k = checked_offsets(cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k, total_k, name).astype(
        np.int64
    )
    count_q, count_k = len(offsets_q) - 1, len(offsets_k) - 1
    reads = _key_sequence(key_sequence, count_q, count_k)
    return _unstarted(offsets_q[:-1], np.diff(offsets_q), offsets_k[:-1][reads], np.diff(offsets_k)[reads])


def leading_shape(q_shape: Shape, k_shape: Shape) -> Shape:
    """The leading shape that padded queries and keys broadcast to."""
    if q_shape[:-3] == k_shape[:-3]:
        return tuple(q_shape[:-3])
    check_leading(q_shape, k_shape)
    return np.broadcast_shapes(q_shape[:-3], k_shape[:-3])


def check_leading(q_shape: Shape, k_shape: Shape) -> None:
    """Raise unless the leading dimensions broadcast; of sizes that are None nothing is known."""
    for one, other in zip(q_shape[-4::-1], k_shape[-4::-1], strict=False):
        if one != other and None not in {one, other} and 1 not in {one, other}:
            raise ShapeError(
                "the leading dimensions of query and key must broadcast. "
                f"Received {tuple(q_shape)} and {tuple(k_shape)}."
            )


def padded_spans(q_shape: tuple[int, ...], k_shape: tuple[int, ...]) -> tuple[Spans, tuple[int, ...]]:
    """Spans of arrays (..., T, H, D) and (..., S, Hk, D), and the leading shape they broadcast to.

    Keys broadcast without a copy; the caller expands the queries to the leading shape that is returned.
    """
    leading = leading_shape(q_shape, k_shape)
    count, count_k = math.prod(leading), math.prod(k_shape[:-3])
    reads = np.broadcast_to(np.arange(count_k).reshape(k_shape[:-3]), leading).reshape(-1)
    length_q, length_k = np.full(count, q_shape[-3]), np.full(count, k_shape[-3])
    return _unstarted(np.arange(count) * q_shape[-3], length_q, reads * k_shape[-3], length_k), leading


def check_numbers(heads: int, kv_heads: int, softcap: float | None, dropout_p: float) -> None:
    """Raise where a number of a call can't be, whatever its sequences."""
    if kv_heads == 0 or heads % kv_heads:
        raise ShapeError(
            f"the number of query heads must be a multiple of the key heads. Received {heads} query heads "
            f"and {kv_heads} key heads."
        )
    if softcap is not None and not softcap > 0:
        raise RegardError(f"softcap must be positive, or None for no cap. Received {softcap}.")
    if not 0 <= dropout_p < 1:
        raise RegardError(f"dropout_p must be at least 0 and below 1. Received {dropout_p}.")


def make_plan(
    spans: Spans,
    q_shape: Shape,
    k_shape: Shape,
    *,
    mask: Mask | None,
    query_start: Any,
    scale: float | None,
    softcap: float | None,
    dropout_p: float,
    bias: BiasKind | None = None,
) -> Plan:
    """Check the parameters against the spans and put them together; shapes are (..., T, H, D) and (..., S, Hk, D)."""
    total_queries, total_keys = math.prod(q_shape[:-2]), math.prod(k_shape[:-2])
    heads, kv_heads, head_dim = q_shape[-2], k_shape[-2], q_shape[-1]
    check_numbers(heads, kv_heads, softcap, dropout_p)
    if mask is not None:
        mask.check(spans, total_queries, total_keys, heads)
        mask, lengths = split_lengths(mask)
        if lengths is not None:
            spans = spans.shortened(lengths)
    spans = spans.started(query_start)
    scale = head_dim**-0.5 if scale is None and head_dim else (1.0 if scale is None else float(scale))
    plan = Plan(
        spans, total_queries, total_keys, heads, kv_heads, mask, bias, scale, softcap, float(dropout_p)
    )
    if bias == "distance":
        _check_distances(plan)
    if plan.depends_on_place:
        return plan
    return Plan(spans.merged(), *(getattr(plan, name) for name in _REST))


_REST = ("total_queries", "total_keys", "heads", "kv_heads", "mask", "bias", "scale", "softcap", "dropout_p")


def _check_distances(plan: Plan) -> None:
    count, most = (
        plan.distances.stop - plan.distances.start,
        max(_DISTANCES, plan.total_queries + plan.total_keys),
    )
    if count > most:
        start = plan.spans.query_start
        raise ShapeError(
            f"the sequences stand too far apart for a bias by distance: the call meets {count} distances, expected at most "
            f"{most}. Received query_start from {start.min()} to {start.max()}; attend to sequences that "
            "are far apart in calls of their own."
        )


def _unstarted(q_begin: np.ndarray, q_length: np.ndarray, k_begin: np.ndarray, k_length: np.ndarray) -> Spans:
    return Spans(q_begin, q_length, k_begin, k_length, k_length - q_length)


def _per_sequence(values: Any, count: int, name: str) -> np.ndarray:
    numbers = host_integers(values, name)
    if numbers.ndim > 0 and numbers.size != count:
        raise ShapeError(
            f"{name} must be one integer or one for each of the {count} sequences. Received {numbers.shape}."
        )
    return np.broadcast_to(numbers.reshape(-1) if numbers.ndim else numbers, (count,))


def _shorter(length: np.ndarray, valid: Any, side: str) -> np.ndarray:
    if valid is None:
        return length
    valid = _per_sequence(valid, len(length), f"Lengths({side}=...)")
    if (valid < 0).any() or (valid > length).any():
        raise ShapeError(
            f"Lengths({side}=...) must lie between 0 and the array's length. Received {valid.tolist()}."
        )
    return valid


def _key_sequence(key_sequence: Any, count_q: int, count_k: int) -> np.ndarray:
    if key_sequence is None:
        if count_q != count_k:
            raise ShapeError(
                f"query and key must hold equally many sequences. Received {count_q} and {count_k}; "
                "say with key_sequence which key sequence each query sequence reads."
            )
        return np.arange(count_q)
    reads = host_integers(key_sequence, "key_sequence")
    if reads.shape != (count_q,) or (reads < 0).any() or (reads >= count_k).any():
        raise ShapeError(
            f"key_sequence must name one of the {count_k} key sequences for each of the {count_q} query sequences. "
            f"Received {reads.tolist() if reads.size < 20 else f'shape {reads.shape}'}."
        )
    return reads
