"""What attention can give beside its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._arrays import host_integers
from regard._errors import ShapeError


@dataclass(frozen=True)
class Aux:
    """A request for `return_aux=`: nothing here changes how the result is computed.

    Args:
        lse: the logarithm of each query's sum of exponentials, without the sinks; -inf where it sees no key.
        rows: flat query indices, as in `query.reshape(-1, heads, dim)` (packed: the token; padded: `sequence * T + row`),
            whose attention weights are wanted.

    Raises:
        RegardError: at the call, a row is no integer.
        ShapeError: at the call, `rows` is no list, or one of them is no query.

    >>> x = np.random.default_rng(0).normal(size=(5, 2, 4))
    >>> out, aux = regard.attention(x, x, x, return_aux=regard.Aux(lse=True, rows=[4]))
    >>> aux.lse.shape, aux.rows.shape
    ((5, 2), (1, 2, 5))
    """

    lse: bool = False
    rows: Sequence[int] | Any | None = None


@dataclass(frozen=True)
class AuxOutput:
    """The answer to an `Aux`; what was not asked for is None.

    Attributes:
        lse: (..., T, H), or (total, H) when packed, float32, or float64 for float64 input.
        rows: (R, H, S): the weights, before dropout, of the R rows asked for over the keys of their own sequence, padded
            with zeros to the longest key length S of the call.
    """

    lse: Any = None
    rows: Any = None


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
