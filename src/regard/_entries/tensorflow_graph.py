"""A call of attention on symbolic tensors, in `tf.function`: the kernel through a Python function where that may be called, else tiles.

XLA, which compiles `jit_compile=True`, calls no Python, and a GPU would wait for it. Numbers of tensors can't be looked at: tokens past the
last offset give 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from regard._arrays import device_of
from regard._attention import lower
from regard._aux import Aux, AuxOutput
from regard._biases import Bias, DenseBias
from regard._checks import (
    asks_for_weights,
    check_boolean,
    check_layout,
    check_over_sequences,
    check_packed,
    check_seed,
    check_sinks,
    checked_forms,
    hidden_weights,
    refuse_packed_arguments,
    unpacked,
)
from regard._choice import no_backend, served_names
from regard._entries.tensorflow_host import Host
from regard._errors import RegardError, ShapeError
from regard._lowering import kernel, missing
from regard._masks import Dense, Lengths, Mask, Prefix, conjuncts
from regard._packed import Packed
from regard._plan import Plan, Spans, check_leading, make_plan
from regard.backends.tensorflow import function
from regard.backends.tensorflow.exchange import is_compiled


@tf.autograph.experimental.do_not_convert
def attend(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any,
    bias: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    key_sequence: Any,
    query_start: Any,
    scale: float | None,
    softcap: float | None,
    sinks: Any,
    dropout_p: float,
    seed: Any,
    return_aux: Aux | None,
    backend: Any,
) -> Any:
    """`regard.attention` where numbers can't be looked at."""
    offsets = query.offsets if isinstance(query, Packed) else None
    (query, key, value), cu_seqlens_q, cu_seqlens_k = unpacked(query, key, value, cu_seqlens_q, cu_seqlens_k)
    _check(query, key, value, sinks, return_aux)
    check_seed(dropout_p, seed)
    if cu_seqlens_q is not None:
        check_packed(query, key, mask, bias)
    else:
        refuse_packed_arguments(cu_seqlens_k, key_sequence)
        check_leading(tuple(query.shape), tuple(key.shape))
        query, mask, bias = _over_leading(query, key, mask, bias)
    layout = (cu_seqlens_q, cu_seqlens_k, key_sequence, query_start)
    check_layout(layout)
    call = _Call(
        (query, key, value), mask, bias, sinks, layout,
        {"scale": scale, "softcap": softcap, "dropout_p": float(dropout_p)}, seed,
    )  # fmt: skip
    call.check()
    names = served_names("tensorflow", backend)
    if backend is None and call.is_tiny() and "tiled" in names:
        names = ("tiled",)
    name = _chosen(query, names)
    out, lse = call.native() if name == "native" else call.tiled()
    formed = out if offsets is None else Packed(out, offsets)
    return formed if return_aux is None else (formed, AuxOutput(lse=lse if return_aux.lse else None))


# Rows times keys, of all sequences and heads.
_TINY = 1 << 14

Lowered = tuple[Plan, tuple[Any, Any], range]  # the plan, T and S of padded arrays, the distances of a bias


@dataclass(eq=False)
class _Call:
    arrays: tuple[Any, Any, Any]
    mask: Mask | None
    bias: Bias | None
    sinks: Any
    layout: tuple[Any, Any, Any, Any]  # offsets of queries and keys, key_sequence, query_start
    numbers: dict[str, Any]  # scale, softcap, dropout_p
    seed: Any

    def check(self) -> None:
        """Raise what eager calls raise, where all that they look at is known now."""
        if self._is_known():
            self._known()

    def native(self) -> tuple[Any, Any]:
        """Output and lse by the kernel, when the graph runs."""
        host = Host(self.layout, self.mask, self.bias, self.numbers, self.seed)
        bias = None if self.bias is None else tf.convert_to_tensor(host.bias_array)
        return function.differentiable(host.forward, host.backward, _never, (*self.arrays, bias, self.sinks))

    def tiled(self) -> tuple[Any, Any]:
        """Output and lse by TensorFlow's own operations."""
        plan, longest, distances = self._known() if self._is_known() else self._unknown()
        bias = self.bias.array if isinstance(self.bias, DenseBias) else None
        if self.bias is not None:
            bias = tf.convert_to_tensor(self.bias.lowered(distances) if bias is None else bias)
        flat = [_flat(array) for array in self.arrays]
        padded = flat[0].shape[0] is None or flat[1].shape[0] is None
        if padded:
            # One row more, which no sequence holds: there is always one to point to.
            flat = [tf.pad(array, [[0, 1], [0, 0], [0, 0]]) for array in flat]
            plan = replace(plan, total_queries=plan.total_queries + 1, total_keys=plan.total_keys + 1)
        vars(plan)["distances"] = distances  # a plan of tensors can't count them
        out, lse = function.attend(plan, (*flat, bias, self.sinks), _seed(self.seed, plan), longest)
        if padded:
            out, lse = out[:-1], lse[:-1]
        rows = _sizes(self.arrays[0])[:-1]
        return tf.reshape(out, (*rows, out.shape[-1])), tf.reshape(lse, rows)

    def is_tiny(self) -> bool:
        """Whether TensorFlow's own operations are done before Python is reached."""
        if not self._is_known() or self.numbers["dropout_p"]:
            return False
        rows, keys = (math.prod(array.shape[:-1]) for array in self.arrays[:2])
        return rows * keys <= _TINY

    def _is_known(self) -> bool:
        shaped = [*self.arrays[:2], *(part.array for part in _parts(self.mask, Dense))]
        if isinstance(self.bias, DenseBias):
            shaped.append(self.bias.array)
        numbers = [*self.layout, *(part.lengths for part in _parts(self.mask, Prefix))]
        for part in _parts(self.mask, Lengths):
            numbers += [part.q, part.k]
        shapes = (tf.TensorShape(array.shape).is_fully_defined() for array in shaped)
        return all(shapes) and not any(map(_is_symbolic, numbers))

    def _known(self) -> Lowered:
        query, key, value = (
            np.broadcast_to(np.zeros((), array.dtype.as_numpy_dtype), tuple(array.shape))
            for array in self.arrays
        )
        names = ("cu_seqlens_q", "cu_seqlens_k", "key_sequence", "query_start")
        layout = dict(zip(names, self.layout, strict=True))
        call = lower(
            query, key, value, mask=self.mask, bias=self.bias, sinks=None, seed=0, framework="tensorflow",
            **layout, **self.numbers,
        )  # fmt: skip
        distances = call.plan.distances if call.plan.bias == "distance" else range(0)
        return call.plan, (None, None), distances

    def _unknown(self) -> Lowered:
        query, key, _ = self.arrays
        cu_q, cu_k, reads, query_start = self.layout
        if cu_q is not None:
            spans = _packed_spans(cu_q, cu_k, reads)
            longest = (None, None)
            total_queries, total_keys = _sizes(query)[0], _sizes(key)[0]
        else:
            spans = _padded_spans(_sizes(query), _sizes(key))
            longest = (_sizes(query)[-3], _sizes(key)[-3])
            total_queries, total_keys = (math.prod(_sizes(array)[:-2]) for array in (query, key))
        rest = []
        for part in conjuncts(self.mask) if self.mask is not None else ():
            if isinstance(part, Lengths):
                spans = _shortened(spans, part)
            else:
                rest.append(part)
        start = spans.k_length - spans.q_length
        if query_start is not None:
            start = tf.broadcast_to(_int64(query_start), tf.shape(spans.q_length))
        spans = replace(spans, query_start=start)
        nothing = Spans(*[np.zeros(0, np.int64)] * 5)
        checked = make_plan(
            nothing, (0, *query.shape[-2:]), (0, *key.shape[-2:]), mask=None, query_start=None, **self.numbers
        )
        mask = None
        for part in rest:
            mask = part if mask is None else mask & part
        kind = None if self.bias is None else self.bias.kind
        plan = replace(
            checked, spans=spans, total_queries=total_queries, total_keys=total_keys, mask=mask, bias=kind
        )
        distances = range(0)
        if kind == "distance":
            distances = _distances(total_queries, total_keys, longest, query_start)
        return plan, longest, distances


def _never(*_: Any) -> Any:
    raise RegardError("a graph is no eager call")  # which alone asks for this


def _check(query: Any, key: Any, value: Any, sinks: Any, aux: Aux | None) -> None:
    forms: list[Any] = []
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.shape.rank is None or None in array.shape[-2:].as_list():
            raise ShapeError(
                f"{name} must have a known number of dimensions, of heads and of sizes in a traced call. Received {array.shape}; "
                "set them with tf.ensure_shape(...)."
            )
    places = (
        key.shape[:-1].merge_with(value.shape[:-1])
        if key.shape[:-1].is_compatible_with(value.shape[:-1])
        else None
    )
    for array in (query, key, value):
        shape = array.shape if places is None or array is query else places.concatenate(array.shape[-1:])
        forms += [tuple(shape), np.dtype(array.dtype.as_numpy_dtype)]
    checked_forms(*forms)
    check_sinks(sinks, query.shape[-2])
    if aux is not None and asks_for_weights(aux):
        raise hidden_weights()


def _chosen(query: Any, names: Sequence[str]) -> str:
    reasons = []
    for name in names:
        reason = _refusal(query, name)
        if reason is None:
            return name
        reasons.append(f"{name!r} {reason}")
    raise no_backend("tensorflow", reasons)


def _refusal(query: Any, name: str) -> str | None:
    if name == "tiled":
        return None
    if is_compiled():
        return "can't be called from what XLA compiles"
    on_gpu = device_of(query) == "gpu" if query.device else bool(tf.config.list_logical_devices("GPU"))
    if on_gpu:
        return "computes on a CPU, these arrays are on gpu"
    return missing if kernel() is None else None


def _over_leading(query: Any, key: Any, mask: Any, bias: Any) -> tuple[Any, Mask | None, Bias | None]:
    """The query stretched to the leading shape that it and the key have in common, mask and bias as `Mask` and `Bias`."""
    q_sizes, k_sizes = _sizes(query), _sizes(key)
    leading: Any = tuple(q_sizes[:-3])
    static = query.shape[:-3].is_fully_defined() and query.shape[:-3] == key.shape[:-3]
    if not static:
        shapes = [
            tf.cast(tf.stack(sizes[:-3]) if len(sizes) > 3 else [], tf.int32) for sizes in (q_sizes, k_sizes)
        ]
        joined = tf.broadcast_static_shape(query.shape[:-3], key.shape[:-3])
        whole = tf.broadcast_dynamic_shape(*shapes)
        leading = tuple(size if size is not None else whole[axis] for axis, size in enumerate(joined))
        query = tf.broadcast_to(query, (*leading, *q_sizes[-3:]))
    if mask is not None and not isinstance(mask, Mask):
        check_boolean(mask)
        mask = Dense(_over_sequences(mask, leading, "mask"))
    if bias is not None and not isinstance(bias, Bias):
        bias = DenseBias(_over_sequences(bias, leading, "bias"))
    return query, mask, bias


def _over_sequences(array: Any, leading: tuple[Any, ...], name: str) -> Any:
    """(..., H, T, S) with broadcastable leading dimensions -> (N or 1, H, T, S)."""
    array = tf.convert_to_tensor(array)
    if array.shape.rank < 3:
        return array
    sizes = _sizes(array)
    given = sizes[:-3]
    if all(isinstance(size, int) and size == 1 for size in given):
        return tf.reshape(array, (1, *sizes[-3:]))
    known = tuple(size if isinstance(size, int) else None for size in leading)
    check_over_sequences(tuple(array.shape), known, name)
    whole = tf.broadcast_to(array, (*leading, *sizes[-3:]))
    return tf.reshape(whole, (math.prod(leading), *sizes[-3:]))


def _packed_spans(cu_q: Any, cu_k: Any, reads: Any) -> Spans:
    cu_q = _int64(cu_q)
    cu_k = cu_q if cu_k is None else _int64(cu_k)
    k_begin, k_length = cu_k[:-1], cu_k[1:] - cu_k[:-1]
    if reads is not None:
        k_begin, k_length = (tf.gather(array, _int64(reads)) for array in (k_begin, k_length))
    return Spans(cu_q[:-1], cu_q[1:] - cu_q[:-1], k_begin, k_length, k_length)


def _padded_spans(q_sizes: list[Any], k_sizes: list[Any]) -> Spans:
    leading, key_leading = q_sizes[:-3], k_sizes[:-3]
    count, key_count = math.prod(leading), math.prod(key_leading)
    reads = tf.reshape(tf.range(_int64(key_count), dtype=tf.int64), [*key_leading] or [1])
    reads = tf.reshape(tf.broadcast_to(reads, [*leading] or [1]), [count])
    number = tf.range(_int64(count), dtype=tf.int64)
    q_length, k_length = (tf.fill([count], _int64(size)) for size in (q_sizes[-3], k_sizes[-3]))
    return Spans(number * _int64(q_sizes[-3]), q_length, reads * _int64(k_sizes[-3]), k_length, k_length)


def _shortened(spans: Spans, lengths: Lengths) -> Spans:
    """Spans cut to lengths, which no array is longer than: nobody can check that here."""
    q, k = (
        length if part is None else tf.clip_by_value(_int64(part), 0, length)
        for part, length in ((lengths.q, spans.q_length), (lengths.k, spans.k_length))
    )
    return replace(spans, q_length=q, k_length=k)


def _distances(total_queries: Any, total_keys: Any, longest: tuple[Any, Any], start: Any) -> range:
    """Distances that hold all which the call's pairs can have, from the shapes alone."""
    rows, keys = (total_queries, total_keys) if longest[0] is None else longest
    if not isinstance(rows, int) or not isinstance(keys, int) or _is_symbolic(start):
        raise RegardError(
            "a bias by distance needs to know the most distances that there can be. Received arrays of unknown length, or "
            "query_start as a tensor, in a traced call; set the shapes with tf.ensure_shape(...), and query_start as an integer."
        )
    starts = np.asarray([-rows, keys] if start is None else start)
    return range(int(starts.min()) - keys, int(starts.max()) + rows + 1)


def _parts(mask: Mask | None, kind: type) -> Iterator[Any]:
    """The masks of a kind that a mask is made of."""
    if isinstance(mask, kind):
        yield mask
    elif mask is not None:
        for part in vars(mask).values():
            if isinstance(part, Mask):
                yield from _parts(part, kind)


def _is_symbolic(array: Any) -> bool:
    return isinstance(array, tf.Variable) or tf.is_symbolic_tensor(array)


def _seed(seed: Any, plan: Plan) -> Any:
    if not plan.dropout_p or not (_is_symbolic(seed) or tf.is_tensor(seed)):
        return None if seed is None else int(seed)
    return tf.reshape(_int64(seed), ())


def _sizes(array: Any) -> list[Any]:
    """The shape, with tensors for what is not known."""
    if array.shape.is_fully_defined():
        return array.shape.as_list()
    dynamic = tf.shape(array)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(array.shape)]


def _flat(array: Any) -> Any:
    """(..., T, H, D) -> (total, H, D)."""
    if array.shape.rank == 3:
        return array
    sizes = _sizes(array)
    return tf.reshape(array, (math.prod(sizes[:-2]), *sizes[-2:]))


def _int64(number: Any) -> Any:
    return tf.cast(number, tf.int64)
