"""`regard.attention` on arrays that have heads before lengths, read where they lie whatever their layout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regard._arrays import is_traced
from regard._attention import attention
from regard._plan import is_small


def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """(..., H, T, D), (..., J, S, D) and (..., J, S, Dv) -> (..., H, T, Dv); the options are those of `regard.attention`."""
    if _folds(query, key, value, options):
        return _folded(query, key, value, options)
    arrays = (array.transpose(-3, -2) for array in (query, key, value))
    return attention(*arrays, **options).transpose(-3, -2)


def _folds(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> bool:
    """Whether every head may stand as a sequence of its own: the operator would copy arrays that lie head by head.

    Not with dropout, whose numbers are drawn by head, and not where an array has numbers for sequences or heads.
    """
    if query.dim() != 4 or query.shape[0] == 1 or key.shape[:2] != value.shape[:2] or is_traced(query):
        return False
    if not (key.is_contiguous() and value.is_contiguous()) or query.shape[0] != key.shape[0]:
        return False
    if not query.shape[1] or query.shape[1] % key.shape[1]:
        return False
    if options.get("dropout_p") or options.get("sinks") is not None or options.get("bias") is not None:
        return False
    return options.get("mask") is None or is_small(options["mask"])


def _folded(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """Query heads that share a key's stay together."""
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch * kv_heads, heads // kv_heads, length, size).transpose(1, 2)
    key, value = (array.flatten(0, 1).unsqueeze(2) for array in (key, value))
    out = attention(grouped, key, value, **options)
    return out.transpose(1, 2).reshape(batch, heads, length, value.shape[-1])
