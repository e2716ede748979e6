"""The operator: the contract, checks, and one dispatch by array type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._arrays import framework_of, host_integers
from regard._aux import Aux, AuxOutput
from regard._biases import Bias, DenseBias
from regard._errors import BackendError, RegardError, ShapeError
from regard._masks import Dense, Mask
from regard._packed import Packed
from regard._plan import Plan, is_small, leading_shape, make_plan, packed_spans, padded_spans, remembered_plan

BACKENDS = {"numpy": ("reference",), "torch": ("tiled",)}


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
    Sums run in float32, or float64 for float64; the output keeps the query's dtype.

    Arguments:
        query: (..., T, H, D), or packed (total, H, D) with `cu_seqlens_q`, or `Packed`.
        key: (..., S, Hk, D) with H a multiple of Hk, or packed, or `Packed`. Leading dimensions broadcast.
        value: (..., S, Hk, Dv), or packed, or `Packed`.
        mask: a `Mask`, or for padded arrays a boolean array broadcastable to (..., H, T, S). True = may attend.
        bias: a `Bias`, or for padded arrays a float array broadcastable to (..., H, T, S), added to the scaled and
            capped scores; -inf masks. Differentiable.
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
        return_aux: `Aux(lse=..., rows=...)` asks for more than the output.
        backend: a name or an ordered list of names; a named backend that cannot compute the call raises.

    Returns:
        The output (..., T, H, Dv), packed (total, H, Dv), or `Packed` when `query` was. With `return_aux` a pair of it
        and an `AuxOutput`.

    Raises:
        ShapeError: shapes, offsets or lengths that do not fit together.
        BackendError: a named backend that does not exist or cannot compute the call.
        RegardError: integer arrays, mixed dtypes or frameworks, dropout without a seed.

    >>> q, k, v = (np.random.default_rng(0).normal(size=(2, 5, 4, 8)) for _ in range(3))
    >>> regard.attention(q, k, v, mask=regard.Causal()).shape
    (2, 5, 4, 8)
    """
    call = lower(
        query, key, value, mask=mask, bias=bias, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        key_sequence=key_sequence, query_start=query_start, scale=scale, softcap=softcap, sinks=sinks,
        dropout_p=dropout_p, seed=seed,
    )  # fmt: skip
    name = choose(call, backend)
    run = _run_reference if name == "reference" else _run_torch
    out, lse, rows = run(call, None if return_aux is None else return_aux.rows)
    if return_aux is None:
        return call.shape_output(out)
    lse = call.shape_rows(lse) if return_aux.lse else None
    return call.shape_output(out), AuxOutput(lse=lse, rows=rows)


@dataclass(frozen=True, eq=False)
class Call:
    """One call lowered: the plan, and the arrays with their leading dimensions flattened."""

    plan: Plan
    framework: str
    query: Any
    key: Any
    value: Any
    bias: Any
    sinks: Any
    seed: int | None
    leading: tuple[int, ...] | None  # None: packed
    offsets: np.ndarray | None  # of a `Packed` query
    length: int  # T of a padded query

    def shape_output(self, out: Any) -> Any:
        """Give a flat output the form of the query."""
        if self.offsets is not None:
            return Packed(out, self.offsets)
        return self.shape_rows(out)

    def shape_rows(self, flat: Any) -> Any:
        """(total, ...) -> (..., T, ...) for padded queries."""
        if self.leading is None:
            return flat
        return flat.reshape(*self.leading, self.length, *flat.shape[1:])


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
) -> Call:
    """Check a call's arguments and lower them to a plan and flat arrays."""
    offsets = None
    if isinstance(query, Packed):
        offsets, cu_seqlens_q, query = query.offsets, query.offsets, query.values
    if isinstance(key, Packed):
        cu_seqlens_k, key = key.offsets, key.values
    if isinstance(value, Packed):
        _check_same_sequences(cu_seqlens_k, value.offsets)
        value = value.values
    framework = framework_of(query, key, value)
    _check_arrays(query, key, value, sinks)
    if dropout_p and seed is None:
        raise RegardError(
            f"dropout needs a seed. Received dropout_p={dropout_p} and seed=None; pass seed=<an integer>."
        )
    leading: tuple[int, ...] | None = None
    if cu_seqlens_q is not None:
        _check_packed(query, key, mask, bias)
    else:
        _refuse_packed_arguments(cu_seqlens_k, key_sequence)
        leading = leading_shape(tuple(query.shape), tuple(key.shape))
        mask, bias = _dense(mask, bias, leading)
    parameters = {"query_start": query_start, "scale": scale, "softcap": softcap, "dropout_p": dropout_p}
    plan = _plan(query, key, mask, bias, (cu_seqlens_q, cu_seqlens_k, key_sequence), parameters)
    if leading is not None:
        query = _expanded(query, leading)
    seed = None if seed is None else int(seed)
    arrays = _flat(query), _flat(key), _flat(value)
    return Call(plan, framework, *arrays, bias, sinks, seed, leading, offsets, query.shape[-3])


def _plan(
    query: Any,
    key: Any,
    mask: Mask | None,
    bias: Bias | None,
    layout: tuple[Any, Any, Any],
    parameters: dict[str, Any],
) -> Plan:
    shapes = tuple(query.shape), tuple(key.shape)
    if bias is None and is_small(mask) and isinstance(parameters["query_start"], int | None):
        names = ("cu_seqlens_q", "cu_seqlens_k", "key_sequence")
        stored = [_bytes(array, name) for array, name in zip(layout, names, strict=True)]
        return remembered_plan(*stored, *shapes, mask=mask, **parameters)
    if layout[0] is not None:
        spans = packed_spans(query.shape[0], key.shape[0], *layout)
    else:
        spans, leading = padded_spans(*shapes)
        shapes = (*leading, *shapes[0][-3:]), shapes[1]
    return make_plan(spans, *shapes, mask=mask, bias=bias, **parameters)


def _bytes(array: Any, name: str) -> bytes | None:
    if array is None:
        return None
    numbers = host_integers(array, name)
    if numbers.ndim != 1:
        raise ShapeError(f"{name} must be one-dimensional. Received shape {numbers.shape}.")
    return numbers.tobytes()


def choose(call: Call, backend: str | Sequence[str] | None) -> str:
    """The first of the wanted backends that serves the call's framework."""
    served = BACKENDS[call.framework]
    wanted = served if backend is None else ((backend,) if isinstance(backend, str) else tuple(backend))
    for name in wanted:
        if name in served:
            return name
    known = sorted({name for names in BACKENDS.values() for name in names})
    raise BackendError(
        f"no backend among {', '.join(map(repr, wanted))} computes {call.framework} arrays; expected one of "
        f"{', '.join(map(repr, served))} (all there are: {', '.join(known)}). Leave backend=None to let regard choose."
    )


def _run_reference(call: Call, rows: Any) -> tuple[Any, Any, Any]:
    from regard.backends import reference

    arrays = (call.query, call.key, call.value)
    out, lse = reference.forward(call.plan, *arrays, call.bias, call.sinks, call.seed)
    weights = None
    if rows is not None:
        weights = reference.weights(call.plan, *arrays, call.bias, call.sinks, rows)
    return out, lse, weights


def _run_torch(call: Call, rows: Any) -> tuple[Any, Any, Any]:
    from regard.backends.torch import function

    arrays = (call.query, call.key, call.value)
    bias = None if call.bias is None else function.dense_bias(call.bias, call.query)
    out, lse = function.attend(call.plan, *arrays, bias, call.sinks, call.seed)
    weights = None if rows is None else function.row_weights(call.plan, *arrays, bias, call.sinks, lse, rows)
    return out, lse, weights


def _check_arrays(query: Any, key: Any, value: Any, sinks: Any) -> None:
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
    if sinks is not None and tuple(sinks.shape) != (query.shape[-2],):
        raise ShapeError(f"sinks must have shape (H,) = ({query.shape[-2]},). Received {tuple(sinks.shape)}.")


def _check_same_sequences(offsets_k: Any, offsets_v: np.ndarray) -> None:
    if offsets_k is not None and not np.array_equal(host_integers(offsets_k, "cu_seqlens_k"), offsets_v):
        raise ShapeError(
            "key and value must be packed alike. Received different offsets; pack both from the same sequences."
        )


def _check_packed(query: Any, key: Any, mask: Any, bias: Any) -> None:
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


def _refuse_packed_arguments(cu_seqlens_k: Any, key_sequence: Any) -> None:
    for name, argument in (("cu_seqlens_k", cu_seqlens_k), ("key_sequence", key_sequence)):
        if argument is not None:
            raise RegardError(
                f"{name} was given without cu_seqlens_q; pass the query's offsets too, or a Packed query."
            )


def _dense(mask: Any, bias: Any, leading: tuple[int, ...]) -> tuple[Mask | None, Bias | None]:
    if mask is not None and not isinstance(mask, Mask):
        if "bool" not in str(getattr(mask, "dtype", None)):
            raise RegardError(
                f"mask must be a Mask or a boolean array, True = may attend. Received {getattr(mask, 'dtype', type(mask))}; "
                "pass numbers that are added to the scores as bias."
            )
        mask = Dense(_over_sequences(mask, leading, "mask"))
    if bias is not None and not isinstance(bias, Bias):
        bias = DenseBias(_over_sequences(bias, leading, "bias"))
    return mask, bias


def _over_sequences(array: Any, leading: tuple[int, ...], name: str) -> Any:
    """(..., H, T, S) with broadcastable leading dimensions -> (N or 1, H, T, S)."""
    given = tuple(array.shape[:-3])
    if math.prod(given) == 1:
        return array.reshape(1, *((1,) * (3 - array.ndim)), *array.shape[-3:])
    if len(given) > len(leading) or any(
        a not in (1, b) for a, b in zip(given[::-1], leading[::-1], strict=False)
    ):
        raise ShapeError(
            f"{name} must broadcast to {leading} sequences. Received shape {tuple(array.shape)}."
        )
    return _broadcast(array, (*leading, *array.shape[-3:])).reshape(-1, *array.shape[-3:])


def _expanded(query: Any, leading: tuple[int, ...]) -> Any:
    return query if tuple(query.shape[:-3]) == leading else _broadcast(query, (*leading, *query.shape[-3:]))


def _broadcast(array: Any, shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(array, shape) if isinstance(array, np.ndarray) else array.expand(shape)


def _flat(array: Any) -> Any:
    return array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])
