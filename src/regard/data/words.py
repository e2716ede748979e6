"""Attention weights between pieces as weights between the words that the pieces make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regard._errors import RegardError, ShapeError


def merge_pieces_to_words(
    weights: Any, piece_to_word: Sequence[int] | NDArray[np.integer], axis: Literal["keys", "queries"]
) -> NDArray[np.float32]:
    """Weights between pieces as weights between words: keys are summed, queries averaged, so rows still sum to one.

    Arguments:
        weights: (..., T, S), NumPy or PyTorch.
        piece_to_word: for each piece on the axis the number of its word; every number from 0 to the last occurs.
        axis: "keys" for S, "queries" for T.

    Returns:
        The weights with W words in the place of the pieces: (..., T, W) or (..., W, S).

    Raises:
        RegardError: another axis.
        ShapeError: the numbers do not fit the axis.

    >>> merge_pieces_to_words([[0.5, 0.25, 0.25]], [0, 1, 1], "keys")
    array([[0.5, 0.5]], dtype=float32)
    """
    if axis not in ("keys", "queries"):
        raise RegardError(f"unknown axis: expected 'keys' or 'queries', received {axis!r}")
    values = host_weights(weights)
    words = np.asarray(piece_to_word, dtype=np.int64)
    if axis == "queries":
        values = np.swapaxes(values, -1, -2)
    if words.shape != values.shape[-1:]:
        raise ShapeError(
            f"piece_to_word does not fit the {axis}: expected {values.shape[-1]} numbers, received shape {words.shape}"
        )
    counts = np.bincount(words) if words.size and words.min() >= 0 else np.zeros(1, np.int64)
    if words.size and not counts.all():
        raise ShapeError(
            "piece_to_word skips a word: expected every number from 0 to the last, received "
            f"{words.tolist()[:20]}{' ...' if len(words) > 20 else ''}"
        )
    merged = np.zeros((*values.shape[:-1], len(counts) if words.size else 0), np.float32)
    word_of_piece: Any = (..., words)  # NumPy's types know no ellipsis here
    np.add.at(merged, word_of_piece, values)
    if axis == "queries":
        return np.swapaxes(merged / np.maximum(counts[: merged.shape[-1]], 1), -1, -2).astype(np.float32)
    return merged


def host_weights(weights: Any) -> NDArray[np.float32]:
    """Weights of NumPy or PyTorch, which may need gradients or be bfloat16, as a float32 array of NumPy."""
    if hasattr(weights, "detach"):
        weights = weights.detach().cpu().float().numpy()
    return np.asarray(weights, dtype=np.float32)
