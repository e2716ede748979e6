"""The operator: the contract, checks, and one dispatch by array type."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard._arrays import broadcast, device_of, entry_of, host_array, host_integers, reshaped
from regard._aux import Aux, AuxOutput, TopK
from regard._biases import Bias, DenseBias
from regard._checks import (
    check_boolean,
    check_frameworks,
    check_over_sequences,
    check_packed,
    check_seed,
    check_sinks,
    checked_forms,
    refuse_packed_arguments,
    unpacked,
)
from regard._choice import foreign, no_backend, wanted_names
from regard._errors import ShapeError
from regard._lowering import beyond_limits, kernel, missing
from regard._masks import Dense, Mask
from regard._packed import Packed
from regard._plan import Plan, is_small, leading_shape, make_plan, packed_spans, padded_spans, remembered_plan


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    key_sequence: Any = None,
    query_start: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout_p: float = 0.0,
    seed: Any = None,
    return_aux: Aux | None = None,
    backend: str | Sequence[str] | None = None,
) -> Any:
    """Exact softmax attention over padded or packed sequences, in the arrays' own framework.

    `p = softmax(where(mask, softcap(scale * q @ k.T) + bias, -inf))`, `out = p @ v`, with `softcap(x)` =
    `c * tanh(x / c)` and `sinks` as extra logits in the denominator (Vaswani et al. 2017; sinks: Xiao et al. 2023).

    What holds on every backend: mask, packing and lengths intersect, none is ever ignored. A query that may see no key
    gives 0, with zero gradients and lse -inf. A masked or foreign row has no influence, not even when it holds NaN.
    Dropout is a function of (seed, sequence, head, query position, key position), the same packed or padded and on
    every backend. Memory beyond the arrays is O(T + S). Lengths may be anything, 0 and 1 among them; strides too.
    Sums run in float32, or float64 for float64; the output keeps the query's dtype. Under a tracer (`torch.compile`,
    `torch.export`, `torch.vmap`, `jax.jit`, `tf.function`) offsets can't be looked at: tokens past the last one give 0.

    Arguments:
        query: (..., T, H, D), or packed (total, H, D) with `cu_seqlens_q`, or `Packed`, or TensorFlow's `RaggedTensor`.
        key: (..., S, Hk, D) with H a multiple of Hk, or packed, or `Packed`. Leading dimensions broadcast.
        value: (..., S, Hk, Dv), or packed, or `Packed`.
        mask: a `Mask`, or for padded arrays a boolean array broadcastable to (..., H, T, S). True = may attend.
        bias: `Alibi`, `RelativeBias` or `DenseBias`, or for padded arrays a float array broadcastable to (..., H, T, S),
            added to the scaled and capped scores; -inf masks. Differentiable.
        cu_seqlens_q: (N + 1,) integer offsets of the packed query sequences.
        cu_seqlens_k: the same for the keys; by default as `cu_seqlens_q`.
        key_sequence: (N,) integers: which key sequence each packed query sequence reads; by default its own number.
        query_start: position of each sequence's first query, one integer or (N,). By default `len_k - len_q`, so that
            the last query meets the last key; it may be negative.
        scale: factor of the scores; by default `1 / sqrt(D)`.
        softcap: bound of the scores, or None.
        sinks: (H,) logits that take part in the denominator only, or None. Differentiable.
        dropout_p: share of weights set to zero; the others are divided by `1 - dropout_p`.
        seed: an integer; required with dropout.
        return_aux: `Aux(lse=..., rows=..., topk=..., key_sums=...)` asks for more than the output.
        backend: a name or an ordered list of names; a named backend that cannot compute the call raises.

    Returns:
        The output (..., T, H, Dv), packed (total, H, Dv), or `Packed` or ragged when `query` was. With `return_aux` a pair of it
        and an `AuxOutput`.

    Raises:
        ShapeError: shapes, offsets or lengths that do not fit together.
        BackendError: a named backend that does not exist or cannot compute the call.
        RegardError: integer arrays, mixed dtypes or frameworks, dropout without a seed.

    >>> q, k, v = (np.random.default_rng(0).normal(size=(2, 5, 4, 8)) for _ in range(3))
    >>> regard.attention(q, k, v, mask=regard.Causal()).shape
    (2, 5, 4, 8)
    """
    entry = entry_of(query.values if isinstance(query, Packed) else query)
    if entry is not None:
        return _entry(entry).attend(
            query, key, value, mask=mask, bias=bias, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
            key_sequence=key_sequence, query_start=query_start, scale=scale, softcap=softcap, sinks=sinks,
            dropout_p=dropout_p, seed=seed, return_aux=return_aux, backend=backend,
        )  # fmt: skip
    call = lower(
        query, key, value, mask=mask, bias=bias, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        key_sequence=key_sequence, query_start=query_start, scale=scale, softcap=softcap, sinks=sinks,
        dropout_p=dropout_p, seed=seed,
    )  # fmt: skip
    run = _run_numpy if call.framework == "numpy" else _run_torch
    out, aux = run(call, choose(call, backend), return_aux)
    return out if aux is None and call.offsets is None else finished(call, out, aux)


def finished(call: Call, out: Any, aux: AuxOutput | None) -> Any:
    """What `attention` returns, from an output in the query's form and what was asked for beside it, flat."""
    if call.offsets is not None:
        out = Packed(out, call.offsets)
    return out if aux is None else (out, call.shape_aux(aux))


def _entry(framework: str) -> Any:
    """The module whose `attend` is a framework's own way into the operator; it takes all the arguments of `attention`."""
    if framework == "torch":
        from regard._entries import torch  # as a statement: a tracer reads this

        return torch
    return importlib.import_module(f"regard._entries.{framework}")


# TensorFlow's AutoGraph leaves alone what bears this name: it would rewrite whatever a `tf.function` calls.
vars(attention)["autograph_info__"] = {}


@dataclass(eq=False, slots=True)
class Call:
    """One call lowered: the plan, and the arrays as they were given, queries expanded to the leading shape."""

    plan: Plan
    framework: str
    arrays: tuple[Any, Any, Any]
    bias: Bias | None
    sinks: Any
    seed: int | None
    leading: tuple[int, ...] | None  # None: packed
    offsets: np.ndarray | None  # of a `Packed` query
    length: int  # T of a padded query
    key_places: tuple[int, ...]  # the key's shape without heads and size: (..., S), or packed (total,)

    @property
    def bias_array(self) -> Any:
        """The bias as the array that backends read: (N, H, T, S), or (H, L) by distance; see `Plan.bias_places`."""
        return None if self.bias is None else self.bias.lowered(self.plan.distances)

    @property
    def query(self) -> Any:
        """(total, H, D)."""
        return _flat(self.arrays[0])

    @property
    def key(self) -> Any:
        """(total keys, Hk, D)."""
        return _flat(self.arrays[1])

    @property
    def value(self) -> Any:
        """(total keys, Hk, Dv)."""
        return _flat(self.arrays[2])

    def shape_rows(self, flat: Any) -> Any:
        """(total, ...) -> (..., T, ...) for padded queries."""
        if self.leading is None:
            return flat
        return reshaped(flat, (*self.leading, self.length, *flat.shape[1:]))

    def shape_aux(self, aux: AuxOutput) -> AuxOutput:
        """Give what was asked for beside the output, which comes flat, the forms of query and key."""
        lse, top, sums = aux.lse, aux.topk, aux.key_sums
        return replace(
            aux,
            lse=None if lse is None else self.shape_rows(lse),
            topk=None if top is None else TopK(*map(self.shape_rows, top)),
            key_sums=None if sums is None else reshaped(sums, (*self.key_places, sums.shape[-1])),
        )


def lower(
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
    framework: str | None = None,
) -> Call:
    """Check a call's arguments and lower them to a plan and flat arrays.

    A `framework` is given by who knows it, because the arrays only stand in for its own; nothing is mixed then.
    """
    offsets = query.offsets if isinstance(query, Packed) else None
    (query, key, value), cu_seqlens_q, cu_seqlens_k = unpacked(query, key, value, cu_seqlens_q, cu_seqlens_k)
    if framework is None:
        framework = check_frameworks(query, key, value, bias, sinks)
    checked_forms(query.shape, query.dtype, key.shape, key.dtype, value.shape, value.dtype)
    if sinks is not None:
        check_sinks(sinks, query.shape[-2])
    check_seed(dropout_p, seed)
    leading: tuple[int, ...] | None = None
    if cu_seqlens_q is not None:
        check_packed(query, key, mask, bias)
    else:
        refuse_packed_arguments(cu_seqlens_k, key_sequence)
        leading = leading_shape(query.shape, key.shape)
        if mask is not None or bias is not None:
            mask, bias = _dense(mask, bias, leading)
    parameters = {"query_start": query_start, "scale": scale, "softcap": softcap, "dropout_p": dropout_p}
    parameters["bias"] = None if bias is None else bias.kind
    plan = _plan(query, key, mask, (cu_seqlens_q, cu_seqlens_k, key_sequence), parameters)
    if bias is not None:
        bias.check(plan.spans, plan.heads)
    if leading is not None:
        query = _expanded(query, leading)
    seed = None if seed is None else int(seed)
    places = query.shape[-3], key.shape[:-2]
    return Call(plan, framework, (query, key, value), bias, sinks, seed, leading, offsets, *places)


def _plan(
    query: Any,
    key: Any,
    mask: Mask | None,
    layout: tuple[Any, Any, Any],
    parameters: dict[str, Any],
) -> Plan:
    shapes = tuple(query.shape), tuple(key.shape)
    if is_small(mask) and isinstance(parameters["query_start"], int | None):
        names = ("cu_seqlens_q", "cu_seqlens_k", "key_sequence")
        stored = [_bytes(array, name) for array, name in zip(layout, names, strict=True)]
        return remembered_plan(*stored, *shapes, mask=mask, **parameters)
    if layout[0] is not None:
        spans = packed_spans(query.shape[0], key.shape[0], *layout)
    else:
        spans, leading = padded_spans(*shapes)
        shapes = (*leading, *shapes[0][-3:]), shapes[1]
    return make_plan(spans, *shapes, mask=mask, **parameters)


def _bytes(array: Any, name: str) -> bytes | None:
    if array is None:
        return None
    numbers = host_integers(array, name)
    if numbers.ndim != 1:
        raise ShapeError(f"{name} must be one-dimensional. Received shape {numbers.shape}.")
    return numbers.tobytes()


def choose(call: Call, backend: str | Sequence[str] | None) -> str:
    """The first of the wanted backends that can compute the call."""
    reasons = []
    for name in wanted_names(call.framework, backend):
        reason = refusal(call, name)
        if reason is None:
            return name
        reasons.append(f"{name!r} {reason}")
    raise no_backend(call.framework, reasons)


def refusal(call: Call, name: str) -> str | None:
    """Why a backend cannot compute a call, or None where it can."""
    reason = foreign(call.framework, name)
    if reason is not None or name != "native":
        return reason
    device = device_of(call.arrays[0])
    if device != "cpu":
        return f"computes on a CPU, these arrays are on {device}"
    if kernel() is None:
        return missing
    return beyond_limits(call.plan, call.arrays[0].shape[-1], call.arrays[2].shape[-1])


def _run_numpy(call: Call, name: str, aux: Aux | None) -> tuple[Any, AuxOutput | None]:
    from regard.backends import native, reference

    room = native if name == "native" else reference
    bias = None if call.bias is None else host_array(call.bias_array)
    arrays = (call.plan, call.query, call.key, call.value, bias, call.sinks)
    out, lse = room.forward(*arrays, call.seed)
    return call.shape_rows(out), None if aux is None else room.look(*arrays, lse, aux)


def _run_torch(call: Call, name: str, aux: Aux | None) -> tuple[Any, AuxOutput | None]:
    from regard.backends.torch import function, native

    bias = None if call.bias is None else function.brought(call.bias_array, call.arrays[0])
    sinks = function.brought(call.sinks, call.arrays[0])
    if name == "native":
        # It takes the arrays as they are: flattening outside would be recorded for the backward pass, at a price.
        out, lse = native.attend(call.plan, *call.arrays, bias, sinks, call.seed)
        if aux is None:
            return out, None
        flat = lse.flatten(0, -2)
    else:
        found, flat = function.attend(call.plan, call.query, call.key, call.value, bias, sinks, call.seed)
        out = call.shape_rows(found)
    look = native.look if name == "native" else function.look
    return out, None if aux is None else look(
        call.plan, call.query, call.key, call.value, bias, sinks, flat, aux
    )


def _dense(mask: Any, bias: Any, leading: tuple[int, ...]) -> tuple[Mask | None, Bias | None]:
    if mask is not None and not isinstance(mask, Mask):
        check_boolean(mask)
        mask = Dense(_over_sequences(mask, leading, "mask"))
    if bias is not None and not isinstance(bias, Bias):
        bias = DenseBias(_over_sequences(bias, leading, "bias"))
    return mask, bias


def _over_sequences(array: Any, leading: tuple[int, ...], name: str) -> Any:
    """(..., H, T, S) with broadcastable leading dimensions -> (N or 1, H, T, S)."""
    given = tuple(array.shape[:-3])
    if math.prod(given) == 1:
        return reshaped(array, (1, *((1,) * (3 - array.ndim)), *array.shape[-3:]))
    check_over_sequences(tuple(array.shape), leading, name)
    return reshaped(broadcast(array, (*leading, *array.shape[-3:])), (math.prod(leading), *array.shape[-3:]))


def _expanded(query: Any, leading: tuple[int, ...]) -> Any:
    return query if tuple(query.shape[:-3]) == leading else broadcast(query, (*leading, *query.shape[-3:]))


def _flat(array: Any) -> Any:
    """(..., T, H, D) -> (total, H, D)."""
    if array.ndim == 3:
        return array
    shape = (math.prod(array.shape[:-2]), *array.shape[-2:])
    return array.reshape(shape) if isinstance(array, np.ndarray) else reshaped(array, shape)
