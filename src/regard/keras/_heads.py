"""What happens to queries and keys before they meet: normalization and rotation, in Keras' operations."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keras import ops

from regard._errors import ShapeError
from regard._positions import rotary_table
from regard.keras._sequences import Tokens

EPSILON = 1e-6
BASE = 10000.0


def check_heads(num_heads: int, num_key_value_heads: int) -> None:
    """Refuse heads that cannot be shared out."""
    if num_heads < 1 or num_key_value_heads < 1 or num_heads % num_key_value_heads:
        raise ShapeError(
            "num_heads must be a positive multiple of num_key_value_heads. "
            f"Received num_heads={num_heads}, num_key_value_heads={num_key_value_heads}."
        )


def wide(x: Any) -> str:
    """The dtype in which sums over x are taken."""
    return "float64" if "float64" in str(x.dtype) else "float32"


def normalize(x: Any, epsilon: float = EPSILON) -> Any:
    """`x / sqrt(mean(x ** 2) + epsilon)` over the last dimension, without a gain; the result keeps the dtype of x."""
    values = ops.cast(x, wide(x))
    return ops.cast(
        values * ops.rsqrt(ops.mean(ops.square(values), axis=-1, keepdims=True) + epsilon), x.dtype
    )


def split_heads(x: Any, size: int) -> Any:
    """(..., heads * size) -> (..., heads, size)."""
    return ops.reshape(x, (*ops.shape(x)[:-1], x.shape[-1] // size, size))


def join_heads(x: Any) -> Any:
    """(..., heads, size) -> (..., heads * size)."""
    return ops.reshape(x, (*ops.shape(x)[:-2], x.shape[-2] * x.shape[-1]))


def turns_of(tokens: Tokens, size: int, dtype: str) -> tuple[Any, Any]:
    """Cosines and sines (..., 1, size / 2) of the rotation of each token, by its position in its sequence."""
    positions, bound = tokens.positions(), tokens.values.shape[-2]
    found: Any
    if bound is None:  # TensorFlow's graph doesn't know: a table could be too short
        pair = np.arange(0, size, 2) / size
        angles = ops.expand_dims(ops.cast(positions, "float64"), -1) * BASE**-pair
        found = ops.cos(angles), ops.sin(angles)
    else:
        length = 1 << max(6, (int(bound) - 1).bit_length())
        found = [
            ops.take(ops.convert_to_tensor(part), positions, axis=0) for part in _table(length, size, dtype)
        ]
    cosine, sine = (ops.expand_dims(ops.cast(part, dtype), -2) for part in found)
    return cosine, sine


def turn(x: Any, turns: tuple[Any, Any]) -> Any:
    """Turn adjacent pairs of features of x (..., H, size); the result keeps the dtype of x."""
    cosine, sine = turns
    values = ops.cast(x, cosine.dtype)
    first, second = ops.unstack(ops.reshape(values, (*ops.shape(x)[:-1], x.shape[-1] // 2, 2)), axis=-1)
    pairs = ops.stack([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return ops.cast(ops.reshape(pairs, ops.shape(x)), x.dtype)


@functools.lru_cache(maxsize=16)
def _table(length: int, size: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = rotary_table(length, size, BASE)
    return cosine.astype(dtype), sine.astype(dtype)
