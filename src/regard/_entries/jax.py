"""A call on JAX arrays: at once where everything has numbers, else as one primitive, which JAX's transforms and programs carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from regard._arrays import broadcast, host_array
from regard._attention import Call, _dense, choose, finished, lower
from regard._aux import Aux, AuxOutput, TopK
from regard._checks import (
    asks_for_weights,
    check_frameworks,
    check_layout,
    check_packed,
    check_seed,
    check_sinks,
    checked_forms,
    hidden_weights,
    refuse_packed_arguments,
    unpacked,
)
from regard._choice import served_names
from regard._form import bias_array, written
from regard._lowering import kernel
from regard._packed import Packed
from regard._plan import Spans, is_small, leading_shape, make_plan
from regard.backends.jax import primitives
from regard.backends.jax.layout import check_positions
from regard.backends.jax.native import placed
from regard.backends.jax.philox import seed_words
from regard.backends.jax.request import Request
from regard.backends.jax.trees import register

register()


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
    """`regard.attention` for JAX; what no tracer hides is checked as everywhere."""
    layout = (cu_seqlens_q, cu_seqlens_k, key_sequence, query_start)
    given = _Given(query, key, value, mask, bias, sinks, layout)
    numbers = {"scale": scale, "softcap": softcap, "dropout_p": dropout_p}
    hidden_seed = _is_hidden(seed)
    call = None
    if not given.is_plain and _is_hidden(given.layout, given.mask):
        given.check(sinks, numbers, seed)
    else:
        call = given.lowered(sinks=sinks, seed=0 if hidden_seed else seed, **numbers)
        name = choose(call, backend)
        hidden = hidden_seed or _is_hidden(given.arrays, given.bias, sinks)
        alone = not hidden and len(call.arrays[0].sharding.device_set) == 1
        if name == "native" and alone and not given.is_plain:
            return finished(call, *_at_once(call, return_aux))
    out, lse = given.bound(sinks, seed, numbers, served_names("jax", backend))
    aux = None if return_aux is None else _looked(given, call, lse, return_aux)
    formed = out if given.offsets is None else Packed(out, given.offsets)
    return formed if aux is None else (formed, aux)


class _Given:
    """The arrays of a call, where its sequences lie, and its mask and bias as such."""

    def __init__(
        self, query: Any, key: Any, value: Any, mask: Any, bias: Any, sinks: Any, layout: Sequence[Any]
    ) -> None:
        offsets_q, offsets_k, *rest = layout
        self.offsets = query.offsets if isinstance(query, Packed) else None
        (query, key, value), offsets_q, offsets_k = unpacked(query, key, value, offsets_q, offsets_k)
        check_frameworks(query, key, value, bias, sinks)
        self.leading: tuple[int, ...] | None = None
        if offsets_q is None and min(query.ndim, key.ndim) >= 3:
            self.leading = leading_shape(query.shape, key.shape)
            mask, bias = _dense(mask, bias, self.leading)
        self.arrays, self.mask, self.bias = (query, key, value), mask, bias
        self.layout = (offsets_q, offsets_k, *rest)

    @property
    def is_plain(self) -> bool:
        """Whether only shapes tell one such call from another, so that a program for it may serve again."""
        return is_small(self.mask) and all(isinstance(part, int | None) for part in self.layout)

    def lowered(self, **parameters: Any) -> Call:
        """The call with everything checked."""
        query, key, value = self.arrays
        offsets_q, offsets_k, key_sequence, query_start = self.layout
        call = lower(
            query, key, value, mask=self.mask, bias=self.bias, cu_seqlens_q=offsets_q, cu_seqlens_k=offsets_k,
            key_sequence=key_sequence, query_start=query_start, framework="jax", **parameters,
        )  # fmt: skip
        return replace(call, offsets=self.offsets)

    def check(self, sinks: Any, numbers: dict[str, Any], seed: Any) -> None:
        """Look at shapes alone."""
        query, key, value = self.arrays
        checked_forms(query.shape, query.dtype, key.shape, key.dtype, value.shape, value.dtype)
        check_sinks(sinks, query.shape[-2])
        check_layout(self.layout)
        check_seed(numbers["dropout_p"], seed)
        if self.layout[0] is not None:
            check_packed(query, key, self.mask, self.bias)
        else:
            refuse_packed_arguments(*self.layout[1:3])
        nowhere = Spans(*(np.zeros(0, np.int64) for _ in range(5)))
        make_plan(nowhere, query.shape, key.shape, mask=None, query_start=None, **numbers)

    def bound(
        self, sinks: Any, seed: Any, numbers: dict[str, Any], backends: tuple[str, ...]
    ) -> tuple[Any, Any]:
        """Output (..., T, H, V) and lse (..., T, H), by the primitive."""
        query, key, value = self.arrays
        if self.leading is not None and query.shape[:-3] != self.leading:
            query = broadcast(query, (*self.leading, *query.shape[-3:]))
        form, arrays, integers = written(backends, self.layout, self.mask, self.bias, _operand)
        bias = None if self.bias is None else jnp.asarray(bias_array(self.bias))
        sinks = None if sinks is None else jnp.asarray(sinks)
        words = seed_words(seed) if numbers["dropout_p"] else None
        check_positions(integers)
        some = [array is not None for array in (bias, sinks, words)]
        request = Request(form, tuple(integers), (some[0], some[1], some[2]), **numbers)
        operands = [
            query,
            key,
            value,
            *(array for array in (bias, sinks, words) if array is not None),
            *arrays,
        ]
        return primitives.attend(operands, request)


def _is_hidden(*values: Any) -> bool:
    """Whether a tracer stands somewhere in trees of values."""
    for value in values:
        if value is not None and any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
            return True
    return False


def _operand(array: Any) -> Any:
    """Offsets, lengths and the like, with 32 bits."""
    if not isinstance(array, jax.core.Tracer):
        array = host_array(array)
        check_positions(array)
    return jnp.asarray(array) if array.dtype == bool else jnp.asarray(array, jnp.int32)


def _at_once(call: Call, aux: Aux | None) -> tuple[Any, AuxOutput | None]:
    """The call by the kernel, outside of any program: nothing is compiled, however many lengths there are."""
    from regard.backends import native

    arrays = _host_arrays(call)
    out, lse = native.forward(*arrays, call.seed)
    like = call.arrays[0]
    found = placed(call.shape_rows(out), like)
    return found, None if aux is None else _as_jax(native.look(*arrays, lse, aux), like)


def _host_arrays(call: Call) -> tuple[Any, Any, Any, Any, Any, Any]:
    """As backends on NumPy take them."""
    bias = None if call.bias is None else host_array(call.bias_array)
    sinks = None if call.sinks is None else host_array(call.sinks)
    query, key, value = (
        array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])
        for array in map(host_array, call.arrays)
    )
    return call.plan, query, key, value, bias, sinks


def _looked(given: _Given, call: Call | None, lse: Any, aux: Aux) -> AuxOutput:
    """What `aux` asks for, in the call's form."""
    if not asks_for_weights(aux):
        return AuxOutput(lse=lse if aux.lse else None)
    if call is None or _is_hidden(given.arrays, given.bias, call.sinks):
        raise hidden_weights()
    from regard.backends import native, reference

    room = native if kernel() is not None else reference
    flat = host_array(lse).reshape(-1, lse.shape[-1])
    return call.shape_aux(_as_jax(room.look(*_host_arrays(call), flat, aux), call.arrays[0]))


def _as_jax(aux: AuxOutput, like: Any) -> AuxOutput:
    top = aux.topk
    lse, rows, sums = (
        None if part is None else placed(part, like) for part in (aux.lse, aux.rows, aux.key_sums)
    )
    return AuxOutput(lse, rows, None if top is None else TopK(*(placed(part, like) for part in top)), sums)
