"""The backward pass: weights recomputed from the lse, tile by tile. Itself made of differentiable operations."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from regard.backends.tensorflow.scores import (
    Group,
    Inputs,
    Scores,
    Tile,
    denominator,
    finite_lse,
    heads_first,
    score,
    selected,
)

Sums = tuple[Any, ...]  # of key (S, J, D), value (S, J, Dv), and of the bias's places where there is one


def backward(inputs: Inputs, out: Any, lse: Any, grad_out: Any, grad_lse: Any) -> tuple[Any, ...]:
    """Gradients of query, key, value, bias and sinks, each in its own dtype; `grad_lse` may be None."""
    precision, blocks = inputs.precision, inputs.blocks
    grad_out = tf.cast(grad_out, precision)
    delta = tf.reduce_sum(grad_out * tf.cast(out, precision), -1)
    delta = tf.where(lse == -math.inf, tf.zeros((), precision), delta)
    total = denominator(inputs, lse)
    rows = _Rows(inputs, grad_out, delta, total, lse, grad_lse)
    sums: Sums = tuple(tf.zeros(tf.shape(array), precision) for array in (inputs.key, inputs.value))
    if inputs.table is not None:
        sums = (*sums, inputs.table.zeros(precision))
    if isinstance(blocks.groups, int) and blocks.groups == 1:
        collected, sums = rows.group(0, sums)
    else:
        collected, sums = _groups(inputs, rows, sums)
    grad_query = tf.reshape(
        collected, (blocks.groups * inputs.count * blocks.height, *inputs.query.shape[1:])
    )
    if not blocks.is_whole:
        grad_query = tf.gather(grad_query, blocks.place)
    if blocks.real is not None:
        real = tf.convert_to_tensor(blocks.real)[:, None, None]
        grad_query = tf.where(real, grad_query, tf.zeros((), precision))
    grads = [
        tf.cast(grad, array.dtype)
        for grad, array in zip((grad_query, *sums), (inputs.query, inputs.key, inputs.value), strict=False)
    ]
    bias = None if inputs.table is None else inputs.table.shaped(sums[2], inputs.bias)
    return *grads, bias, _sinks(inputs, total, delta)


def _groups(inputs: Inputs, rows: _Rows, sums: Sums) -> tuple[Any, Sums]:
    blocks = inputs.blocks
    groups = tf.convert_to_tensor(blocks.groups)
    places = tf.TensorArray(
        inputs.precision, size=groups, element_shape=[None, None, *inputs.query.shape[1:]]
    )

    def step(number: Any, places: Any, *sums: Any) -> tuple[Any, ...]:
        collected, sums = rows.group(number, sums)
        return number + 1, places.write(number, collected), *sums

    _, places, *found = tf.while_loop(
        lambda number, *_: number < groups, step, (tf.constant(0), places, *sums), parallel_iterations=1
    )
    return places.stack(), tuple(found)


class _Rows:
    """What every group needs of its query rows."""

    def __init__(
        self, inputs: Inputs, grad_out: Any, delta: Any, total: Any, lse: Any, grad_lse: Any
    ) -> None:
        self.inputs, self.grad_out, self.delta, self.total = inputs, grad_out, delta, total
        self.lse_part = None
        if grad_lse is not None:
            # The lse leaves the sinks out: its weights are exp(score - lse), larger than those of the output.
            larger = tf.exp(total - finite_lse(lse)) * grad_lse
            self.lse_part = tf.where(grad_lse == 0, tf.zeros((), lse.dtype), larger)

    def group(self, number: Any, sums: Sums) -> tuple[Any, Sums]:
        """The gradient of one group's queries (G, Q, H, D), and the sums with what it adds."""
        inputs, group = self.inputs, Group(self.inputs, number)
        height = inputs.blocks.height
        part = _Part(
            inputs.by_head(group.rows(inputs.query), height),
            inputs.by_head(group.rows(self.grad_out), height),
            heads_first(group.rows(self.delta)),
            heads_first(group.rows(self.total)),
            None if self.lse_part is None else heads_first(group.rows(self.lse_part)),
        )
        if inputs.blocks.chunks == 1:
            collected, sums = part.tile(group.tile(0), sums)
        else:
            collected, *found = tf.while_loop(
                lambda chunk, *_: chunk < group.chunks,
                lambda chunk, collected, *sums: _next(chunk, collected, *part.tile(group.tile(chunk), sums)),
                (tf.constant(0, tf.int64), tf.zeros_like(part.query), *sums),
                parallel_iterations=1,
            )[1:]
            sums = tuple(found)
        return inputs.by_row(collected, inputs.plan.heads, height), sums


def _next(chunk: Any, collected: Any, added: Any, sums: Sums) -> tuple[Any, ...]:
    return chunk + 1, collected + added, *sums


class _Part:
    """The rows of one group by head."""

    def __init__(self, query: Any, grad_out: Any, delta: Any, total: Any, lse_part: Any) -> None:
        self.query, self.grad_out, self.delta, self.total, self.lse_part = (
            query,
            grad_out,
            delta,
            total,
            lse_part,
        )

    def tile(self, tile: Tile, sums: Sums) -> tuple[Any, Sums]:
        """The gradient by head of the queries, and the sums, after one chunk of keys."""
        inputs = tile.inputs
        key, value = tile.keys(inputs.key), tile.keys(inputs.value)
        scores = score(tile, self.query, key)
        weights, kept = scores.weights(self.total), tile.kept()
        used = weights if kept is None else weights * kept
        grad_value = inputs.product(used, self.grad_out, scores.allowed, across=True)
        flow = self._flow(scores, weights, kept, tf.matmul(self.grad_out, value, transpose_b=True))
        rest: Sums = ()
        if inputs.table is not None:
            rest = (inputs.table.add(sums[2], tile.at, flow),)
        flow = flow * inputs.plan.scale
        if scores.slope is not None:
            flow = selected(flow * scores.slope, scores.allowed)
        grad_query = inputs.product(flow, key, scores.allowed)
        grad_key = inputs.product(flow, self.query, scores.allowed, across=True)
        return grad_query, (tile.add(sums[0], grad_key), tile.add(sums[1], grad_value), *rest)

    def _flow(self, scores: Scores, weights: Any, kept: Any, reached: Any) -> Any:
        """Gradient of the scores, soft cap and bias applied: `p * (dp - delta)`, and what the lse's gradient adds."""
        grads = tf.reshape(reached, tf.shape(weights))
        if kept is not None:
            grads = grads * kept
        grads = grads - self.delta
        if self.lse_part is not None:
            grads = grads + self.lse_part
        return selected(weights * grads, scores.allowed)


def _sinks(inputs: Inputs, total: Any, delta: Any) -> Any:
    if inputs.sinks is None:
        return None
    share = tf.exp(tf.cast(inputs.sinks, total.dtype) - total)
    return tf.cast(-tf.reduce_sum(share * delta, 0), inputs.sinks.dtype)
