"""The tiled formulation in jax.numpy: a running softmax over the chunks of keys of all blocks of queries (Dao et al. 2022).

Blocks are taken in turns whose scores fit a bound, and each turn goes through its chunks: memory is O(T + S). Backward and forward-mode
recompute weights from the lse, and are themselves made of differentiable operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from regard.backends.jax.layout import Blocks, Tile, blocks_of, places, steps_of, tile_of
from regard.backends.jax.request import Request
from regard.backends.jax.scores import (
    Inputs,
    Scores,
    bias_gradient,
    bias_tangent,
    denominator,
    finite_lse,
    flat,
    heads_first,
    reach,
)


def forward(*operands: Array, request: Request) -> tuple[Array, Array]:
    """The output (..., T, H, V) and the lse (..., T, H)."""
    given = request.opened(operands)
    inputs, shape = Inputs.of(request, given), given.query.shape[:-1]
    kind = inputs.precision if request.wide else given.query.dtype
    size = given.value.shape[-1]
    if inputs.is_empty:
        return jnp.zeros((*shape, size), kind), jnp.full(shape, -jnp.inf, inputs.precision)
    out, lse = _over_blocks(inputs, lambda blocks: _attend(inputs, blocks))
    place, inside = places(inputs.layout)
    out = jnp.where(inside[:, None, None], out[place], 0).astype(kind)
    lse = jnp.where(inside[:, None], lse[place], -jnp.inf)
    return out.reshape(*shape, size), lse.reshape(shape)


def _attend(inputs: Inputs, blocks: Blocks) -> tuple[Array, Array]:
    """Output (G, Q, H, V) and lse (G, Q, H) of some blocks."""
    query = inputs.rows(inputs.query, blocks.token)
    groups, length, heads, _ = query.shape
    least = jnp.finfo(inputs.precision).min

    def step(number: Array, running: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        peak, mass, context = running
        tile = tile_of(inputs.layout, blocks, number)
        key, value = inputs.rows(inputs.key, tile.token), inputs.rows(inputs.value, tile.token)
        scores = inputs.score(tile, query, key)
        # The peak of a row that sees nothing is finite, so that differences of peaks are numbers.
        higher = jnp.maximum(peak, scores.values.max(-1, keepdims=True))
        weights, fade = jnp.exp(scores.values - higher), jnp.exp(peak - higher)
        mass = mass * fade + weights.sum(-1, keepdims=True)
        kept = inputs.kept(tile)
        part = inputs.over_keys(weights if kept is None else weights * kept, value, scores.allowed)
        return higher, mass, context * _rows_first(fade) + part

    start = (
        jnp.full((groups, heads, length, 1), least, inputs.precision),
        jnp.zeros((groups, heads, length, 1), inputs.precision),
        jnp.zeros((groups, length, heads, inputs.value.shape[-1]), inputs.precision),
    )
    steps = steps_of(inputs.layout, blocks, bounded=False)
    peak, mass, context = lax.fori_loop(0, steps, step, start)
    lse = peak + jnp.log(mass)
    share = 1 / jnp.where(mass == 0, 1, mass)
    if inputs.sinks is not None:
        kept = 1 / (1 + jnp.exp(inputs.sinks.astype(lse.dtype)[:, None, None] - lse))
        share = share * jnp.where(lse == -jnp.inf, 0, kept)
    return context * _rows_first(share), _rows_first(lse)[..., 0]


def backward(
    *operands: Array, request: Request, wanted: tuple[bool, ...], with_lse: bool, bounded: bool = False
) -> list[Array]:
    """The wanted gradients of query, key, value, bias and sinks, each in its own dtype.

    Behind the operands of the call stand output, lse, the gradient of the output and, `with_lse`, that of the lse.
    """
    count = 4 if with_lse else 3
    given = request.opened(operands[:-count])
    out, lse, grad_out, *grad_lse = operands[-count:]
    inputs = Inputs.of(request, given, grad_out)
    arrays = (given.query, given.key, given.value, given.bias, given.sinks)
    if inputs.is_empty:
        return [jnp.zeros_like(array) for array, some in zip(arrays, wanted, strict=True) if some]
    out, lse, grad_out = flat(out), _flat_lse(lse), flat(grad_out)
    delta = jnp.where(
        lse == -jnp.inf, 0, (grad_out.astype(inputs.precision) * out.astype(inputs.precision)).sum(-1)
    )
    total = denominator(inputs, lse)
    rows = _Rows(total, delta, grad_out, None)
    if grad_lse:
        # The lse leaves the sinks out: its weights are exp(score - lse), larger than those of the output.
        larger = jnp.where(lse == -jnp.inf, 0, jnp.exp(total - finite_lse(lse)))
        rows.lse_part = jnp.where(lse == -jnp.inf, 0, larger * _flat_lse(grad_lse[0]))
    query, key, value, bias = _gradients(inputs, rows, wanted[3], bounded)
    sinks = None
    if inputs.sinks is not None and wanted[4]:
        share = jnp.where(lse == -jnp.inf, 0, jnp.exp(inputs.sinks.astype(total.dtype) - total))
        sinks = -(share * delta).sum(0)
    found = (query, key, value, bias, sinks)
    return [
        grad.astype(array.dtype).reshape(array.shape)
        for grad, array, some in zip(found, arrays, wanted, strict=True)
        if some
    ]


class _Rows:
    """What every tile needs of its queries, flat."""

    def __init__(self, total: Array, delta: Array, grad_out: Array, lse_part: Array | None) -> None:
        self.total, self.delta, self.grad_out, self.lse_part = total, delta, grad_out, lse_part


def _gradients(inputs: Inputs, rows: _Rows, with_bias: bool, bounded: bool) -> tuple[Any, ...]:
    """Of query (T, H, D), key, value and bias."""

    def turn(sums: tuple[Array, ...], blocks: Blocks) -> tuple[tuple[Array, ...], Array]:
        query = inputs.rows(inputs.query, blocks.token)
        grad_out = inputs.rows(rows.grad_out, blocks.token)
        total, delta = (heads_first(part[blocks.token]) for part in (rows.total, rows.delta))
        extra = None if rows.lse_part is None else heads_first(rows.lse_part[blocks.token])

        def step(number: Array, running: tuple[Array, ...]) -> tuple[Array, ...]:
            collected, grad_key, grad_value, grad_bias = running
            tile = tile_of(inputs.layout, blocks, number)
            key, value = inputs.rows(inputs.key, tile.token), inputs.rows(inputs.value, tile.token)
            scores = inputs.score(tile, query, key)
            weights, kept = scores.weights(total), inputs.kept(tile)
            grads, dropped = reach(grad_out, value), weights
            if kept is not None:
                grads, dropped = grads * kept, weights * kept
            grads = grads - delta if extra is None else grads - delta + extra
            flow = jnp.where(scores.allowed, weights * grads, 0)
            grad_value = grad_value.at[tile.token].add(inputs.over_rows(dropped, grad_out, scores.allowed))
            if with_bias and inputs.bias is not None:
                grad_bias = grad_bias + bias_gradient(inputs, inputs.bias, tile, flow)
            flow = flow * inputs.scale
            if scores.slope is not None:
                flow = jnp.where(scores.allowed, flow * scores.slope, 0)
            collected = collected + inputs.over_keys(flow, key, scores.allowed)
            grad_key = grad_key.at[tile.token].add(inputs.over_rows(flow, query, scores.allowed))
            return collected, grad_key, grad_value, grad_bias

        steps = steps_of(inputs.layout, blocks, bounded=bounded)
        collected, *others = lax.fori_loop(0, steps, step, (jnp.zeros_like(query), *sums))
        return tuple(others), collected

    kind = inputs.precision
    bias = inputs.bias if inputs.bias is not None and with_bias else jnp.zeros(())
    sums = tuple(jnp.zeros(array.shape, kind) for array in (inputs.key, inputs.value, bias))
    (key, value, grad_bias), collected = _scanned(inputs, turn, sums)
    return _placed(inputs, collected), key, value, grad_bias


def tangent(
    *operands: Array, request: Request, moving: tuple[bool, ...], bounded: bool = False
) -> tuple[Array, Array]:
    """How output and lse move along tangents of those of query, key, value, bias and sinks that are moving.

    Behind the operands of the call stand output and lse, then the tangents.
    """
    count = sum(moving)
    *call, out, lse = operands[:-count]
    along = iter(operands[-count:])
    given = request.opened(call)
    kind = out.dtype if request.wide else given.query.dtype
    shape, lse_shape = out.shape, lse.shape
    query, key, value, bias, sinks = (next(along) if some else None for some in moving)
    others = [array for array in (query, key, value) if array is not None]
    inputs = Inputs.of(request, given, *others)
    if inputs.is_empty:
        return jnp.zeros(shape, kind), jnp.zeros(lse_shape, lse.dtype)
    out, lse = flat(out).astype(inputs.precision), _flat_lse(lse)
    total = denominator(inputs, lse)
    flats = [None if array is None else flat(array) for array in (query, key, value)]
    moved, shift = _over_blocks(inputs, lambda blocks: _moved(inputs, blocks, total, (*flats, bias), bounded))
    moved, shift = _placed(inputs, moved), _placed(inputs, shift)
    seen = lse > -jnp.inf
    moved_lse = jnp.where(seen, shift * jnp.exp(total - finite_lse(lse)), 0)
    if sinks is not None and inputs.sinks is not None:
        share = jnp.where(seen, jnp.exp(inputs.sinks.astype(total.dtype) - total), 0)
        shift = shift + share * sinks.astype(inputs.precision)
    moved = moved - out * shift[..., None]
    return moved.astype(kind).reshape(shape), moved_lse.reshape(lse_shape)


def _moved(
    inputs: Inputs, blocks: Blocks, total: Array, along: tuple[Array | None, ...], bounded: bool
) -> tuple[Array, Array]:
    """`sum p ds v + p dv` and `sum p ds` of some blocks' rows, where ds is how their scores move."""
    query = inputs.rows(inputs.query, blocks.token)
    rows_total = heads_first(total[blocks.token])

    def step(number: Array, running: tuple[Array, Array]) -> tuple[Array, Array]:
        change, weight = running
        tile = tile_of(inputs.layout, blocks, number)
        key, value = inputs.rows(inputs.key, tile.token), inputs.rows(inputs.value, tile.token)
        scores = inputs.score(tile, query, key)
        weights, kept = scores.weights(rows_total), inputs.kept(tile)
        moving = _moving(inputs, blocks, tile, scores, (query, key), along)
        flow = jnp.where(scores.allowed, weights * moving, 0)
        weight = weight + flow.sum(-1, keepdims=True)
        if kept is not None:
            flow, weights = flow * kept, weights * kept
        change = change + inputs.over_keys(flow, value, scores.allowed)
        if along[2] is not None:
            change = change + inputs.over_keys(weights, inputs.rows(along[2], tile.token), scores.allowed)
        return change, weight

    start = (
        jnp.zeros((*query.shape[:-1], inputs.value.shape[-1]), inputs.precision),
        jnp.zeros_like(rows_total),
    )
    change, weight = lax.fori_loop(0, steps_of(inputs.layout, blocks, bounded=bounded), step, start)
    return change, _rows_first(weight)[..., 0]


def _moving(
    inputs: Inputs,
    blocks: Blocks,
    tile: Tile,
    scores: Scores,
    arrays: tuple[Array, Array],
    along: tuple[Array | None, ...],
) -> Array:
    query, key = arrays
    moving = jnp.zeros_like(scores.values)
    if along[0] is not None:
        moving = moving + reach(inputs.rows(along[0], blocks.token), key)
    if along[1] is not None:
        moving = moving + reach(query, inputs.rows(along[1], tile.token))
    moving = moving * inputs.scale
    if scores.slope is not None:
        moving = moving * scores.slope
    if along[3] is not None and inputs.bias is not None:
        moving = moving + bias_tangent(inputs, inputs.bias, along[3], tile)
    return moving


def _over_blocks(inputs: Inputs, function: Callable[[Blocks], Any]) -> tuple[Array, ...]:
    """What a function gives for all blocks, their rows one after the other."""
    _, found = _scanned(inputs, lambda nothing, blocks: (nothing, function(blocks)), ())
    return found


def _scanned(
    inputs: Inputs, turn: Callable[..., Any], sums: tuple[Array, ...]
) -> tuple[tuple[Array, ...], Any]:
    """Sums that go through all turns, and what each turn gives for its blocks, their rows one after the other."""
    layout = inputs.layout
    each = -(-layout.count // layout.groups)
    number = jnp.arange(layout.groups * each, dtype=jnp.int32).reshape(layout.groups, each)
    if layout.groups == 1:
        sums, found = turn(sums, blocks_of(layout, number[0]))
        found = (found,) if isinstance(found, Array) else found
        flats = tuple(array.reshape(-1, *array.shape[2:]) for array in found)
    else:
        sums, found = lax.scan(lambda held, some: turn(held, blocks_of(layout, some)), sums, number)
        found = (found,) if isinstance(found, Array) else found
        flats = tuple(array.reshape(-1, *array.shape[3:]) for array in found)
    return sums, flats if len(flats) > 1 else flats[0]


def _placed(inputs: Inputs, rows: Array) -> Array:
    """Rows of all blocks as those of the flat array, 0 where a token has none."""
    place, inside = places(inputs.layout)
    return jnp.where(inside.reshape(-1, *(1,) * (rows.ndim - 1)), rows[place], 0)


def _rows_first(values: Array) -> Array:
    """(G, H, Q, M) -> (G, Q, H, M)."""
    return values.swapaxes(1, 2)


def _flat_lse(lse: Array) -> Array:
    return lse if lse.ndim == 2 else lse.reshape(-1, lse.shape[-1])
