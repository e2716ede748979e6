"""What attention can give beside its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from regard._arrays import host_integers
from regard._errors import RegardError, ShapeError


@dataclass(frozen=True)
class Aux:
    """A request for `return_aux=`: nothing here changes how the result is computed, and none of it is differentiated but the lse.

    Weights are those of the softmax before dropout, sinks in the denominator.

    Args:
        lse: the logarithm of each query's sum of exponentials, without the sinks; -inf where it sees no key.
        rows: flat query indices, as in `query.reshape(-1, heads, dim)` (packed: the token; padded: `sequence * T + row`),
            whose attention weights are wanted.
        topk: how many of each query's largest weights are wanted, with their keys.
        key_sums: whether the sum of the weights that each key receives is wanted.

    Raises:
        RegardError: `topk` is no integer of at least 1; at the call, a row is no integer.
        ShapeError: at the call, `rows` is no list, or one of them is no query.

    >>> x = np.random.default_rng(0).normal(size=(5, 2, 4))
    >>> out, aux = regard.attention(x, x, x, return_aux=regard.Aux(lse=True, rows=[4], topk=3, key_sums=True))
    >>> aux.lse.shape, aux.rows.shape, aux.topk.keys.shape, aux.key_sums.shape
    ((5, 2), (1, 2, 5), (5, 2, 3), (5, 2))
    """

    lse: bool = False
    rows: Sequence[int] | Any | None = None
    topk: int | None = None
    key_sums: bool = False

    def __post_init__(self) -> None:
        wrong = isinstance(self.topk, bool) or not isinstance(self.topk, int | np.integer | None)
        if wrong or (self.topk is not None and self.topk < 1):
            raise RegardError(
                f"Aux(topk=...) must be an integer of at least 1, or None. Received {self.topk!r}; "
                "say how many keys of each query are wanted."
            )


class TopK(NamedTuple):
    """The largest weights of each query and head, in falling order, ties by the smaller key.

    `keys` holds int64 indices in the query's own key sequence, `weights` belongs to them. Where a query sees fewer keys
    than were asked for, the rest are key -1 with weight 0.
    """

    keys: Any
    weights: Any


@dataclass(frozen=True)
class AuxOutput:
    """The answer to an `Aux`; what was not asked for is None. Numbers are float32, or float64 for float64 input.

    Attributes:
        lse: (..., T, H), or (total, H) when packed.
        rows: (R, H, S): the weights, before dropout, of the R rows asked for over the keys of their own sequence, padded
            with zeros to the longest key length S of the call.
        topk: the pair `keys`, `weights`, each (..., T, H, topk), or (total, H, topk) when packed: each query's largest
            weights, falling, and the indices of their keys in the query's own key sequence; -1 with weight 0 where it sees fewer.
        key_sums: (..., S, H) with the key's own leading dimensions, or (total keys, H) when packed: what each key receives
            from all the queries that read it, by query head.
    """

    lse: Any = None
    rows: Any = None
    topk: TopK | None = None
    key_sums: Any = None


def checked_rows(rows: Any, total_queries: int) -> np.ndarray:
    """The row indices as int64, (R,).

    Raises:
        ShapeError: they are not a list of integers, or one is no query.
    """
    numbers = host_integers(rows, "Aux(rows=...)") if len(rows) else np.zeros(0, np.int64)
    if numbers.ndim != 1 or (numbers < 0).any() or (numbers >= total_queries).any():
        raise ShapeError(
            f"Aux(rows=...) must list flat query indices from 0 to {total_queries - 1}. Received {numbers.tolist()}; "
            "row t of padded sequence n is n * T + t."
        )
    return numbers
