"""`torch.nn.functional.scaled_dot_product_attention`, over `regard.attention`.

Shapes: B batch, T queries, S keys, H query heads, J key heads, D head size; PyTorch has heads before lengths, we after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard._errors import ShapeError
from regard._masks import Causal, Dense, Mask
from regard.compat.torch._heads_first import attend

_CAUSAL = Causal()


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`, by `regard.attention` and under its contract.

    `softmax(scale * q @ k.T + bias) @ v` over the keys that the mask allows. What the contract adds to PyTorch's function:
    memory beyond the arrays is O(T + S) whatever mask, bias, dropout or sizes; derivatives of every order and in forward
    mode; a masked key has no influence, not even when it holds NaN; a mask and `is_causal` go together, and intersect.

    Arguments:
        query: (..., H, T, D), or (T, D).
        key: (..., J, S, D). Leading dimensions broadcast, and so do heads where one side has one.
        value: (..., J, S, Dv).
        attn_mask: broadcastable to (..., H, T, S): booleans, True = may attend, or floats that are added to the scores,
            which get gradients.
        dropout_p: share of weights set to zero; the others are divided by `1 - dropout_p`. The seed is drawn from
            PyTorch's default generator.
        is_causal: query i sees the keys up to i, counted from the first query and the first key (upper left).
        scale: factor of the scores; by default `1 / sqrt(D)`.
        enable_gqa: allow H to be a multiple of J.

    Under autocast the arrays are cast as PyTorch casts them.

    Returns:
        (..., H, T, Dv).

    Raises:
        ShapeError: shapes that do not fit together.
        RegardError: integer arrays or mixed dtypes.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html

    >>> from regard.compat.torch import scaled_dot_product_attention
    >>> query, key, value = (torch.randn(2, 4, 7, 8) for _ in range(3))
    >>> scaled_dot_product_attention(query, key, value, is_causal=True).shape
    torch.Size([2, 4, 7, 8])
    """
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = _cast(query, key, value)
    rank = query.dim()
    # What most callers have goes by the shortest way: a tiny call is made of such checks.
    if not (rank == 4 == key.dim() and key.shape[:3] == value.shape[:3] and query.shape[1] == key.shape[1]):
        rank = max(rank, key.dim(), value.dim())
        query, key, value = _sequences((query, key, value), enable_gqa=enable_gqa)
    mask, bias = (None, None) if attn_mask is None else _mask_and_bias(attn_mask, query, key)
    start = None
    if is_causal:
        mask, start = _CAUSAL if mask is None else mask & _CAUSAL, 0
    if dropout_p:
        out = _with_dropout(
            query, key, value, dropout_p, mask=mask, bias=bias, query_start=start, scale=scale
        )
    else:
        out = attend(query, key, value, mask=mask, bias=bias, query_start=start, scale=scale)
    return out[0] if rank == 2 else out


def _with_dropout(query: Tensor, key: Tensor, value: Tensor, dropout_p: float, **options: Any) -> Tensor:
    if dropout_p == 1:
        return attend(query, key, value, **options) * 0
    seed = torch.randint(2**63 - 1, ())
    return attend(query, key, value, dropout_p=dropout_p, seed=seed, **options)


def _cast(*arrays: Tensor) -> tuple[Tensor, ...]:
    """The arrays in autocast's type; PyTorch leaves doubles alone."""
    dtype = torch.get_autocast_dtype(arrays[0].device.type)
    return tuple(
        array.to(dtype) if array.is_floating_point() and array.dtype != torch.float64 else array
        for array in arrays
    )


def _sequences(given: tuple[Tensor, ...], *, enable_gqa: bool) -> tuple[Tensor, ...]:
    """Query, key and value with a dimension for heads, of which there are as many as the operator wants."""
    arrays = tuple(array[None] if array.dim() == 2 else array for array in given)
    query, key, value = arrays
    if min(array.dim() for array in arrays) < 3:
        raise ShapeError(
            "query, key and value must have shape (..., heads, length, size). Received "
            f"{', '.join(str(tuple(array.shape)) for array in given)}."
        )
    heads, kv_heads = query.shape[-3], key.shape[-3]
    if key.shape[:-2] != value.shape[:-2]:
        shape = torch.broadcast_shapes(key.shape[:-2], value.shape[:-2])
        key, value = key.expand(*shape, *key.shape[-2:]), value.expand(*shape, *value.shape[-2:])
        kv_heads = shape[-1]
    if heads != kv_heads and not enable_gqa and kv_heads != 1:
        if heads != 1:
            raise ShapeError(
                f"query and key must have equally many heads unless enable_gqa=True. Received {heads} and {kv_heads}."
            )
        query = query.expand(*query.shape[:-3], kv_heads, *query.shape[-2:])
    return query, key, value


def _mask_and_bias(attn_mask: Tensor, query: Tensor, key: Tensor) -> tuple[Mask | None, Tensor | None]:
    """PyTorch's one argument as what it is: booleans a mask, numbers a bias."""
    if attn_mask.dtype != torch.bool:
        return None, attn_mask
    if attn_mask.dim() > 3:
        leading = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3])
        if len(leading) > 1:
            attn_mask = attn_mask.expand(*leading, *attn_mask.shape[-3:])
        attn_mask = attn_mask.flatten(0, -4)
    return Dense(attn_mask), None
