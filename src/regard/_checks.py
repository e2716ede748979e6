"""What the arrays of a call must be, before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from regard._arrays import dtype_name, framework_name, framework_of, host_integers, is_traced
from regard._aux import Aux
from regard._biases import Bias
from regard._errors import RegardError, ShapeError
from regard._masks import Mask
from regard._packed import Packed


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
        _check_floats(name, array)
    if not query.dtype == key.dtype == value.dtype:
        raise RegardError(
            "query, key and value must share one dtype. "
            f"Received {dtype_name(query)}, {dtype_name(key)} and {dtype_name(value)}; convert two of them."
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
    """Raise unless there is one floating-point number for each query head."""
    if sinks is None:
        return
    if tuple(sinks.shape) != (heads,):
        raise ShapeError(f"sinks must have shape (H,) = ({heads},). Received {tuple(sinks.shape)}.")
    _check_floats("sinks", sinks)


def check_seed(dropout_p: float, seed: Any) -> None:
    """Raise where there is dropout and nothing that decides it."""
    if dropout_p and seed is None:
        raise RegardError(
            f"dropout needs a seed. Received dropout_p={dropout_p} and seed=None; pass seed=<an integer>."
        )


def check_boolean(mask: Any) -> None:
    """Raise unless an array that is to be a mask holds truth values."""
    if "bool" not in str(getattr(mask, "dtype", None)):
        raise RegardError(
            f"mask must be a Mask or a boolean array, True = may attend. Received {dtype_name(mask)}; "
            "pass numbers that are added to the scores as bias."
        )


def asks_for_weights(aux: Aux) -> bool:
    """Whether more is asked for than the lse."""
    return aux.rows is not None or aux.topk is not None or aux.key_sums


def hidden_weights() -> RegardError:
    """What is raised where weights are asked for and a tracer hides the arrays."""
    return RegardError(
        "under a tracer, return_aux gives the lse alone. Received a request for rows, topk or key_sums; "
        "ask for them outside the traced function."
    )


def _check_floats(name: str, array: Any) -> None:
    if not dtype_name(array).startswith(("float", "bfloat")):
        raise RegardError(
            f"{name} must hold floating-point numbers. Received {dtype_name(array)}; convert it first."
        )


def check_frameworks(query: Any, key: Any, value: Any, bias: Any, sinks: Any) -> str:
    """The framework of query, key and value; raise where what gets gradients beside them belongs to another.

    NumPy's arrays get none, and stand beside those of any framework.
    """
    framework = framework_of(query, key, value)
    beside = () if bias is None else tuple(vars(bias).values()) if isinstance(bias, Bias) else (bias,)
    for array in (*(part for part in beside if hasattr(part, "dtype")), *(() if sinks is None else (sinks,))):
        if framework_name(array) not in (framework, "numpy"):
            framework_of(query, array)
    return framework


def unpacked(
    query: Any, key: Any, value: Any, cu_seqlens_q: Any, cu_seqlens_k: Any
) -> tuple[tuple[Any, Any, Any], Any, Any]:
    """The arrays of what may be `Packed`, and the offsets of queries and keys, each from its one source."""
    if isinstance(query, Packed):
        _refuse_second_offsets("query", "cu_seqlens_q", cu_seqlens_q)
        query, cu_seqlens_q = query.values, query.offsets
    if isinstance(key, Packed):
        _refuse_second_offsets("key", "cu_seqlens_k", cu_seqlens_k)
        key, cu_seqlens_k = key.values, key.offsets
    if isinstance(value, Packed):
        _check_same_sequences(cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k, value.offsets)
        value = value.values
    return (query, key, value), cu_seqlens_q, cu_seqlens_k


def _refuse_second_offsets(name: str, argument: str, offsets: Any) -> None:
    if offsets is not None:
        raise RegardError(
            f"{argument} was given beside a Packed {name}, which has its offsets; expected one of them. Leave {argument} out."
        )


def _check_same_sequences(offsets_k: Any, offsets_v: Any) -> None:
    """Raise unless key and value are packed by the same offsets; of what a tracer hides, only how many there are."""
    if offsets_k is None:
        raise RegardError(
            "value is Packed, and nothing says where the keys' sequences lie; pass key as Packed too, or its cu_seqlens_k."
        )
    if is_traced(offsets_k) or is_traced(offsets_v):
        same = offsets_k is offsets_v or len(offsets_k.shape) != 1 or _same_size(offsets_k, offsets_v)
    else:
        same = np.array_equal(host_integers(offsets_k, "cu_seqlens_k"), host_integers(offsets_v, "offsets"))
    if not same:
        raise ShapeError(
            "key and value must be packed alike. Received different offsets; pack both from the same sequences."
        )


def _same_size(one: Any, other: Any) -> bool:
    sizes = one.shape[0], other.shape[0]
    return sizes[0] == sizes[1] or None in sizes


def check_over_sequences(shape: tuple[Any, ...], leading: tuple[Any, ...], name: str) -> None:
    """Raise unless an array (..., H, T, S) broadcasts to the sequences; of sizes that are None nothing is known."""
    given = shape[:-3]
    if len(given) > len(leading) or any(
        a not in (1, b) and None not in (a, b) for a, b in zip(given[::-1], leading[::-1], strict=False)
    ):
        raise ShapeError(f"{name} must broadcast to {leading} sequences. Received shape {shape}.")


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


_LAYOUT = "cu_seqlens_q", "cu_seqlens_k", "key_sequence", "query_start"


def check_layout(layout: Sequence[Any]) -> None:
    """Raise for offsets, `key_sequence` and `query_start` that are written out and no integers; arrays are looked at later."""
    for name, given in zip(_LAYOUT, layout, strict=True):
        numbers = given if isinstance(given, list | tuple) else (given,)
        if any(isinstance(number, float) for number in numbers):
            raise RegardError(f"{name} must hold integers. Received dtype float64.")
        if any(isinstance(number, list | tuple) for number in numbers):
            raise ShapeError(f"{name} must be one-dimensional. Received shape {np.shape(given)}.")


def refuse_packed_arguments(cu_seqlens_k: Any, key_sequence: Any) -> None:
    """Raise where padded arrays come with arguments that only packed ones have."""
    for name, argument in (("cu_seqlens_k", cu_seqlens_k), ("key_sequence", key_sequence)):
        if argument is not None:
            raise RegardError(
                f"{name} was given without cu_seqlens_q; pass the query's offsets too, or a Packed query."
            )
