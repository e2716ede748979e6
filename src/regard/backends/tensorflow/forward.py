"""The forward pass: a running softmax over the key chunks of every block of queries (Dao et al. 2022)."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from regard.backends.tensorflow.scores import Group, Inputs, Tile, score

Running = tuple[Any, Any, Any]  # peak and mass (G, H, Q, 1), context (G, J, H / J * Q, Dv)


def forward(inputs: Inputs) -> tuple[Any, Any]:
    """The output (T, H, Dv) and the lse (T, H), both in the precision of the sums."""
    blocks = inputs.blocks
    if isinstance(blocks.groups, int) and blocks.groups == 1:
        out, lse = _attend(inputs, 0)
    else:
        like = (tf.TensorSpec(None, inputs.precision), tf.TensorSpec(None, inputs.precision))
        out, lse = tf.map_fn(
            lambda number: _attend(inputs, number),
            tf.range(blocks.groups),
            fn_output_signature=like,
            parallel_iterations=1,
        )
    heads, size = inputs.plan.heads, inputs.value.shape[-1]
    rows = blocks.groups * inputs.count * blocks.height
    out, lse = tf.reshape(out, (rows, heads, size)), tf.reshape(lse, (rows, heads))
    if not blocks.is_whole:
        out, lse = tf.gather(out, blocks.place), tf.gather(lse, blocks.place)
    if blocks.real is not None:
        real = tf.convert_to_tensor(blocks.real)
        out = tf.where(real[:, None, None], out, tf.zeros((), out.dtype))
        lse = tf.where(real[:, None], lse, tf.constant(-math.inf, lse.dtype))
    return out, lse


def _attend(inputs: Inputs, number: Any) -> tuple[Any, Any]:
    """One group's output (G, Q, H, Dv) and lse (G, Q, H)."""
    group = Group(inputs, number)
    height, heads = inputs.blocks.height, inputs.plan.heads
    query = inputs.by_head(group.rows(inputs.query), height)
    peak, mass, context = _tiles(inputs, group, query)
    lse = peak + tf.math.log(mass)
    share = 1 / tf.where(mass == 0, tf.ones((), mass.dtype), mass)
    if inputs.sinks is not None:
        kept = tf.sigmoid(lse - tf.cast(inputs.sinks, lse.dtype)[:, None, None])
        share = share * tf.where(lse == -math.inf, tf.zeros((), kept.dtype), kept)
    out = inputs.by_row(context * inputs.flat(share, 1), heads, height)
    return out, tf.transpose(lse[..., 0], (0, 2, 1))


def _tiles(inputs: Inputs, group: Group, query: Any) -> Running:
    if inputs.blocks.chunks == 1:
        return _tile(group.tile(0), query, None)
    rows, size = tf.shape(query), inputs.value.shape[-1]
    shape = (rows[0], inputs.plan.heads, inputs.blocks.height, 1)
    start = (
        tf.fill(shape, inputs.precision.min),
        tf.zeros(shape, inputs.precision),
        tf.zeros((rows[0], rows[1], rows[2], size), inputs.precision),
    )

    def step(chunk: Any, peak: Any, mass: Any, context: Any) -> tuple[Any, ...]:
        return chunk + 1, *_tile(group.tile(chunk), query, (peak, mass, context))

    unknown = tf.TensorShape([None] * 4)
    _, *running = tf.while_loop(
        lambda chunk, *_: chunk < group.chunks,
        step,
        (tf.constant(0, tf.int64), *start),
        shape_invariants=(tf.TensorShape(()), unknown, unknown, tf.TensorShape([None, None, None, size])),
    )
    return tuple(running)


def _tile(tile: Tile, query: Any, running: Running | None) -> Running:
    inputs = tile.inputs
    key, value = tile.keys(inputs.key), tile.keys(inputs.value)
    scores = score(tile, query, key)
    values = tf.where(scores.allowed, scores.values, tf.constant(-math.inf, scores.values.dtype))
    # The peak of a row that sees nothing is finite, so that differences of peaks are numbers.
    peak = tf.maximum(tf.reduce_max(values, -1, keepdims=True), values.dtype.min)
    if running is not None:
        peak = tf.maximum(peak, running[0])
    weights = tf.exp(values - peak)
    mass = tf.reduce_sum(weights, -1, keepdims=True)
    kept = tile.kept()
    context = inputs.product(weights if kept is None else weights * kept, value, scores.allowed)
    if running is None:
        return peak, mass, context
    fade = tf.exp(running[0] - peak)
    return peak, running[1] * fade + mass, running[2] * inputs.flat(fade, 1) + context
