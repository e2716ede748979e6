"""Scores and products of one tile: what forward, backward and forward-mode share.

Scores and weights are (G, H, Q, K), query rows (G, Q, H, D), chunks of keys (G, K, J, D). Sums run in float32, or float64 for float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from regard._biases import Alibi, DenseBias, RelativeBias
from regard._errors import RegardError
from regard._masks import Coordinates, dense_index
from regard.backends.jax.layout import Layout, Tile, layout_of
from regard.backends.jax.philox import keep_run
from regard.backends.jax.request import Operands, Request, precision_of


@dataclass(frozen=True, eq=False)
class Inputs:
    """The flat arrays of a call, how it is cut, and whether all its numbers are finite."""

    request: Request
    layout: Layout
    query: Array  # (T, H, D)
    key: Array  # (S, J, D)
    value: Array  # (S, J, V)
    bias: Array | None
    sinks: Array | None
    seed: Array | None
    bias_kind: tuple[Any, ...]
    scale: float
    finite: Array

    @classmethod
    def of(cls, request: Request, operands: Operands, *others: Array) -> Inputs:
        """Cut the call; `others` are looked at whether they are finite."""
        parts = request.parts(operands.arrays)
        layout = layout_of(parts, operands.query.shape, operands.key.shape)
        query, key, value = (flat(array) for array in (operands.query, operands.key, operands.value))
        # A sum is NaN or infinite where an entry is.
        finite = jnp.isfinite(
            sum(jnp.sum(array.astype(precision_of(array.dtype))) for array in (query, key, value, *others))
        )
        size = operands.query.shape[-1]
        scale = request.scale if request.scale is not None else size**-0.5 if size else 1.0
        return cls(
            request,
            layout,
            query,
            key,
            value,
            operands.bias,
            operands.sinks,
            operands.seed,
            parts.bias,
            scale,
            lax.stop_gradient(finite),
        )

    @property
    def precision(self) -> Any:
        """In which numbers sums run."""
        return precision_of(self.query.dtype)

    @property
    def is_empty(self) -> bool:
        """Whether no query can see any key, which shapes alone tell."""
        layout = self.layout
        return not (layout.count and layout.total_queries and layout.total_keys and layout.heads)

    def rows(self, array: Array, token: Array) -> Array:
        """Rows of a flat array, widened."""
        return array[token].astype(self.precision)

    def kept(self, tile: Tile) -> Array | None:
        """Dropout's factors, 0 or 1 / (1 - p), or None without dropout."""
        p = self.request.dropout_p
        if not p or self.seed is None:
            return None
        at = tile.at
        return keep_run(self.seed, at.sequence, at.head, at.position, at.key, p).astype(self.precision) / (
            1 - p
        )

    def added(self, bias: Array, tile: Tile) -> Array:
        """The bias (G, H, Q, K) of a tile's pairs; -inf outside of an array."""
        return _bias_values(self.bias_kind, bias, tile.at).astype(self.precision)

    def score(self, tile: Tile, query: Array, key: Array) -> Scores:
        """Scores of the tile's pairs with soft cap and bias, and which of them take part."""
        values = reach(query * self.scale, key)
        slope, allowed, cap = None, tile.allowed, self.request.softcap
        if cap is not None:
            bent = jnp.tanh(values / cap)
            values, slope = cap * bent, 1 - bent * bent
        if self.bias is not None:
            added = self.added(self.bias, tile)
            allowed = allowed & (added != -jnp.inf)
            values = values + jnp.where(allowed, added, 0)
        return Scores(jnp.where(allowed, values, -jnp.inf), allowed, slope)

    def over_keys(self, weights: Array, values: Array, allowed: Array) -> Array:
        """Weights with values (G, K, J, D) -> (G, Q, H, D)."""
        return self._product(_over_keys, weights, values, allowed)

    def over_rows(self, weights: Array, rows: Array, allowed: Array) -> Array:
        """Weights with rows (G, Q, H, D), summed over queries -> (G, K, J, D), J as in `key`."""
        heads = self.key.shape[1]
        return self._product(lambda weights, rows: _over_rows(weights, rows, heads), weights, rows, allowed)

    def _product(
        self, dot: Callable[[Array, Array], Array], weights: Array, values: Array, allowed: Array
    ) -> Array:
        pairs = jnp.broadcast_to(allowed, weights.shape)
        return lax.cond(
            self.finite,
            lambda *given: dot(*given[:2]),
            lambda *given: _guarded(dot, *given),
            weights,
            values,
            pairs,
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores (G, H, Q, K), -inf where a pair takes no part; the pairs that do; the soft cap's slope."""

    values: Array
    allowed: Array
    slope: Array | None

    def weights(self, total: Array) -> Array:
        """`exp(scores - total)` where allowed, 0 elsewhere."""
        return jnp.exp(jnp.where(self.allowed, self.values - total, -jnp.inf))


def reach(rows: Array, keys: Array) -> Array:
    """Products of query rows (G, Q, H, D) with keys (G, K, J, D): (G, H, Q, K)."""
    groups, length, heads, _ = rows.shape
    found = jnp.einsum("gqjrd,gkjd->gjrqk", _by_key_head(rows, keys.shape[2]), keys, precision="highest")
    return found.reshape(groups, heads, length, keys.shape[1])


def _over_keys(weights: Array, values: Array) -> Array:
    groups, heads, length, width = weights.shape
    split = weights.reshape(groups, values.shape[2], -1, length, width)
    found = jnp.einsum("gjrqk,gkjd->gqjrd", split, values, precision="highest")
    return found.reshape(groups, length, heads, values.shape[3])


def _over_rows(weights: Array, rows: Array, key_heads: int) -> Array:
    groups, _, length, width = weights.shape
    split = weights.reshape(groups, key_heads, -1, length, width)
    return jnp.einsum("gjrqk,gqjrd->gkjd", split, _by_key_head(rows, key_heads), precision="highest")


def _by_key_head(rows: Array, key_heads: int) -> Array:
    groups, length, heads, size = rows.shape
    return rows.reshape(groups, length, key_heads, heads // key_heads, size)


def _guarded(dot: Callable[[Array, Array], Array], weights: Array, values: Array, pairs: Array) -> Array:
    """`dot` in which pairs that are not allowed take no part.

    Weights are zero where not allowed, but 0 * NaN must not arise: NaN and infinities are summed apart, over allowed pairs alone.
    """
    kind, ordinary, fine = weights.dtype, jnp.isfinite(values), jnp.isfinite(weights)
    rising, falling = ((weights > 0) & pairs).astype(kind), ((weights < 0) & pairs).astype(kind)
    up, down = (values == jnp.inf).astype(kind), (values == -jnp.inf).astype(kind)
    terms = (
        (jnp.where(fine, weights, 0), jnp.where(ordinary, values, 0)),
        (rising, up),
        (falling, down),
        (rising, down),
        (falling, up),
        (pairs.astype(kind), jnp.isnan(values).astype(kind)),
        ((pairs & ~fine).astype(kind), jnp.ones_like(values)),
    )
    total, *counts = jax.vmap(dot)(*(jnp.stack(side) for side in zip(*terms, strict=True)))
    rise_up, fall_down, rise_down, fall_up, undefined, wrong = (count > 0 for count in counts)
    positive, negative = rise_up | fall_down, rise_down | fall_up
    total = jnp.where(positive, jnp.inf, jnp.where(negative, -jnp.inf, total))
    return jnp.where(undefined | wrong | (positive & negative), jnp.nan, total)


def _bias_values(kind: tuple[Any, ...], array: Array, at: Coordinates) -> Array:
    if kind[0] is DenseBias:
        index, inside = dense_index(array.shape, at)
        return jnp.where(inside, array[index], -jnp.inf)
    if kind[0] is Alibi:
        return -array.astype(precision_of(array.dtype))[at.head] * jnp.abs(at.position - at.key)
    if kind[0] is RelativeBias:
        made = RelativeBias(array, *kind[1:])
        # Behind the last narrow bucket's reach all distances share one.
        most = made.max_distance
        buckets = jnp.asarray(made._buckets(np.arange(-most, most + 1)), jnp.int32)
        return array[buckets[jnp.clip(at.position - at.key, -most, most) + most], at.head]
    raise RegardError(
        f"JAX computes regard's own biases. Received {kind[0].__name__}; write it as regard.DenseBias."
    )


def bias_gradient(inputs: Inputs, bias: Array, tile: Tile, flow: Array) -> Array:
    """What a tile adds to the gradient of the bias's own array."""
    shape = flow.shape
    found = jax.vjp(lambda array: jnp.broadcast_to(inputs.added(array, tile), shape), bias)[1](flow)[0]
    return found.astype(inputs.precision)


def bias_tangent(inputs: Inputs, bias: Array, along: Array, tile: Tile) -> Array:
    """How the bias of a tile's pairs moves along that of its array; what stands where nothing is added has no meaning."""
    return jax.jvp(lambda array: inputs.added(array, tile), (bias,), (along,))[1]


def flat(array: Array) -> Array:
    """(..., T, H, D) -> (total, H, D)."""
    return (
        array
        if array.ndim == 3
        else array.reshape(-1 if array.size else int(np.prod(array.shape[:-2])), *array.shape[-2:])
    )


def heads_first(rows: Array) -> Array:
    """(G, Q, H) -> (G, H, Q, 1)."""
    return rows.swapaxes(1, 2)[..., None]


def finite_lse(lse: Array) -> Array:
    """The lse, 0 where a query sees nothing."""
    return jnp.where(lse == -jnp.inf, 0, lse)


def denominator(inputs: Inputs, lse: Array) -> Array:
    """Logarithm of what the weights (T, H) are divided by, sinks included; 0 where there is nothing to divide."""
    if inputs.sinks is None:
        return finite_lse(lse)
    sinks = inputs.sinks.astype(lse.dtype)
    some = (lse > -jnp.inf) | (lse != lse)  # noqa: PLR0124 - NaN is no number, and takes part
    joined = jnp.logaddexp(jnp.where(some, lse, 0), jnp.broadcast_to(sinks, lse.shape))
    return jnp.where(some, joined, 0)
