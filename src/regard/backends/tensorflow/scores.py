"""The arrays of a call, and the scores and weights of one tile: what the forward and the backward pass share.

Flat arrays: query (T, H, D), key (S, J, D), value (S, J, Dv), sinks (H,). Tiles: scores and weights (G, H, Q, K); products run on
(G, J, H / J * Q, ...), the query heads of one key head together. Sums run in float32, or float64 for float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from regard._dropout import keep_blocks
from regard._masks import And, Coordinates, Dense, Mask, Not, Or
from regard._plan import Plan
from regard.backends.tensorflow.blocks import Blocks
from regard.backends.tensorflow.tables import Table


@dataclass(eq=False)
class Inputs:
    """The arrays of one call, its blocks, and whether all numbers are finite."""

    plan: Plan
    blocks: Blocks
    query: Any
    key: Any
    value: Any
    bias: Any
    sinks: Any
    seed: Any
    finite: Any  # a bool, or a tensor of one where numbers can't be looked at

    def __post_init__(self) -> None:
        plan = self.plan
        self.precision = tf.float64 if self.query.dtype == tf.float64 else tf.float32
        self.spans = [
            _whole(array) for array in (plan.spans.q_begin, plan.spans.k_begin, plan.spans.query_start)
        ]
        self.count = _width(self.blocks.sequence)
        self.masks = {id(part): Table.dense(part.array) for part in _dense_masks(plan.mask)}
        self.table: Table | None = None
        if self.bias is not None and plan.bias == "dense":
            self.table = Table.dense(self.bias)
        elif self.bias is not None:
            self.table = Table.by_distance(self.bias, plan.distances.start)

    def by_head(self, rows: Any, length: Any) -> Any:
        """(G, L, H, D) -> (G, J, H / J * L, D): the query heads of one key head stand together."""
        kv_heads, (heads, size) = self.plan.kv_heads, rows.shape[-2:]
        split = tf.reshape(
            tf.cast(rows, self.precision), (self.count, length, kv_heads, heads // kv_heads, size)
        )
        split = tf.transpose(split, (0, 2, 3, 1, 4))
        return tf.reshape(split, (self.count, kv_heads, heads // kv_heads * length, size))

    def by_row(self, values: Any, heads: int, length: Any) -> Any:
        """The inverse of `by_head`, for so many heads: (G, J, H / J * L, D) -> (G, L, H, D)."""
        kv_heads, size = self.plan.kv_heads, values.shape[-1]
        split = tf.reshape(values, (self.count, kv_heads, heads // kv_heads, length, size))
        return tf.reshape(tf.transpose(split, (0, 3, 1, 2, 4)), (self.count, length, heads, size))

    def flat(self, values: Any, width: Any) -> Any:
        """(G, H, Q, M) -> (G, J, H / J * Q, M) with M = `width`."""
        kv_heads = self.plan.kv_heads
        return tf.reshape(
            values, (self.count, kv_heads, self.plan.heads // kv_heads * self.blocks.height, width)
        )

    def product(self, weights: Any, values: Any, allowed: Any, across: bool = False) -> Any:
        """Weights (G, H, Q, K), or with `across` their transpose, with values, over allowed pairs alone."""
        width = self.blocks.width
        flat = self.flat(weights, width)

        def selected_product() -> Any:
            pairs = self.flat(tf.cast(tf.broadcast_to(allowed, tf.shape(weights)), self.precision), width)
            if across:
                return _selected_product(
                    tf.linalg.matrix_transpose(flat), values, tf.linalg.matrix_transpose(pairs)
                )
            return _selected_product(flat, values, pairs)

        if self.finite is True:
            return tf.matmul(flat, values, transpose_a=across)
        if self.finite is False:
            return selected_product()
        return tf.cond(self.finite, lambda: tf.matmul(flat, values, transpose_a=across), selected_product)


class Group:
    """One group of blocks: its rows as indices and coordinates."""

    def __init__(self, inputs: Inputs, number: Any) -> None:
        blocks = inputs.blocks
        self.inputs = inputs
        self.sequence, self.first, self.length, self.low, self.high = (
            tf.gather(_whole(array), number)
            for array in (blocks.sequence, blocks.first, blocks.length, blocks.low, blocks.high)
        )
        q_begin, self.k_begin, query_start = (tf.gather(array, self.sequence) for array in inputs.spans)
        offset = tf.range(_int64(blocks.height), dtype=tf.int64)
        self.row = self.first[:, None] + offset
        self.real = offset < self.length[:, None]
        self.index = tf.where(self.real, q_begin[:, None] + self.row, 0)
        self.position = query_start[:, None] + self.row
        self.chunks = tf.reduce_max(-(-(self.high - self.low) // _int64(blocks.width)))

    def rows(self, flat: Any) -> Any:
        """(T, ...) -> (G, Q, ...); rows that are not real hold some other row."""
        if self.inputs.blocks.is_whole:
            return tf.reshape(flat, (self.inputs.count, self.inputs.blocks.height, *flat.shape[1:]))
        return tf.gather(flat, self.index)

    def tile(self, chunk: Any) -> Tile:
        """The group against chunk number `chunk` of its blocks' keys."""
        return Tile(self, chunk)


class Tile:
    """One group's rows against one chunk of keys for each of its blocks."""

    def __init__(self, group: Group, chunk: Any) -> None:
        self.inputs = inputs = group.inputs
        width = inputs.blocks.width
        self.begin = group.low + _int64(chunk) * _int64(width)
        key = self.begin[:, None] + tf.range(_int64(width), dtype=tf.int64)
        self.real = key < group.high[:, None]
        self.index = tf.where(self.real, group.k_begin[:, None] + key, 0)
        self.at = Coordinates(
            sequence=group.sequence[:, None, None, None],
            head=tf.range(inputs.plan.heads, dtype=tf.int64)[:, None, None],
            row=group.row[:, None, :, None],
            position=group.position[:, None, :, None],
            key=key[:, None, None, :],
            query_token=group.index[:, None, :, None],
            key_token=self.index[:, None, None, :],
            bring=_Numbers,
        )
        self.allowed = group.real[:, None, :, None] & self.real[:, None, None, :]
        if inputs.plan.mask is not None:
            self.allowed &= self._allows(inputs.plan.mask)

    def _allows(self, mask: Mask) -> Any:
        if isinstance(mask, And):
            return self._allows(mask.first) & self._allows(mask.second)
        if isinstance(mask, Or):
            return self._allows(mask.first) | self._allows(mask.second)
        if isinstance(mask, Not):
            return ~self._allows(mask.mask)
        if isinstance(mask, Dense):
            allowed, inside = self.inputs.masks[id(mask)].read(self.at)
            return allowed & inside
        return mask.allows(self.at)

    def keys(self, flat: Any) -> Any:
        """Key rows of a flat array (S, J, D) by head: (G, J, K, D)."""
        blocks = self.inputs.blocks
        if blocks.is_single:
            rows = tf.reshape(flat, (self.inputs.count, blocks.width, *flat.shape[1:]))
        else:
            rows = tf.gather(flat, self.index)
        return self.inputs.by_head(rows, blocks.width)

    def add(self, sums: Any, rows: Any) -> Any:
        """`sums` (S, J, D) with rows by head (G, J, K, D) added, which are 0 where not real."""
        inputs, blocks = self.inputs, self.inputs.blocks
        by_row = inputs.by_row(rows, inputs.plan.kv_heads, blocks.width)
        if blocks.is_single:
            return sums + tf.reshape(by_row, tf.shape(sums))
        return tf.tensor_scatter_nd_add(
            sums,
            tf.reshape(self.index, (-1, 1)),
            tf.reshape(by_row, (inputs.count * blocks.width, *by_row.shape[2:])),
        )

    def kept(self) -> Any:
        """Dropout's factors (G, H, Q, K), 0 or 1 / (1 - p), or None without dropout."""
        inputs, p = self.inputs, self.inputs.plan.dropout_p
        if inputs.seed is None or not p:
            return None
        width = inputs.blocks.width
        run = self.begin[:, None] // 4 + tf.range(_int64(-(-width // 4)), dtype=tf.int64)
        at = self.at
        words = keep_blocks(inputs.seed, at.sequence, at.head, at.position, run[:, None, None, :], p)
        chosen = tf.stack(words, -1)
        chosen = tf.reshape(chosen, (*tf.unstack(tf.shape(chosen))[:3], -1))[..., :width]
        return tf.cast(chosen, inputs.precision) / (1 - p)


@dataclass(eq=False)
class Scores:
    """Scores (G, H, Q, K) of one tile with soft cap and bias, the pairs that take part, and the soft cap's slope."""

    values: Any
    allowed: Any
    slope: Any

    def weights(self, total: Any) -> Any:
        """`exp(scores - total)` where allowed, 0 elsewhere, whatever stood there."""
        return selected(tf.exp(self.values - total), self.allowed)


def score(tile: Tile, query: Any, key: Any) -> Scores:
    """Scores of the tile's pairs, from query and key by head."""
    inputs, plan = tile.inputs, tile.inputs.plan
    values = tf.matmul(query * plan.scale, key, transpose_b=True)
    values = tf.reshape(values, (inputs.count, plan.heads, inputs.blocks.height, inputs.blocks.width))
    slope, allowed = None, tile.allowed
    if plan.softcap is not None:
        bent = tf.tanh(values / plan.softcap)
        values, slope = plan.softcap * bent, 1 - bent * bent
    if inputs.table is not None:
        added, found = inputs.table.read(tile.at)
        added = tf.cast(added, values.dtype)
        values, allowed = values + added, allowed & found & (added != -math.inf)
    return Scores(values, allowed, slope)


def selected(values: Any, allowed: Any) -> Any:
    """Values where allowed, 0 elsewhere."""
    return tf.where(allowed, values, tf.zeros((), values.dtype))


def heads_first(rows: Any) -> Any:
    """(G, Q, H) -> (G, H, Q, 1)."""
    return tf.transpose(rows, (0, 2, 1))[..., None]


def finite_lse(lse: Any) -> Any:
    """The lse, 0 where a query sees nothing."""
    return tf.where(lse == -math.inf, tf.zeros((), lse.dtype), lse)


def denominator(inputs: Inputs, lse: Any) -> Any:
    """Logarithm of what the weights (T, H) are divided by, sinks included; 0 where there is nothing to divide."""
    if inputs.sinks is None:
        return finite_lse(lse)
    sinks = tf.cast(inputs.sinks, lse.dtype)
    top = finite_lse(tf.maximum(lse, sinks))
    top = tf.where(top == math.inf, tf.zeros((), top.dtype), top)
    return finite_lse(top + tf.math.log(tf.exp(lse - top) + tf.exp(sinks - top)))


def are_finite(*arrays: Any) -> Any:
    """Whether no array holds NaN or infinity: a sum is neither where no entry is."""
    sums = [
        tf.math.is_finite(
            tf.reduce_sum(tf.cast(array, tf.float64 if array.dtype == tf.float64 else tf.float32))
        )
        for array in arrays
        if array is not None
    ]
    return tf.reduce_all(tf.stack(sums))


class _Numbers:
    """An array as masks look things up in it: `array[index]`."""

    def __init__(self, array: Any) -> None:
        self.array = tf.convert_to_tensor(array)

    def __getitem__(self, index: Any) -> Any:
        return tf.gather(self.array, index)


def _dense_masks(mask: Mask | None) -> Iterator[Dense]:
    if isinstance(mask, Dense):
        yield mask
    elif isinstance(mask, And | Or):
        yield from _dense_masks(mask.first)
        yield from _dense_masks(mask.second)
    elif isinstance(mask, Not):
        yield from _dense_masks(mask.mask)


def _selected_product(weights: Any, values: Any, pairs: Any) -> Any:
    """`weights @ values` in which pairs that are not allowed take no part, though 0 * NaN is NaN.

    Weights are zero where not allowed. What is not finite among the values is summed apart, over the allowed pairs alone.
    """
    zero, one = tf.zeros((), values.dtype), tf.ones((), values.dtype)
    ordinary, usual = tf.math.is_finite(values), tf.math.is_finite(weights)
    total = tf.matmul(tf.where(usual, weights, zero), tf.where(ordinary, values, zero))
    rising, falling = tf.where(weights > 0, pairs, zero), tf.where(weights < 0, pairs, zero)
    up, down = tf.where(values == math.inf, one, zero), tf.where(values == -math.inf, one, zero)
    positive = tf.matmul(rising, up) + tf.matmul(falling, down) > 0
    negative = tf.matmul(rising, down) + tf.matmul(falling, up) > 0
    wrong = tf.reduce_sum(tf.where(usual, zero, pairs), -1, keepdims=True)
    undefined = tf.matmul(pairs, tf.where(tf.math.is_nan(values), one, zero)) > 0
    undefined = undefined | (wrong > 0) | (positive & negative)
    infinity, nothing = tf.constant(math.inf, values.dtype), tf.constant(math.nan, values.dtype)
    total = tf.where(positive, infinity, tf.where(negative, -infinity, total))
    return tf.where(undefined, nothing, total)


def _width(array: Any) -> Any:
    return array.shape[1] if array.shape[1] is not None else tf.shape(array)[1]


def _whole(array: Any) -> Any:
    return tf.constant(array, tf.int64) if isinstance(array, np.ndarray) else tf.cast(array, tf.int64)


def _int64(number: Any) -> Any:
    return tf.cast(number, tf.int64)
