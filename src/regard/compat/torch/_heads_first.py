"""`regard.attention` on arrays that have heads before lengths, read where they lie whatever their layout."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from torch import Tensor

from regard._arrays import is_traced
from regard._attention import attention
from regard._masks import Causal, Dense, Lengths, Mask, Window, conjuncts


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Mask | None, bias: Any, **options: Any
) -> Tensor:
    """(..., H, T, D), (..., J, S, D) and (..., J, S, Dv) -> (..., H, T, Dv); the options are those of `regard.attention`."""
    if query.dim() == 4 and query.shape[0] == key.shape[0] == value.shape[0] == 1:
        # One sequence is read with any strides, several would be brought together.
        flat = (array.squeeze(0).transpose(0, 1) for array in (query, key, value))
        return attention(*flat, mask=mask, bias=bias, **options).transpose(0, 1).unsqueeze(0)
    # Dropout draws its numbers by head, and biases and sinks have numbers for each.
    plain = bias is None and options.get("sinks") is None and not options.get("dropout_p")
    if plain and _folds(query, key, value):
        repeated = None if mask is None else _by_head(mask, key.shape[1])
        if (repeated is None) == (mask is None):
            return _folded(query, key, value, {"mask": repeated} | options)
    arrays = (array.transpose(-3, -2) for array in (query, key, value))
    return attention(*arrays, mask=mask, bias=bias, **options).transpose(-3, -2)


def _folds(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the arrays lie head by head, which the operator would copy, and every key head may stand as a sequence of its own."""
    if query.dim() != 4 or is_traced(query) or not key.shape[1]:
        return False
    if query.shape[0] != key.shape[0] or key.shape[:2] != value.shape[:2] or query.shape[1] % key.shape[1]:
        return False
    return key.is_contiguous() and value.is_contiguous()


def _by_head(mask: Mask, heads: int) -> Mask | None:
    """The mask with every sequence repeated for each head, or None where it is not of the few kinds that this is known for."""
    found = []
    for part in conjuncts(mask):
        if isinstance(part, Lengths):
            part = Lengths(*(None if one is None else np.repeat(one, heads) for one in (part.q, part.k)))
        elif isinstance(part, Dense):
            if part.array.ndim != 4 or part.array.shape[1] != 1:
                return None
            part = Dense(part.array.repeat_interleave(heads, 0)) if len(part.array) > 1 else part
        elif not isinstance(part, Causal | Window):
            return None
        found.append(part)
    return functools.reduce(operator.and_, found)


def _folded(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """Query heads that share a key's stay together."""
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch * kv_heads, heads // kv_heads, length, size).transpose(1, 2)
    key, value = (array.flatten(0, 1).unsqueeze(2) for array in (key, value))
    out = attention(grouped, key, value, **options)
    return out.transpose(1, 2).reshape(batch, heads, length, value.shape[-1])
