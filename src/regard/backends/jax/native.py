"""The C++ kernel on JAX's CPU arrays: called by compiled programs through XLA's foreign functions, or through JAX's callback.

Either way a call comes as addresses of contiguous arrays and the text of its request. Offsets have numbers here, and a plan is made of them.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from regard._biases import Alibi, Bias, RelativeBias
from regard._form import Parts, planned
from regard._lowering import bias_arguments, dense_layout, kernel, lowered, threads
from regard._plan import Plan
from regard.backends.jax.request import Request, precision_of, read_text, text_of

# XLA's numbers of the types that calls hold.
_TYPES = {
    1: "bool",
    4: "int32",
    5: "int64",
    8: "uint32",
    9: "uint64",
    10: "float16",
    11: "float32",
    12: "float64",
    16: "bfloat16",
}
_STORED = {"bfloat16": 1, "float16": 2}

_TARGET = "regard_attention"


class Buffer:
    """An array where it lies: its address, dtype's name and shape; contiguous."""

    __slots__ = ("address", "dtype", "shape")

    def __init__(self, address: int, dtype: str, shape: tuple[int, ...]) -> None:
        self.address, self.dtype, self.shape = address, dtype, shape

    @classmethod
    def of(cls, array: NDArray[Any]) -> Buffer:
        """Of a contiguous NumPy array that the caller keeps alive."""
        return cls(array.ctypes.data, array.dtype.name, array.shape)

    def bytes(self) -> bytes:
        """A copy of what the array holds."""
        return ctypes.string_at(self.address, math.prod(self.shape) * np.dtype(self.dtype).itemsize)

    def numpy(self) -> NDArray[Any]:
        """The array itself."""
        dtype = np.dtype(self.dtype)
        size = math.prod(self.shape) * dtype.itemsize
        if not size:
            return np.zeros(self.shape, dtype)
        held: Any = (ctypes.c_char * size).from_address(self.address)
        return np.frombuffer(held, dtype).reshape(self.shape)

    def view(self) -> tuple[int, int, int, int]:
        """As the kernel takes arrays (..., T, H, D): address, row stride and head stride, and what the numbers are."""
        heads, size = self.shape[-2:]
        return self.address, heads * size, size, _STORED.get(self.dtype, 0)


def serve(text: str, arrays: Sequence[tuple[int, int, Any]], results: Sequence[tuple[int, int, Any]]) -> None:
    """Compute a call of a compiled program: what the handler of XLA calls."""
    inputs, outputs = (
        [Buffer(address, _TYPES[kind], shape) for address, kind, shape in side] for side in (arrays, results)
    )
    _compute(text, inputs, outputs)


def _compute(text: str, inputs: list[Buffer], outputs: list[Buffer]) -> None:
    kind, request, flags = read_text(text)
    if kind == "forward":
        _forward(_Call(request, inputs), *outputs)
    else:
        wanted, with_lse = flags
        count = 4 if with_lse else 3
        _backward(_Call(request, inputs[:-count]), inputs[-count:], tuple(wanted), outputs)


class _Call:
    """The plan of a call and its arrays as the kernel reads them, kept alive, and their addresses."""

    def __init__(self, request: Request, inputs: list[Buffer]) -> None:
        given = request.opened(inputs)
        query, key, value = given.query, given.key, given.value
        parts, self.plan = _made(request, given.arrays, query.shape, key.shape)
        self.dtype = precision_of(np.dtype(query.dtype))
        self.seed = 0
        if given.seed is not None:
            low, high = given.seed.numpy().tolist()
            self.seed = low | high << 32
        found = lowered(self.plan, query.shape[-1], value.shape[-1])
        self.kernel_plan = found.plan
        self.bias: Bias | None = None
        self.bias_array = self.mask = mask = dense = distances = None
        if given.bias is not None:
            self.bias = parts.bias[0](given.bias.numpy(), *parts.bias[1:])
            self.bias.check(self.plan.spans, self.plan.heads)
            lower = self.bias.lowered(self.plan.distances)
            self.bias_array = np.ascontiguousarray(lower, self.dtype)
            dense, distances = bias_arguments(
                self.plan, self.bias_array.shape, _strides(self.bias_array), self.bias_array.ctypes.data
            )
        if found.dense is not None:
            self.mask = found.dense.array
            mask = (self.mask.ctypes.data, *dense_layout(self.mask.shape, _strides(self.mask)))
        self.sinks = None if given.sinks is None else np.ascontiguousarray(given.sinks.numpy(), self.dtype)
        self.arguments = (
            self.dtype.itemsize, query.view(), key.view(), value.view(), mask, dense, distances, _address(self.sinks)
        )  # fmt: skip


def _forward(call: _Call, out: Buffer, lse: Buffer) -> None:
    call.kernel_plan.forward(call.arguments, call.seed, out.view(), lse.address, threads())


def _backward(call: _Call, above: list[Buffer], wanted: tuple[bool, ...], results: list[Buffer]) -> None:
    out, lse, grad_out, *grad_lse = above
    kept, places = [], iter(results)
    views = []
    for view, shape, some in zip(call.arguments[1:4], _shapes(call), wanted[:3], strict=True):
        if some:
            views.append((next(places).address, *view[1:]))
        else:  # nobody wants it, but the kernel writes it
            kept.append(np.empty(math.prod(shape) * (call.dtype.itemsize if not view[3] else 2), np.uint8))
            views.append((kept[-1].ctypes.data, *view[1:]))
    bias = np.zeros_like(call.bias_array) if call.bias_array is not None and wanted[3] else None
    sinks = None if call.sinks is None else np.empty_like(call.sinks)
    call.kernel_plan.backward(
        call.arguments, call.seed, out.view(), lse.address, grad_out.view(), grad_lse[0].address if grad_lse else 0,
        *views, _address(bias), _address(sinks), threads(),
    )  # fmt: skip
    if bias is not None and call.bias is not None:
        next(places).numpy()[...] = _bias_gradient(call.bias, call.plan.distances, bias)
    if wanted[4] and sinks is not None:
        next(places).numpy()[...] = sinks


def _shapes(call: _Call) -> list[tuple[int, ...]]:
    plan = call.plan
    sizes = (
        (plan.total_queries, plan.heads),
        (plan.total_keys, plan.kv_heads),
        (plan.total_keys, plan.kv_heads),
    )
    return [(*size, view[2]) for size, view in zip(sizes, call.arguments[1:4], strict=True)]


def _bias_gradient(bias: Bias, distances: range, grad: NDArray[Any]) -> NDArray[Any]:
    """The gradient of a bias's own array, given that of `bias.lowered(distances)`."""
    away = np.arange(distances.start, distances.stop, dtype=np.int64)
    if isinstance(bias, Alibi):
        return -(grad * np.abs(away)).sum(1)
    if isinstance(bias, RelativeBias):
        summed = np.zeros(bias.table.shape, grad.dtype)
        np.add.at(summed, bias._buckets(away), grad.T)
        return summed
    return grad.reshape(next(iter(vars(bias).values())).shape)


def _made(request: Request, arrays: Sequence[Buffer], q_shape: Any, k_shape: Any) -> tuple[Parts, Plan]:
    if any(array.dtype == "bool" for array in arrays):
        held = [array.numpy() for array in arrays]
        return planned(request.form, held, request.numbers, q_shape, k_shape, *_numbers(request))
    stored = tuple((array.bytes(), array.dtype, array.shape) for array in arrays)
    return _remembered(request, stored, q_shape, k_shape)


# The layers of a model make the same call again and again, forward and backward.
@lru_cache(maxsize=8)
def _remembered(request: Request, stored: Any, q_shape: Any, k_shape: Any) -> tuple[Parts, Plan]:
    arrays = [np.frombuffer(numbers, dtype).reshape(shape) for numbers, dtype, shape in stored]
    return planned(request.form, arrays, request.numbers, q_shape, k_shape, *_numbers(request))


def _numbers(request: Request) -> tuple[Any, ...]:
    return request.scale, request.softcap, request.dropout_p


def forward(*operands: Any, request: Request) -> Any:
    """As `tiled.forward`, for arrays on a CPU."""
    query, _, value, *_ = operands
    shape, kind = query.shape[:-1], precision_of(query.dtype)
    results = (
        jax.ShapeDtypeStruct((*shape, value.shape[-1]), kind if request.wide else query.dtype),
        jax.ShapeDtypeStruct(shape, kind),
    )
    return _called(text_of("forward", request), results, operands)


def backward(*operands: Any, request: Request, wanted: tuple[bool, ...], with_lse: bool) -> Any:
    """As `tiled.backward`, for arrays on a CPU."""
    count = 4 if with_lse else 3
    given = request.opened(operands[:-count])
    kind = precision_of(given.query.dtype)
    out, lse, grad_out, *grad_lse = operands[-count:]
    arrays = (given.query, given.key, given.value, given.bias, given.sinks)
    results = tuple(
        jax.ShapeDtypeStruct(array.shape, array.dtype)
        for array, some in zip(arrays, wanted, strict=True)
        if some
    )
    above = (out, lse, grad_out, *(array.astype(kind) for array in grad_lse))
    return _called(text_of("backward", request, wanted, with_lse), results, (*operands[:-count], *above))


def at_once(kind: str, request: Request, flags: tuple[Any, ...], operands: Any, results: Any) -> list[Any]:
    """A call outside of any compiled program; nothing is compiled."""
    held = [np.ascontiguousarray(array) for array in operands]
    found = [np.empty(result.shape, result.dtype) for result in results]
    _compute(
        text_of(kind, request, *flags),
        [Buffer.of(array) for array in held],
        [Buffer.of(array) for array in found],
    )
    return [placed(array, operands[0]) for array in found]


def placed(array: NDArray[Any], like: Any) -> jax.Array:
    """A NumPy array as one of JAX, on the device to which somebody brought `like`, if anybody did."""
    if getattr(like, "committed", False):
        return jax.device_put(array, like.sharding)
    return jnp.asarray(array)


@functools.cache
def has_handler() -> bool:
    """Whether compiled programs call the kernel directly: it was built with XLA's headers, and this XLA takes it."""
    if not hasattr(kernel(), "xla_handler"):
        return False
    try:
        jax.ffi.register_ffi_target(_TARGET, kernel().xla_handler(serve), platform="cpu")
    except RuntimeError:  # built for an XLA too far from this one
        return False
    return True


def _called(text: str, results: tuple[jax.ShapeDtypeStruct, ...], operands: Any) -> Any:
    if has_handler():
        return jax.ffi.ffi_call(_TARGET, results)(*operands, call=text)

    def computed(*arrays: Any) -> tuple[NDArray[Any], ...]:
        held = [np.ascontiguousarray(array) for array in arrays]
        found = tuple(np.empty(result.shape, result.dtype) for result in results)
        _compute(text, [Buffer.of(array) for array in held], [Buffer.of(array) for array in found])
        return found

    return jax.pure_callback(computed, results, *map(jnp.asarray, operands))


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.ctypes.data


def _strides(array: NDArray[Any]) -> tuple[int, ...]:
    return tuple(stride // array.itemsize for stride in array.strides)
