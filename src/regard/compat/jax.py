"""`jax.nn.dot_product_attention` with the same signature, computed by `regard.attention`."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from regard._attention import attention
from regard._aux import Aux
from regard._biases import DenseBias
from regard._errors import BackendError, RegardError, ShapeError
from regard._masks import Causal, Dense, Lengths, Mask, Window


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Literal["xla"] | None = None,
    return_residual: bool = False,
) -> Any:
    """`softmax(scale * q @ k.T + bias) @ v` over the pairs that mask, causality, window and lengths all allow.

    As JAX's own but in this: a query that sees no key, or stands past `query_seq_lengths`, gives 0 and a residual of -inf, not NaN or a mean
    of all values; masked keys have no influence even where they hold NaN; lengths and masks are applied together; `value` may
    have a head size of its own; the softmax of float64 is computed in float64; nothing of the size T x S is held.

    Arguments:
        query: (B, T, N, H) or (T, N, H).
        key: (B, S, K, H) or (S, K, H), N a multiple of K.
        value: (B, S, K, V) or (S, K, V).
        bias: floats that broadcast to (B, N, T, S), added to the scaled scores; differentiable.
        mask: booleans that broadcast to (B, N, T, S), True = takes part.
        scale: factor of the scores; by default `1 / sqrt(H)`.
        is_causal: whether query t sees the keys up to t: the first query meets the first key.
        query_seq_lengths: (B,) int32, how many queries of each example count.
        key_value_seq_lengths: (B,) int32, likewise of keys.
        local_window_size: (left, right) or one number for both, inclusive; counted from query t at key t.
        implementation: None or "xla", which change nothing.
        return_residual: whether the logarithm of each query's sum of exponentials, (B, T, N) or (T, N), comes too. It has
            no gradient, as in JAX; that of `regard.attention(..., return_aux=regard.Aux(lse=True))` has.

    Returns:
        (B, T, N, V) or (T, N, V), in the query's dtype; with `return_residual` a pair of it and the residual.

    Raises:
        ShapeError, RegardError: arrays that do not fit together.
        BackendError: another implementation.

    Source: https://docs.jax.dev/en/latest/_autosummary/jax.nn.dot_product_attention.html

    >>> import jax.numpy as jnp
    >>> from regard.compat.jax import dot_product_attention
    >>> x = jnp.ones((2, 5, 4, 8))
    >>> dot_product_attention(x, x, x, is_causal=True, key_value_seq_lengths=jnp.array([5, 3])).shape
    (2, 5, 4, 8)
    """
    if implementation not in (None, "xla"):
        raise BackendError(
            f"regard.compat.jax computes by itself: implementation must be None or 'xla'. Received {implementation!r}; "
            "leave it out."
        )
    query, key, value = (jnp.asarray(array) for array in (query, key, value))
    is_single = query.ndim == 3
    if is_single:
        query, key, value = (array[None] if array.ndim == 3 else array for array in (query, key, value))
    if query.ndim != 4 or key.ndim != 4 or key.shape[0] != query.shape[0]:
        raise ShapeError(
            "query and key must have shapes (B, T, N, H) and (B, S, K, H) with one B, or neither a B. "
            f"Received {tuple(query.shape)} and {tuple(key.shape)}."
        )
    found = attention(
        query, key, value, mask=_mask(mask, is_causal, query_seq_lengths, key_value_seq_lengths, local_window_size),
        bias=None if bias is None else DenseBias(_floats(bias)), query_start=0, scale=scale,
        return_aux=Aux(lse=True) if return_residual else None,
    )  # fmt: skip
    if not return_residual:
        return found[0] if is_single else found
    out, residual = found[0], lax.stop_gradient(found[1].lse).astype(query.dtype)
    return (out[0], residual[0]) if is_single else (out, residual)


def _mask(
    array: Any, is_causal: bool, query_lengths: Any, key_lengths: Any, window: int | tuple[int, int] | None
) -> Mask | None:
    parts: list[Mask] = []
    if array is not None:
        array = jnp.asarray(array)
        if array.dtype != bool:
            raise RegardError(
                f"mask must hold booleans, True = takes part. Received {array.dtype}; pass numbers as bias."
            )
        parts.append(Dense(array))
    if is_causal:
        parts.append(Causal())
    if window is not None:
        parts.append(Window(window) if isinstance(window, int) else Window(*window))
    if query_lengths is not None or key_lengths is not None:
        parts.append(Lengths(q=query_lengths, k=key_lengths))
    together: Mask | None = None
    for part in parts:
        together = part if together is None else together & part
    return together


def _floats(bias: Any) -> Any:
    bias = jnp.asarray(bias)
    return bias if jnp.issubdtype(bias.dtype, jnp.floating) else bias.astype(jnp.float32)
