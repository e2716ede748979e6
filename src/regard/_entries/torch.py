"""A call under a tracer, a dispatch mode or `vmap`: only shapes are looked at, and PyTorch's operator carries the rest."""

from __future__ import annotations

import math
from typing import Any

import torch

from regard._attention import _dense
from regard._aux import Aux, AuxOutput
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
from regard._packed import Packed, register_pytree
from regard._plan import check_leading, check_numbers
from regard.backends.torch import operator

# A `Packed` that comes to be in a traced function may leave it.
register_pytree()


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
    """`regard.attention` where numbers can't be looked at: what lies past the last offset gives 0."""
    offsets = query.offsets if isinstance(query, Packed) else None
    (query, key, value), cu_seqlens_q, cu_seqlens_k = unpacked(query, key, value, cu_seqlens_q, cu_seqlens_k)
    check_frameworks(query, key, value, bias, sinks)
    _check(query, key, value, sinks, return_aux)
    check_seed(dropout_p, seed)
    check_numbers(query.shape[-2], key.shape[-2], softcap, dropout_p)
    rows, places = query.shape[:-2], ((), ())
    if cu_seqlens_q is not None:
        check_packed(query, key, mask, bias)
    else:
        refuse_packed_arguments(cu_seqlens_k, key_sequence)
        check_leading(query.shape, key.shape)
        leading = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3])
        mask, bias = _dense(mask, bias, tuple(leading))
        rows = (*leading, query.shape[-3])
        query, places = query.expand(*rows, *query.shape[-2:]), (rows, key.shape[:-2])
    layout = (cu_seqlens_q, cu_seqlens_k, key_sequence, query_start)
    check_layout(layout)
    names = served_names("torch", backend)
    flat = _flat(query), _flat(key), _flat(value)
    out, lse = operator.attend(
        flat, bias, sinks, seed, places, layout, mask, scale, softcap, dropout_p, names
    )
    out, lse = out.reshape(*rows, *out.shape[1:]), lse.reshape(*rows, *lse.shape[1:])
    formed = out if offsets is None else Packed(out, offsets)
    return formed if return_aux is None else (formed, AuxOutput(lse=lse if return_aux.lse else None))


def _check(query: Any, key: Any, value: Any, sinks: Any, aux: Aux | None) -> None:
    # Past its memory: symbolic sizes have no hash.
    checked_forms.__wrapped__(query.shape, query.dtype, key.shape, key.dtype, value.shape, value.dtype)
    check_sinks(sinks, query.shape[-2])
    if aux is not None and asks_for_weights(aux):
        raise hidden_weights()


def _flat(array: Any) -> Any:
    return array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])
