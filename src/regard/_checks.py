"""What the arrays of a call must be, before anything is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from regard._arrays import host_integers
from regard._biases import Bias
from regard._errors import RegardError, ShapeError
from regard._masks import Mask


@dataclass(frozen=True)
class Form:
    """What the checks look at of an array."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)


# Calls of a model differ in few forms: what is known to fit is not looked at again.
@lru_cache(maxsize=256)
def checked_forms(
    q_shape: tuple[int, ...],
    q_dtype: Any,
    k_shape: tuple[int, ...],
    k_dtype: Any,
    v_shape: tuple[int, ...],
    v_dtype: Any,
) -> None:
    """Raise unless dtypes and shapes of query, key and value fit together."""
    query, key, value = Form(q_shape, q_dtype), Form(k_shape, k_dtype), Form(v_shape, v_dtype)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < 3:
            raise ShapeError(
                f"{name} must have shape (..., length, heads, size), or packed (total, heads, size). "
                f"Received shape {tuple(array.shape)}."
            )
        if not str(array.dtype).replace("torch.", "").startswith(("float", "bfloat")):
            raise RegardError(
                f"{name} must hold floating-point numbers. Received {array.dtype}; convert it first."
            )
    if not query.dtype == key.dtype == value.dtype:
        raise RegardError(
            "query, key and value must share one dtype. "
            f"Received {query.dtype}, {key.dtype} and {value.dtype}; convert two of them."
        )
    if query.shape[-1] != key.shape[-1]:
        raise ShapeError(
            f"query and key must agree in head size. Received {query.shape[-1]} (query {tuple(query.shape)}) and "
            f"{key.shape[-1]} (key {tuple(key.shape)})."
        )
    if tuple(key.shape[:-1]) != tuple(value.shape[:-1]):
        raise ShapeError(
            "key and value must agree in all but their last dimension. "
            f"Received {tuple(key.shape)} and {tuple(value.shape)}."
        )


def check_sinks(sinks: Any, heads: int) -> None:
    """Raise unless there is one number for each query head."""
    if sinks is not None and tuple(sinks.shape) != (heads,):
        raise ShapeError(f"sinks must have shape (H,) = ({heads},). Received {tuple(sinks.shape)}.")


def check_same_sequences(offsets_k: Any, offsets_v: np.ndarray) -> None:
    """Raise unless key and value are packed by the same offsets."""
    if offsets_k is not None and not np.array_equal(host_integers(offsets_k, "cu_seqlens_k"), offsets_v):
        raise ShapeError(
            "key and value must be packed alike. Received different offsets; pack both from the same sequences."
        )


def check_packed(query: Any, key: Any, mask: Any, bias: Any) -> None:
    """Raise unless the arrays are packed and what goes with them is a `Mask` and a `Bias`."""
    for name, array in (("query", query), ("key", key)):
        if array.ndim != 3:
            raise ShapeError(
                f"with offsets, {name} must be packed: (total, heads, size). Received shape {tuple(array.shape)}."
            )
    if mask is not None and not isinstance(mask, Mask):
        raise RegardError(
            "packed arrays take a Mask; wrap a boolean array as regard.Dense(array) of shape (N, H, T, S)."
        )
    if bias is not None and not isinstance(bias, Bias):
        raise RegardError(
            "packed arrays take a Bias; wrap a float array as regard.DenseBias(array) of shape (N, H, T, S)."
        )


def refuse_packed_arguments(cu_seqlens_k: Any, key_sequence: Any) -> None:
    """Raise where padded arrays come with arguments that only packed ones have."""
    for name, argument in (("cu_seqlens_k", cu_seqlens_k), ("key_sequence", key_sequence)):
        if argument is not None:
            raise RegardError(
                f"{name} was given without cu_seqlens_q; pass the query's offsets too, or a Packed query."
            )
