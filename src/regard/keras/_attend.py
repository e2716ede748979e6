"""The operator on tokens as Keras gives them: padding and patterns as masks, a seed from Keras' generator."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from regard._arrays import is_traced
from regard._attention import attention
from regard._aux import Aux, AuxOutput
from regard._errors import ConfigError, ShapeError
from regard._masks import Causal, Dense, Documents, Lengths, Mask, Window
from regard.keras._sequences import Tokens, only_shapes_count


def check_options(dropout: float, sliding_window: int | None) -> None:
    """Refuse options out of range when a layer is made."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be a share of at least 0 and below 1. Received {dropout}.")
    if sliding_window is not None and (not isinstance(sliding_window, int) or sliding_window < 1):
        raise ConfigError(f"sliding_window must be None or a positive integer. Received {sliding_window!r}.")


def attend(
    heads: tuple[Any, Any, Any],
    queries: Tokens,
    keys: Tokens,
    *,
    attention_mask: Any = None,
    causal: bool = False,
    sliding_window: int | None = None,
    key_sequence: Any = None,
    dropout: float = 0.0,
    seed_generator: Any = None,
    return_aux: Aux | None = None,
) -> Any:
    """`regard.attention` of projected heads (..., T, H, D), (..., S, Hk, D), (..., S, Hk, Dv).

    Positions count from the first token of queries and of keys, as Keras counts them. Dropout is on where a generator comes in.
    """
    options: dict[str, Any] = {"query_start": 0, "return_aux": return_aux}
    if queries.is_packed != keys.is_packed:
        raise ShapeError(
            "queries and keys must both be packed or both padded. Received one of each; pack both."
        )
    if queries.is_packed:
        options |= {
            "cu_seqlens_q": queries.offsets,
            "cu_seqlens_k": keys.offsets,
            "key_sequence": key_sequence,
        }
    elif key_sequence is not None:
        raise ShapeError("key_sequence names sequences of packed arrays. Received padded ones; pack both.")
    if only_shapes_count():
        return _nothing(heads, return_aux)
    if dropout and seed_generator is not None:
        seed = keras.random.randint((), 0, 2**31 - 1, dtype="int32", seed=seed_generator)
        options |= {"dropout_p": dropout, "seed": seed}
    masks = [_given(attention_mask, queries.is_packed), _padding(queries, keys)]
    if causal:
        masks.append(Causal())
    if sliding_window is not None:
        masks.append(Window(sliding_window - 1))
    return attention(*heads, mask=_all(masks), **options)


def _nothing(heads: tuple[Any, Any, Any], aux: Aux | None) -> Any:
    query, key, value = heads
    rows = ops.shape(query)[:-1]
    out = ops.zeros((*rows, value.shape[-1]), query.dtype)
    if aux is None:
        return out
    tokens = math.prod(rows[:-1])
    return out, AuxOutput(rows=ops.zeros((tokens, rows[-1], ops.shape(key)[-3]), query.dtype))


def _all(masks: list[Mask | None]) -> Mask | None:
    """A pair must be allowed by each."""
    found = None
    for mask in masks:
        if mask is not None:
            found = mask if found is None else found & mask
    return found


def _given(mask: Any, packed: bool) -> Mask | None:
    """A `Mask`, or booleans (T, S), (B, T, S) or (B, H, T, S) as one."""
    if mask is None or isinstance(mask, Mask):
        return mask
    if packed:
        raise ShapeError(
            "an array of booleans masks padded sequences. Received one with packed sequences; pass a regard.Mask, such as "
            "regard.Causal()."
        )
    mask = ops.cast(mask, "bool")
    return Dense(ops.expand_dims(mask, -3) if len(mask.shape) == 3 else mask)


def _padding(queries: Tokens, keys: Tokens) -> Mask | None:
    """What Keras' masks (..., T) and (..., S) say, at a cost of T + S."""
    if queries.mask is None and keys.mask is None:
        return None
    lengths = [None if tokens.mask is None else _lengths(tokens.mask) for tokens in (queries, keys)]
    if all(
        tokens.mask is None or length is not None
        for tokens, length in zip((queries, keys), lengths, strict=True)
    ):
        return Lengths(q=lengths[0], k=lengths[1])
    # Tokens are of one document, padding of others: those of queries are not those of keys.
    return Documents(_documents(queries, 2), _documents(keys, 3))


def _lengths(mask: Any) -> np.ndarray | None:
    """(N,) where padding stands behind each sequence and can be looked at."""
    if is_traced(mask):
        return None
    numbers = ops.convert_to_numpy(mask).astype(bool)
    numbers = numbers.reshape(-1, numbers.shape[-1])
    lengths = numbers.sum(-1)
    fits = np.array_equal(numbers, np.arange(numbers.shape[-1]) < lengths[:, None])
    return lengths.astype(np.int64) if fits else None


def _documents(tokens: Tokens, padding: int) -> Any:
    shape = ops.shape(tokens.values)[:-1]
    ids = (
        ops.ones(shape, "int32")
        if tokens.mask is None
        else ops.where(ops.cast(tokens.mask, "bool"), 1, padding)
    )
    return ops.reshape(ops.cast(ids, "int32"), (-1,))
