"""Biases: numbers added to the scaled and capped scores; -inf masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from regard._errors import ShapeError
from regard._masks import Coordinates, check_dense, dense_lookup


class Bias:
    """Base of all biases: a number for each (sequence, head, query, key)."""

    def lookup(self, at: Coordinates) -> tuple[Any, Any]:
        """The bias at `at` and a boolean array that is False where the bias masks by its own extent.

        Both broadcast to (G, H, Q, K); what stands in the first where the second is False means nothing.
        """
        raise NotImplementedError

    def check(self, spans: Any, total_queries: int, total_keys: int, heads: int) -> None:
        """Raises `ShapeError` where the arrays do not fit the call."""


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

    def __post_init__(self) -> None:
        kind = str(getattr(self.array, "dtype", type(self.array).__name__))
        if "float" not in kind:
            raise ShapeError(
                f"DenseBias needs a floating-point array, got {kind}; pass a boolean array as mask= (True = may attend), "
                "or convert the numbers to query's dtype"
            )
        check_dense("DenseBias", self.array)

    def lookup(self, at: Coordinates) -> tuple[Any, Any]:
        return dense_lookup(self.array, at)

    def check(self, spans: Any, total_queries: int, total_keys: int, heads: int) -> None:
        check_dense("DenseBias", self.array, spans, heads)

    def __repr__(self) -> str:
        return f"DenseBias({self.array.dtype} {tuple(self.array.shape)})"
