"""The arrays that masks and biases hold: checked, looked up by coordinates, compared by value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._arrays import dtype_name, host_integers, is_jax, is_tensorflow, is_torch, is_traced, reshaped
from regard._errors import ShapeError
from regard._intervals import Spans

# Distances and lengths from here on are unlimited: no position reaches them.
UNREACHABLE = 2**31 - 1


def dense_lookup(array: Any, at: Any) -> tuple[Any, Any]:
    """The values of an array that broadcasts to (N, H, T, S) at some coordinates, and which of them lie inside it.

    Both broadcast to (G, H, Q, K). A value outside means nothing.
    """
    index, inside = dense_index(tuple(array.shape), at)
    return at.bring(array)[index], inside


def dense_index(shape: tuple[int, ...], at: Any) -> tuple[tuple[Any, ...], Any]:
    """Where an array of this shape, which broadcasts to (N, H, T, S), is read for some coordinates, and which are inside."""
    coordinates = (at.sequence, at.head, at.row, at.key)[4 - len(shape) :]
    inside, index = at.key >= 0, []
    for size, coordinate in zip(shape, coordinates, strict=True):
        fits = coordinate < size
        index.append(coordinate * fits if size != 1 else coordinate * 0)
        inside = inside if size == 1 else inside & fits
    return tuple(index), inside


def check_dense(name: str, array: Any, spans: Spans | None = None, heads: int = 1) -> None:
    """Raise `ShapeError` unless the array can broadcast to (N, H, T, S)."""
    shape = tuple(array.shape)
    if not 1 <= len(shape) <= 4:
        raise ShapeError(
            f"{name} needs an array that broadcasts to (sequences, heads, queries, keys), got {len(shape)} dimensions, "
            f"{shape}; give it one to four"
        )
    if spans is None:
        return
    sequences, array_heads, rows, keys = (1,) * (4 - len(shape)) + shape
    for axis, size, wanted in (("sequences", sequences, len(spans.q_begin)), ("heads", array_heads, heads)):
        if size not in {1, wanted}:
            raise ShapeError(
                f"{name} needs 1 or {wanted} {axis}, got {size} in shape {shape}; "
                "its axes are (sequences, heads, queries, keys), counted from the right"
            )
    for axis, size, lengths in (("queries", rows, spans.q_length), ("keys", keys, spans.k_length)):
        if size == 0 and np.max(lengths, initial=0) > 0:
            raise ShapeError(f"{name} is empty along its {axis}, shape {shape}, but the sequences are not")


def counts(name: str, values: Any) -> int | NDArray[np.int64]:
    """Non-negative integers, one for all sequences (int) or one for each (an array of its own); unlooked at under a tracer."""
    if is_traced(values):
        return values
    array = host_integers(values, name)
    if array.ndim > 1 or (array < 0).any():
        raise ShapeError(
            f"{name} must be an integer of at least 0, or a one-dimensional array with one for each sequence, "
            f"got {show(array)}"
        )
    array = np.minimum(array, UNREACHABLE).astype(np.int64)
    return int(array) if array.ndim == 0 else array


def check_counts(name: str, values: int | NDArray[np.int64] | None, spans: Spans) -> None:
    """Raise `ShapeError` unless there is one number, or one for each sequence."""
    sequences = len(spans.q_begin)
    if isinstance(values, np.ndarray) and len(values) != sequences:
        raise ShapeError(f"{name} must hold one integer per sequence, {sequences} in all, got {len(values)}")


def per_sequence(values: int | NDArray[np.int64], at: Any) -> Any:
    """The number of each coordinate's sequence."""
    return at.bring(values)[at.sequence] if getattr(values, "ndim", 0) else values


def distance(name: str, value: float) -> float:
    """A window's distance: an int, or `math.inf` when no position reaches it."""
    if not value >= 0 or (value != math.inf and value != int(value)):
        raise ShapeError(
            f"Window({name}=) must be an integer of at least 0, or math.inf for no limit, got {value!r}"
        )
    return math.inf if value >= UNREACHABLE else int(value)


def token_ids(name: str, ids: Any) -> Any:
    """One id per token, flattened; an array of a framework stays one."""
    kept = is_torch(ids) or is_jax(ids) or is_tensorflow(ids) or is_traced(ids)
    array = ids if kept else host_integers(ids, name)
    if isinstance(array, list | tuple):  # under a tracer
        return array
    return reshaped(array, (-1,))


def fingerprint(value: Any) -> Any:
    """Something hashable that is equal for equal values; arrays of other frameworks are only equal to themselves."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return id(value) if hasattr(value, "shape") else value


def show(value: Any) -> str:
    """A value for a message: short arrays by their numbers, others by type and shape."""
    if not hasattr(value, "shape"):
        return repr(value)
    if isinstance(value, np.ndarray) and value.size <= 8:
        return repr(value.tolist())
    return f"<{dtype_name(value)} {tuple(value.shape)}>"
