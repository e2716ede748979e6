"""The few operations that ONNX nodes need and that the frameworks spell differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class NumPyVerbs:
    """The few operations that the frameworks spell differently."""

    @staticmethod
    def bring(array: Any) -> Any:
        return array

    @staticmethod
    def take_back(array: Any, dtype: Any) -> Any:
        return array.astype(dtype, copy=False)

    @staticmethod
    def swap(array: Any, first: int = 1, second: int = 2) -> Any:
        return array.swapaxes(first, second)

    @staticmethod
    def reshape(array: Any, shape: tuple[int, ...]) -> Any:
        return array.reshape(shape)

    @staticmethod
    def join(arrays: Sequence[Any], axis: int) -> Any:
        return np.concatenate(arrays, axis)

    @staticmethod
    def full(like: Any, shape: tuple[int, ...], number: float) -> Any:
        return np.full(shape, number, like.dtype)

    @staticmethod
    def widen(array: Any, double: bool) -> Any:
        return array.astype(np.float64 if double or array.dtype == np.float64 else np.float32)

    @staticmethod
    def tanh(array: Any) -> Any:
        return np.tanh(array)

    @staticmethod
    def mask(array: Any, allowed: Any) -> Any:
        return np.where(allowed, array, -math.inf)


class _Torch(NumPyVerbs):
    @staticmethod
    def bring(array: Any) -> Any:
        import torch

        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(np.array(array))

    @staticmethod
    def take_back(array: Any, dtype: Any) -> Any:
        import torch

        if dtype.name == "bfloat16":
            return array.to(torch.bfloat16).view(torch.int16).numpy().view(dtype)
        return array.to(getattr(torch, dtype.name)).numpy()

    @staticmethod
    def join(arrays: Sequence[Any], axis: int) -> Any:
        import torch

        return torch.cat(list(arrays), axis)

    @staticmethod
    def full(like: Any, shape: tuple[int, ...], number: float) -> Any:
        return like.new_full(shape, number)

    @staticmethod
    def widen(array: Any, double: bool) -> Any:
        return array.double() if double or str(array.dtype) == "torch.float64" else array.float()

    @staticmethod
    def tanh(array: Any) -> Any:
        return array.tanh()

    @staticmethod
    def mask(array: Any, allowed: Any) -> Any:
        return array.masked_fill(~allowed, -math.inf)


class _Jax(NumPyVerbs):
    @staticmethod
    def bring(array: Any) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(array)

    @staticmethod
    def take_back(array: Any, dtype: Any) -> Any:
        return np.asarray(array.astype(dtype))

    @staticmethod
    def join(arrays: Sequence[Any], axis: int) -> Any:
        import jax.numpy as jnp

        return jnp.concatenate(list(arrays), axis)

    @staticmethod
    def full(like: Any, shape: tuple[int, ...], number: float) -> Any:
        import jax.numpy as jnp

        return jnp.full(shape, number, like.dtype)

    @staticmethod
    def tanh(array: Any) -> Any:
        import jax.numpy as jnp

        return jnp.tanh(array)

    @staticmethod
    def mask(array: Any, allowed: Any) -> Any:
        import jax.numpy as jnp

        return jnp.where(allowed, array, -math.inf)


class _TensorFlow(NumPyVerbs):
    @staticmethod
    def bring(array: Any) -> Any:
        import tensorflow as tf

        return tf.convert_to_tensor(array)

    @staticmethod
    def take_back(array: Any, dtype: Any) -> Any:
        import tensorflow as tf

        return tf.cast(array, dtype).numpy()

    @staticmethod
    def swap(array: Any, first: int = 1, second: int = 2) -> Any:
        import tensorflow as tf

        order = list(range(array.ndim))
        order[first], order[second] = order[second], order[first]
        return tf.transpose(array, order)

    @staticmethod
    def reshape(array: Any, shape: tuple[int, ...]) -> Any:
        import tensorflow as tf

        return tf.reshape(array, shape)

    @staticmethod
    def join(arrays: Sequence[Any], axis: int) -> Any:
        import tensorflow as tf

        return tf.concat(list(arrays), axis)

    @staticmethod
    def full(like: Any, shape: tuple[int, ...], number: float) -> Any:
        import tensorflow as tf

        return tf.fill(shape, tf.constant(number, like.dtype))

    @staticmethod
    def widen(array: Any, double: bool) -> Any:
        import tensorflow as tf

        return tf.cast(array, tf.float64 if double or array.dtype == tf.float64 else tf.float32)

    @staticmethod
    def tanh(array: Any) -> Any:
        import tensorflow as tf

        return tf.tanh(array)

    @staticmethod
    def mask(array: Any, allowed: Any) -> Any:
        import tensorflow as tf

        return tf.where(allowed, array, tf.constant(-math.inf, array.dtype))


FRAMEWORKS: dict[str, type[NumPyVerbs]] = {
    "numpy": NumPyVerbs,
    "torch": _Torch,
    "jax": _Jax,
    "tensorflow": _TensorFlow,
}
