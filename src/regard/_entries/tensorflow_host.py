"""The kernel in a TensorFlow graph: a Python function to which tensors come as NumPy arrays when the graph runs."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from regard._biases import Alibi, Bias, RelativeBias
from regard._errors import RegardError
from regard._form import Parts, bias_array, planned, written
from regard._masks import Mask
from regard._plan import Plan
from regard.backends import native
from regard.backends.tensorflow.exchange import empty

Array = np.ndarray


class Host:
    """A call whose numbers come when the graph runs, and the operations that run it."""

    def __init__(
        self,
        layout: Sequence[Any],
        mask: Mask | None,
        bias: Bias | None,
        numbers: dict[str, Any],
        seed: Any,
    ) -> None:
        self.form, others, self.integers = written(("native",), layout, mask, bias, tf.convert_to_tensor)
        self.bias_array = None if bias is None else bias_array(bias)
        self.numbers = numbers
        seed = seed if numbers["dropout_p"] else None
        self.seed = seed if seed is None or not hasattr(seed, "dtype") else None
        self.others = [*others, *([] if self.seed is seed else [tf.reshape(tf.cast(seed, tf.int64), [1])])]
        self.seed_given = self.seed is not seed

    def forward(self, *arrays: Any) -> tuple[Any, Any]:
        """Output and lse in the precision of the sums."""
        present = [array is not None for array in arrays]
        count = sum(present)

        def run(*given: Array) -> tuple[Array, Array]:
            query, key, value, bias, sinks = _spread(given[:count], present)
            call = self._call(query, key, bias, given[count:])
            flat = (_flat(query), _flat(key), _flat(value), call.bias, sinks)
            out, lse = native.forward(call.plan, *flat, call.seed, wide=True, empty=empty)
            return out.reshape(*query.shape[:-1], out.shape[-1]), lse.reshape(query.shape[:-1])

        query, value = arrays[0], arrays[2]
        precision = tf.float64 if query.dtype == tf.float64 else tf.float32
        given = [array for array in arrays if array is not None]
        out, lse = tf.numpy_function(run, [*given, *self.others], [precision, precision], stateful=False)
        out.set_shape([*query.shape[:-1], value.shape[-1]])
        lse.set_shape(query.shape[:-1])
        return out, lse

    def backward(self, arrays: Sequence[Any], out: Any, lse: Any, grads: tuple[Any, Any]) -> tuple[Any, ...]:
        """Gradients of all arrays, given those of output and lse."""
        present = [array is not None for array in arrays]
        count = sum(present)

        def run(*given: Array) -> list[Array]:
            query, key, value, bias, sinks = _spread(given[:count], present)
            out, lse, grad_out, grad_lse = given[count : count + 4]
            call = self._call(query, key, bias, given[count + 4 :])
            heads = lse.shape[-1]
            found = native.backward(
                call.plan, _flat(query), _flat(key), _flat(value), call.bias, sinks, call.seed, _flat(out),
                lse.reshape(-1, heads), _flat(grad_out), grad_lse.reshape(-1, heads), empty=empty,
            )  # fmt: skip
            found = (*found[:3], None if bias is None else call.bias_gradient(found[3], bias), found[4])
            return [
                grad.reshape(array.shape)
                for grad, array in zip(found, (query, key, value, bias, sinks), strict=True)
                if array is not None and grad is not None
            ]

        given = [array for array in arrays if array is not None]
        dtypes = [array.dtype for array in given]

        @tf.custom_gradient
        def once(*taken: Any) -> Any:
            return tf.numpy_function(run, list(taken), dtypes, stateful=False), _refuse_second

        found = once(*given, out, lse, *grads, *self.others)
        for grad, array in zip(found, given, strict=True):
            grad.set_shape(array.shape)
        return tuple(_spread(found, present))

    def _call(self, query: Array, key: Array, bias: Array | None, others: Sequence[Array]) -> _Call:
        seed = self.seed
        if self.seed_given:
            *others, given = others
            seed = int(given[0])
        return _Call(self, query.shape, key.shape, bias, list(others), None if seed is None else int(seed))


def _refuse_second(*_: Any) -> Any:
    raise RegardError(
        "the kernel has no second derivatives in a graph. Expected one backward pass; pass backend='tiled', or take second "
        "derivatives in eager mode."
    )


class _Call:
    """One run: the plan, and the bias as the kernel reads it."""

    def __init__(
        self,
        host: Host,
        q_shape: tuple[int, ...],
        k_shape: tuple[int, ...],
        bias: Array | None,
        others: list[Array],
        seed: int | None,
    ) -> None:
        rest = (tuple(host.integers), q_shape, k_shape, *host.numbers.values())
        self.parts, self.plan = _planned(host.form, others, rest)
        self.seed, self.bias = seed, None
        if bias is not None:
            made = self._made(bias)
            made.check(self.plan.spans, self.plan.heads)
            self.bias = made.lowered(self.plan.distances)

    def _made(self, array: Array) -> Bias:
        kind, *rest = self.parts.bias
        return kind(array, *rest)

    def bias_gradient(self, grad: Any, array: Array) -> Array:
        """The gradient of a bias's own array, given that of what the kernel read."""
        made, distances = self._made(array), self.plan.distances
        if isinstance(made, Alibi):
            away = np.abs(np.arange(distances.start, distances.stop))
            return -(grad * away).sum(1).astype(array.dtype)
        if isinstance(made, RelativeBias):
            buckets = made._buckets(np.arange(distances.start, distances.stop, dtype=np.int64))
            summed = np.zeros(array.shape, np.float64)
            np.add.at(summed, buckets, grad.T)
            return summed.astype(array.dtype)
        return grad.astype(array.dtype).reshape(array.shape)


def _planned(form: str, others: Sequence[Array], rest: tuple[Any, ...]) -> tuple[Parts, Plan]:
    if any(array.dtype == np.bool_ for array in others):
        return planned(form, others, *rest)
    return _remembered(
        form, tuple((array.astype(np.int64).tobytes(), array.shape) for array in others), *rest
    )


# The layers of a model make the same call again and again, forward and backward.
@lru_cache(maxsize=8)
def _remembered(form: str, stored: tuple[Any, ...], *rest: Any) -> tuple[Parts, Plan]:
    return planned(
        form, [np.frombuffer(numbers, np.int64).reshape(shape) for numbers, shape in stored], *rest
    )


def _spread(given: Sequence[Any], present: Sequence[bool]) -> list[Any]:
    rest = iter(given)
    return [next(rest) if some else None for some in present]


def _flat(array: Array) -> Array:
    """(..., T, H, D) -> (total, H, D)."""
    return array if array.ndim == 3 else array.reshape(int(np.prod(array.shape[:-2])), *array.shape[-2:])


# TensorFlow keeps what is registered with it, and so this memory, longer than the kernel's own objects may live.
atexit.register(_remembered.cache_clear)
