"""TensorFlow's CPU tensors as NumPy arrays and back, without a copy, and what TensorFlow is about to do with a call."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# TensorFlow's kernels may read whole vector registers from the start of an array.
_ALIGNMENT = 64


def view(tensor: Any) -> NDArray[Any]:
    """The numbers of an eager tensor on the CPU, where they lie."""
    return np.asarray(tensor)


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """As `numpy.empty`, in memory that TensorFlow takes as it is."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def tensor(array: NDArray[Any]) -> Any:
    """An eager tensor over the memory of an array of our own that nobody will write to."""
    if array.__array_interface__["data"][0] % _ALIGNMENT or not array.size:
        return tf.convert_to_tensor(array)
    if array.dtype.name == "bfloat16":
        return tf.bitcast(tf.experimental.dlpack.from_dlpack(array.view(np.uint16).__dlpack__()), tf.bfloat16)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def may_record() -> bool:
    """Whether a tape or an accumulator may be watching what is computed; TensorFlow has no public way to ask."""
    ask = getattr(_recording(), "could_possibly_record", None)
    return True if ask is None else bool(ask())


def unrecorded() -> contextlib.AbstractContextManager[None]:
    """Keeps tapes from recording, and so from holding, what happens in an operation with a gradient of its own."""
    stop = getattr(_recording(), "stop_recording", None)
    return contextlib.nullcontext() if stop is None or not tf.executing_eagerly() else stop()


@functools.cache
def _recording() -> Any:
    try:
        from tensorflow.python.eager import record
    except ImportError:
        return None
    return record


def is_compiled() -> bool:
    """Whether the function that is being traced will be compiled by XLA; where nobody can tell, it may be."""
    inside = _xla_context()
    return True if inside is None else bool(inside())


@functools.cache
def _xla_context() -> Callable[[], bool] | None:
    try:
        from tensorflow.python.framework import ops
        from tensorflow.python.ops import control_flow_util
    except ImportError:
        return None
    inside = getattr(control_flow_util, "GraphOrParentsInXlaContext", None)
    return None if inside is None else lambda: inside(ops.get_default_graph())
