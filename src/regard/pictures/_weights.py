"""Attention weights on their way to a picture: checked, merged into words, pooled, packed into bytes.

Shape letters: L layers, H heads, T queries, S keys.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import RegardError, ShapeError
from regard.data.words import host_weights, merge_pieces_to_words

# Weights of half precision and of a few thousand keys stay well inside this.
ROW_TOLERANCE = 1e-2
# Bytes 0..254 hold sqrt(weight); 255 marks a pair that the mask forbids.
STEPS = 254
MASKED = 255


@dataclass(frozen=True)
class Weights:
    """Checked weights with the words that stand at their sides."""

    values: NDArray[np.float32]
    """(L, H, T, S), 0 where masked."""
    visible: NDArray[np.bool_]
    """(L, H, T, S), False where the mask forbids the pair."""
    queries: list[str]
    keys: list[str]
    query_group: int = 1
    """How many neighboring queries were pooled into one row."""
    key_group: int = 1
    """How many neighboring keys were pooled into one column."""

    def average(self, layer: int | None, head: int | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Weights and visibility (T, S) of one layer and head; None averages over all of them."""
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        heads = slice(None) if head is None else slice(head, head + 1)
        chosen = self.values[layers, heads].mean(axis=(0, 1), dtype=np.float32)
        return chosen, np.logical_or.reduce(self.visible[layers, heads], axis=(0, 1))

    def pooled(self, max_queries: int, max_keys: int) -> Weights:
        """At most so many rows and columns: neighbors are averaged over queries and summed over keys."""
        query_group = max(1, math.ceil(len(self.queries) / max(1, max_queries)))
        key_group = max(1, math.ceil(len(self.keys) / max(1, max_keys)))
        if query_group <= 1 and key_group <= 1:
            return self
        by_query = np.arange(len(self.queries)) // query_group
        by_key = np.arange(len(self.keys)) // key_group
        values = merge_pieces_to_words(self.values, by_key, "keys")
        visible = merge_pieces_to_words(self.visible.astype(np.float32), by_key, "keys")
        return Weights(
            merge_pieces_to_words(values, by_query, "queries"),
            merge_pieces_to_words(visible, by_query, "queries") > 0,
            _group_labels(self.queries, query_group),
            _group_labels(self.keys, key_group),
            self.query_group * query_group,
            self.key_group * key_group,
        )

    def encoded(self) -> str:
        """The weights as base64 text, one byte for each, in the order (L, H, T, S)."""
        steps = np.rint(np.sqrt(np.clip(self.values, 0.0, 1.0)) * STEPS)
        codes = np.where(self.visible, steps, MASKED).astype(np.uint8)
        return base64.b64encode(codes.tobytes()).decode("ascii")


def check_weights(
    weights: Any, queries: Sequence[str], keys: Sequence[str], *, mask: Any = None, partial: bool = False
) -> Weights:
    """Weights (..., T, S) with up to two leading axes, and their words, as `Weights`.

    Raises:
        ShapeError: the arrays and words do not fit together.
        RegardError: weights that no softmax gives: negative, not finite, or rows that do not sum to one.
    """
    values = host_weights(weights)
    if not 2 <= values.ndim <= 4:
        raise ShapeError(
            "attention weights have the wrong number of axes: expected (layers, heads, queries, keys), (heads, queries, "
            f"keys) or (queries, keys), received shape {values.shape}"
        )
    for name, words, length in (("queries", queries, values.shape[-2]), ("keys", keys, values.shape[-1])):
        _check_words(name, words, length, values.shape)
    values = values.reshape((1,) * (4 - values.ndim) + values.shape)
    visible = _visible(mask, values.shape)
    if not np.isfinite(values).all():
        raise RegardError(
            "attention weights hold NaN or infinity: expected finite numbers; give hidden pairs as mask="
        )
    if values.size and values.min() < -1e-6:
        raise RegardError(
            f"attention weights are negative: expected softmax weights, received {values.min():.4g}"
        )
    leaked = np.abs(np.where(visible, 0.0, values)).max(initial=0.0)
    if leaked > 1e-6:
        raise RegardError(
            f"a pair that the mask forbids has weight {leaked:.4g}: expected 0; in mask=, True means that the query may "
            "attend to the key"
        )
    _check_rows(values, visible, partial)
    return Weights(values, visible, [str(word) for word in queries], [str(word) for word in keys])


def _check_words(name: str, words: Sequence[str], length: int, shape: tuple[int, ...]) -> None:
    if isinstance(words, str):
        raise ShapeError(f"{name} is one string: expected a list of {length} words, received {words!r}")
    if len(words) != length:
        raise ShapeError(
            f"{name} do not fit the weights: expected {length} words for weights of shape {shape}, received {len(words)}"
        )


def _visible(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(shape, bool)
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise RegardError(
            f"mask has the wrong type: expected booleans, True = may attend, received {mask.dtype}"
        )
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ShapeError(
            f"mask does not fit the weights: expected a shape that broadcasts to {shape}, received {mask.shape}"
        ) from None


def _check_rows(values: NDArray[np.float32], visible: NDArray[np.bool_], partial: bool) -> None:
    sums = values.sum(axis=-1, dtype=np.float64)
    sees_nothing = ~visible.any(axis=-1)
    wrong = np.abs(sums - 1.0) > ROW_TOLERANCE
    if partial:  # sinks, or a part of the keys: a row may sum to less
        wrong = sums > 1.0 + ROW_TOLERANCE
    wrong &= ~sees_nothing
    if wrong.any():
        layer, head, row = (int(index) for index in np.argwhere(wrong)[0])
        expected = "at most 1" if partial else "1"
        raise RegardError(
            f"rows of attention weights do not sum to one: expected {expected}, received {sums[layer, head, row]:.4f} for "
            f"query {row} of layer {layer}, head {head} ({int(wrong.sum())} such rows); weights are (..., queries, keys): "
            "transpose them, pass mask= for queries that see nothing, or partial=True for a part of the keys"
        )


def _group_labels(words: list[str], size: int) -> list[str]:
    if size == 1:
        return words
    groups = [words[start : start + size] for start in range(0, len(words), size)]
    return [group[0] if len(group) == 1 else f"{group[0]} … {group[-1]}" for group in groups]
