"""Biases: numbers added to the scaled and capped scores; -inf masks.

Shapes: N sequences, H heads, T queries, S keys, L distances, B buckets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from regard._arrays import brought, dtype_name, reshaped, transposed_rows, widened
from regard._errors import ShapeError
from regard._masks import check_dense

BiasKind = Literal["dense", "distance"]


class Bias:
    """Base of all biases: a number for each (sequence, head, query, key), which backends read from one array.

    `kind` says how: "dense" is `array[sequence, head, row, key]` of an array (N, H, T, S) whose dimensions may be 1;
    "distance" is `array[head, position - key - first]` of an array (H, L).
    """

    kind: ClassVar[BiasKind]

    def check(self, spans: Any, heads: int) -> None:
        """Raises `ShapeError` where the bias does not fit the call."""

    def lowered(self, distances: range) -> Any:
        """The array that backends read; `distances` are those that the call's pairs can have."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class DenseBias(Bias):
    """Adds `array[sequence, head, row, key]` to the scaled and capped scores; -inf masks, and so does standing outside.

    Args:
        array: floats, broadcastable to (N, H, T, S): 2-D is (T, S), 3-D is (H, T, S). Of any framework; it gets
            gradients where its framework has them.

    Raises:
        ShapeError: the array holds no floating-point numbers or does not have one to four dimensions; at the call, it
            does not broadcast.

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> near = -np.abs(np.arange(3.0)[:, None] - np.arange(3.0))
    >>> regard.attention(x, x, keys, bias=regard.DenseBias(near))[:, 0].argmax(-1)
    array([0, 1, 2])
    """

    array: Any

    kind = "dense"

    def __post_init__(self) -> None:
        _check_floating(
            "DenseBias",
            self.array,
            "pass a boolean array as mask= (True = may attend), or convert the numbers to query's dtype",
        )
        check_dense("DenseBias", self.array)

    def check(self, spans: Any, heads: int) -> None:
        check_dense("DenseBias", self.array, spans, heads)

    def lowered(self, distances: range) -> Any:
        return reshaped(self.array, (1,) * (4 - self.array.ndim) + tuple(self.array.shape))

    def __repr__(self) -> str:
        return f"DenseBias({self.array.dtype} {tuple(self.array.shape)})"


class DistanceBias(Bias):
    """Base of the biases that depend on nothing but the head and `distance = position - key`."""

    kind = "distance"

    @property
    def heads(self) -> int:
        """For how many query heads it has numbers."""
        raise NotImplementedError

    def values(self, distances: NDArray[np.int64]) -> Any:
        """The bias (H, L) at consecutive, ascending distances (L,), by operations of the parameters' own framework.

        Gradients reach the parameters through these operations.
        """
        raise NotImplementedError

    def check(self, spans: Any, heads: int) -> None:
        if self.heads != heads:
            name = type(self).__name__
            raise ShapeError(
                f"{name} needs numbers for each of the {heads} query heads, got {self.heads}; make it for {heads} heads"
            )

    def lowered(self, distances: range) -> Any:
        return self.values(np.arange(distances.start, distances.stop, dtype=np.int64))


@dataclass(frozen=True, eq=False, repr=False)
class Alibi(DistanceBias):
    """Attention with linear biases: adds `-slopes[head] * |position - key|`, so that near keys weigh more.

    Args:
        slopes: (H,) floats, one for each query head. Of any framework; they get gradients where it has them.

    Raises:
        ShapeError: the slopes are no floating-point numbers or not one-dimensional; at the call, they do not fit the heads.

    Source: Press et al. 2022, https://arxiv.org/abs/2108.12409

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> regard.attention(x, x, keys, bias=regard.Alibi(np.array([1.0])))[:, 0].argmax(-1)
    array([0, 1, 2])
    """

    slopes: Any

    def __post_init__(self) -> None:
        _check_floating("Alibi", self.slopes, "convert the slopes to the query's dtype")
        if self.slopes.ndim != 1:
            raise ShapeError(
                f"Alibi needs slopes of shape (heads,), got {tuple(self.slopes.shape)}; give one slope for each query head"
            )

    @classmethod
    def for_heads(cls, heads: int) -> Alibi:
        """The paper's slopes for any number of heads: powers of two fall geometrically from `2 ** (-8 / heads)` to `2 ** -8`.

        Other numbers of heads have the slopes of the power of two below, then every second one of the power above.

        >>> regard.Alibi.for_heads(3).slopes
        array([0.0625, 0.0039, 0.25  ])
        """
        if heads < 1:
            raise ShapeError(f"Alibi needs slopes for at least one head, got {heads} heads")
        below = 2 ** (heads.bit_length() - 1)
        steps = np.concatenate([np.arange(1, below + 1), np.arange(0.5, heads - below)])
        return cls(np.exp2(-8 * steps / below))

    @property
    def heads(self) -> int:
        return int(self.slopes.shape[0])

    def values(self, distances: NDArray[np.int64]) -> Any:
        # Long distances are no numbers of a 16-bit format.
        slopes = widened(self.slopes)
        precision = np.float64 if "float64" in str(slopes.dtype) else np.float32
        return -slopes[:, None] * brought(np.abs(distances).astype(precision), slopes)

    def __repr__(self) -> str:
        return f"Alibi({self.slopes.dtype} slopes of {self.heads} heads)"


@dataclass(frozen=True, eq=False, repr=False)
class RelativeBias(DistanceBias):
    """T5's relative position bias: adds `table[bucket(key - position), head]`, with narrow buckets for near keys.

    Half of the buckets (of each direction, where there are two) hold one distance each; the others widen logarithmically
    up to `max_distance`, behind which all distances share the last one.

    Args:
        table: (B, H) floats, as T5's `relative_attention_bias.weight`. Of any framework; it gets gradients where that has them.
        bidirectional: whether keys behind the query have buckets of their own (an encoder's); otherwise they share the
            bucket of distance 0 (a decoder's, under `Causal`).
        max_distance: the distance from which the last bucket serves, at the latest.

    Raises:
        ShapeError: the table holds no floating-point numbers or is not two-dimensional; it has too few buckets, or an
            odd number of them for two directions; `max_distance` leaves nothing to the wide buckets; at the call, the
            table does not fit the heads.

    Source: Raffel et al. 2020, https://arxiv.org/abs/1910.10683

    >>> x, keys = np.zeros((3, 1, 2)), np.eye(3)[:, None]
    >>> table = np.array([0.0, 5.0, 0.0, 0.0])[:, None]  # bucket 1: one or more before the query
    >>> regard.attention(x, x, keys, bias=regard.RelativeBias(table, max_distance=8))[1:, 0].argmax(-1)
    array([0, 0])
    """

    table: Any
    bidirectional: bool = True
    max_distance: int = 128

    def __post_init__(self) -> None:
        _check_floating("RelativeBias", self.table, "convert the table to the query's dtype")
        if self.table.ndim != 2:
            raise ShapeError(
                f"RelativeBias needs a table of shape (buckets, heads), got {tuple(self.table.shape)}; "
                "give one row for each bucket"
            )
        buckets = int(self.table.shape[0])
        least = 4 if self.bidirectional else 2
        if buckets < least or (self.bidirectional and buckets % 2):
            wanted = "an even number of buckets, at least 4," if self.bidirectional else "at least 2 buckets"
            raise ShapeError(
                f"RelativeBias needs {wanted} with bidirectional={self.bidirectional}, got {buckets} in a table of shape "
                f"{tuple(self.table.shape)}; T5 has 32"
            )
        if self.max_distance <= self._narrow:
            raise ShapeError(
                f"RelativeBias needs max_distance above {self._narrow}, which is how many of its {buckets} buckets hold "
                f"one distance each, got {self.max_distance}; raise it, or take fewer buckets"
            )

    @property
    def heads(self) -> int:
        return int(self.table.shape[1])

    @property
    def _one_way(self) -> int:
        """Buckets of one direction."""
        return int(self.table.shape[0]) // (2 if self.bidirectional else 1)

    @property
    def _narrow(self) -> int:
        """Buckets of one direction that hold one distance each."""
        return self._one_way // 2

    def values(self, distances: NDArray[np.int64]) -> Any:
        return transposed_rows(self.table, self._buckets(distances))

    def _buckets(self, distances: NDArray[np.int64]) -> NDArray[np.int64]:
        behind = np.where(distances < 0, self._one_way, 0) if self.bidirectional else 0
        away = np.abs(distances) if self.bidirectional else np.maximum(distances, 0)
        narrow, wide = self._narrow, self._one_way - self._narrow
        # T5 computes in float32, which decides at the edges of the buckets.
        ratio = np.maximum(away, narrow).astype(np.float32) / narrow
        steps = (np.log(ratio) / math.log(self.max_distance / narrow) * wide).astype(np.int64)
        return behind + np.where(away < narrow, away, np.minimum(narrow + steps, self._one_way - 1))

    def __repr__(self) -> str:
        return (
            f"RelativeBias({self.table.dtype} {tuple(self.table.shape)}, bidirectional={self.bidirectional}, "
            f"max_distance={self.max_distance})"
        )


def _check_floating(name: str, array: Any, remedy: str) -> None:
    kind = dtype_name(array)
    if "float" not in kind or kind == "float":
        raise ShapeError(f"{name} needs a floating-point array, got {kind}; {remedy}")
