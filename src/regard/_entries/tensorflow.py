"""A call of attention on TensorFlow tensors: eager ones here, symbolic ones in `_tensorflow_graph`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from regard._arrays import is_ragged_tensorflow
from regard._attention import Call, choose, lower
from regard._aux import Aux, AuxOutput, TopK
from regard._checks import check_frameworks
from regard._errors import RegardError
from regard._packed import Packed
from regard.backends import native, reference
from regard.backends.tensorflow import function
from regard.backends.tensorflow.exchange import empty, may_record, tensor, view


def attend(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """`regard.attention` on tensors, variables, ragged tensors, or `Packed` over tensors."""
    if is_ragged_tensorflow(query):
        return _ragged(query, key, value, options)
    query, key, value = (_tensors(array) for array in (_packed(query), _packed(key), _packed(value)))
    values = [array.values if isinstance(array, Packed) else array for array in (query, key, value)]
    sinks = options["sinks"]
    check_frameworks(values[0], values[1], values[2], options["bias"], sinks)
    options["sinks"] = None if sinks is None else tf.convert_to_tensor(sinks)
    if not tf.executing_eagerly() or any(tf.is_symbolic_tensor(array) for array in values):
        from regard._entries import tensorflow_graph

        return tensorflow_graph.attend(query, key, value, **options)
    aux, backend = options.pop("return_aux"), options.pop("backend")
    call = lowered(query, key, value, **options)
    name = choose(call, backend)
    run = _run_native if name == "native" else _run_tiled
    out, found = run(call, name, aux)
    if call.offsets is not None:
        out = Packed(out, call.offsets)
    return out if found is None else (out, call.shape_aux(found))


def lowered(query: Any, key: Any, value: Any, **options: Any) -> Call:
    """A call of eager tensors checked and lowered: of the arrays, only shapes and dtypes are looked at."""
    query, key, value = (_tensors(_packed(array)) for array in (query, key, value))
    call = lower(_stand_in(query), _stand_in(key), _stand_in(value), framework="tensorflow", **options)
    arrays = [array.values if isinstance(array, Packed) else array for array in (query, key, value)]
    if call.leading is not None and tuple(arrays[0].shape[:-3]) != call.leading:
        arrays[0] = tf.broadcast_to(arrays[0], (*call.leading, *arrays[0].shape[-3:]))
    return replace(call, arrays=tuple(arrays))


def _ragged(query: Any, key: Any, value: Any, options: dict[str, Any]) -> Any:
    """A ragged query gives a ragged output."""
    found = attend(_packed(query), key, value, **options)
    out, *aux = found if isinstance(found, tuple) else (found,)
    ragged = tf.RaggedTensor.from_row_splits(out.values, query.row_splits, validate=False)
    return (ragged, *aux) if aux else ragged


def _packed(array: Any) -> Any:
    if not is_ragged_tensorflow(array):
        return array
    if array.ragged_rank != 1:
        raise RegardError(
            f"a ragged tensor must be ragged along its lengths alone: (N, None, heads, size). Received {array.shape}."
        )
    if tf.is_symbolic_tensor(array.row_splits):
        return Packed(array.values, tf.cast(array.row_splits, tf.int32))
    return Packed(array.values, view(array.row_splits))


def _tensors(array: Any) -> Any:
    """Variables as the tensors that they hold."""
    if isinstance(array, Packed):
        held = _tensors(array.values)
        return array if held is array.values else array.with_values(held)
    return tf.convert_to_tensor(array) if isinstance(array, tf.Variable) else array


def _stand_in(array: Any) -> Any:
    """A NumPy array of the shape and dtype of a tensor, without its memory."""
    if isinstance(array, Packed):
        return array.with_values(_stand_in(array.values))
    return np.broadcast_to(np.zeros((), array.dtype.as_numpy_dtype), tuple(array.shape))


def _run_native(call: Call, name: str, aux: Aux | None) -> tuple[Any, AuxOutput | None]:
    bias = None if call.bias is None else tf.convert_to_tensor(call.bias_array)
    arrays = (*call.arrays, bias, call.sinks)
    if may_record():
        out, lse = function.differentiable(
            lambda *given: _forward(call, given, wide=True),
            lambda *given: _backward(call, *given),
            lambda *given: _differentiable_backward(call, *given),
            arrays,
        )
    else:
        out, lse = _forward(call, arrays, wide=False)
    if aux is None:
        return out, None
    flat = lse if call.leading is None else tf.reshape(lse, (-1, lse.shape[-1]))
    return out, _look(call, name, arrays, flat, aux)


def _forward(call: Call, arrays: Sequence[Any], *, wide: bool) -> tuple[Any, Any]:
    shape = tuple(arrays[0].shape[:-1])
    out, lse = native.forward(call.plan, *_views(arrays), call.seed, wide=wide, empty=empty)
    return tensor(out.reshape(*shape, out.shape[-1])), tensor(lse.reshape(shape))


def _backward(
    call: Call, arrays: Sequence[Any], out: Any, lse: Any, grads: tuple[Any, Any]
) -> tuple[Any, ...]:
    flat = [_flat(view(array)) for array in (out, lse[..., None], grads[0], grads[1][..., None])]
    found = native.backward(
        call.plan, *_views(arrays), call.seed, flat[0], flat[1][..., 0], flat[2], flat[3][..., 0], empty=empty
    )
    return tuple(
        None if grad is None else tensor(grad.reshape(array.shape))
        for grad, array in zip(found, arrays, strict=True)
    )


def _differentiable_backward(call: Call, arrays: Sequence[Any], grads: tuple[Any, Any]) -> tuple[Any, ...]:
    """Gradients by TensorFlow's own operations, which have gradients themselves."""
    flat = tuple(_flat_tensor(array) for array in arrays[:3])
    grad_out, grad_lse = _flat_tensor(grads[0]), tf.reshape(grads[1], (-1, call.plan.heads))
    found = function.differentiable_gradients(call.plan, (*flat, *arrays[3:]), call.seed, grad_out, grad_lse)
    return tuple(
        None if grad is None else tf.reshape(grad, array.shape)
        for grad, array in zip(found, arrays, strict=True)
    )


def _run_tiled(call: Call, name: str, aux: Aux | None) -> tuple[Any, AuxOutput | None]:
    bias = None if call.bias is None else tf.convert_to_tensor(call.bias_array)
    flat = tuple(_flat_tensor(array) for array in call.arrays)
    arrays = (*flat, bias, call.sinks)
    out, lse = function.attend(call.plan, arrays, call.seed)
    return call.shape_rows(out), None if aux is None else _look(call, name, arrays, lse, aux)


def _look(call: Call, name: str, arrays: Sequence[Any], lse: Any, aux: Aux) -> AuxOutput:
    """What `aux` asks for, flat. What is more than the lse is computed on the host and has no gradient."""
    if aux.rows is None and aux.topk is None and not aux.key_sums:
        return AuxOutput(lse=lse if aux.lse else None)
    room = native if name == "native" else reference
    found = room.look(call.plan, *_views(arrays), view(lse), aux)
    rest = {name: getattr(found, name) for name in ("rows", "key_sums")}
    return AuxOutput(
        lse=lse if aux.lse else None,
        topk=None if found.topk is None else TopK(*map(tf.convert_to_tensor, found.topk)),
        **{name: None if array is None else tf.convert_to_tensor(array) for name, array in rest.items()},
    )


def _views(arrays: Sequence[Any]) -> tuple[Any, Any, Any, Any, Any]:
    """Query, key and value flattened, bias and sinks as they are, as NumPy."""
    query, key, value = (_flat(view(array)) for array in arrays[:3])
    bias, sinks = (None if array is None else view(array) for array in arrays[3:])
    return query, key, value, bias, sinks


def _flat(array: np.ndarray) -> np.ndarray:
    """(..., T, H, D) -> (total, H, D)."""
    return array if array.ndim == 3 else array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


def _flat_tensor(array: Any) -> Any:
    if array.shape.rank == 3:
        return array
    return tf.reshape(array, (math.prod(array.shape[:-2]), *array.shape[-2:]))
