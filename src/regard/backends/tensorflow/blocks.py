"""A call cut into blocks of query rows, all of one height, each with the range of keys that it may see.

Where the layout is known, NumPy cuts it; where offsets are tensors whose numbers can't be looked at, TensorFlow does, into as many blocks
as the shapes allow at most. Letters: N sequences, B blocks in R groups of G, Q rows of a block, K keys of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from regard._plan import Plan

QUERY_BLOCK = 256
KEY_CHUNK = 512
SCORES_PER_GROUP = 1 << 21  # scores alive at once, all heads: 8 MiB in float32


@dataclass(frozen=True, eq=False)
class Blocks:
    """What the loops go over. Arrays (R, G) are int64, of NumPy or TensorFlow; blocks that only fill a group have no rows and keys."""

    groups: Any  # R
    height: Any  # Q
    width: Any  # K, a multiple of 4 where a block may have more than one chunk
    sequence: Any  # (R, G)
    first: Any  # (R, G): index of the block's first row in its sequence
    length: Any  # (R, G): how many rows are real
    low: Any  # (R, G): the first key that it may see, a multiple of 4
    high: Any  # (R, G)
    place: Any  # (T,): where each row of the flat queries stands among the R * G * Q rows of all blocks
    real: Any  # (T,): whether it stands there at all; None for every row
    is_whole: bool  # one group, whose blocks are the flat rows as they lie
    is_single: bool  # one group and one chunk, whose keys are the flat keys as they lie

    @property
    def loops(self) -> bool:
        """Whether there may be more than one group or chunk."""
        return not (isinstance(self.groups, int) and self.groups == 1 and self.chunks == 1)

    @property
    def chunks(self) -> int | None:
        """The most chunks that a block has, or None where nobody knows."""
        if isinstance(self.high, np.ndarray) and isinstance(self.width, int):
            return -(-int((self.high - self.low).max(initial=0)) // self.width)
        return None


def known(plan: Plan) -> Blocks | None:
    """The blocks of a plan whose numbers are known, those with most keys first; None where no pair can meet."""
    if "tensorflow" not in plan.notes:
        plan.notes["tensorflow"] = _known(plan)
    return plan.notes["tensorflow"]


def _known(plan: Plan) -> Blocks | None:
    spans = plan.spans
    height = _size(spans.q_length, QUERY_BLOCK)
    pieces = -(-spans.q_length // max(1, height))
    sequence: np.ndarray = np.repeat(np.arange(len(pieces)), pieces)
    first = (np.arange(len(sequence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * height
    length = np.minimum(spans.q_length[sequence] - first, height)
    low, high = _key_range(plan, sequence, first, length)
    some = np.flatnonzero(high > low)
    if not len(some):
        return None
    width = _size((high - low)[some], KEY_CHUNK)
    if (high - low).max() > width:
        width += -width % 4
    chunks = -(-(high - low) // width)
    order = some[np.argsort(-chunks[some], kind="stable")]
    count = _group(plan.heads, height, width, len(order))
    groups = -(-len(order) // count)
    parts = []
    for array in (sequence, first, length, low, high):
        filled = np.zeros(groups * count, np.int64)
        filled[: len(order)] = array[order]
        parts.append(filled.reshape(groups, count))
    sequence, first, length, low, high = parts
    offset = np.arange(height)
    rows = (spans.q_begin[sequence] + first).reshape(-1, 1) + offset
    real = offset < length.reshape(-1, 1)
    place = np.full(plan.total_queries, -1)
    place[rows[real]] = np.flatnonzero(real.reshape(-1))
    keys = (spans.k_begin[sequence] + low).reshape(-1, 1) + np.arange(width)
    return Blocks(
        groups, height, width, sequence, first, length, low, high,
        np.maximum(place, 0),
        None if (place >= 0).all() else place >= 0,
        is_whole=groups == 1 and bool(real.all()) and np.array_equal(rows.reshape(-1), np.arange(plan.total_queries)),
        is_single=groups == 1 and bool((high - low == width).all()) and np.array_equal(keys.reshape(-1), np.arange(plan.total_keys)),
    )  # fmt: skip


def _key_range(
    plan: Plan, sequence: np.ndarray, first: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each block, the range that holds all keys that its rows may see."""
    spans = plan.spans
    everything = spans.k_length[sequence]
    if plan.mask is None or not len(sequence):
        return np.zeros_like(everything), everything
    position = spans.query_start[sequence] + first
    starts, ends = plan.mask.cover(spans).hulls(spans, sequence, position, position + length - 1)
    filled = starts < ends
    low = np.where(filled, starts, np.iinfo(np.int32).max).min(1, initial=np.iinfo(np.int32).max)
    high = np.where(filled, ends, 0).max(1, initial=0)
    # Dropout draws its numbers for runs of four keys.
    low = np.minimum(low, high).astype(np.int64) & ~3
    return low, np.where(filled.any(1), high, low).astype(np.int64)


def unknown(plan: Plan, longest: Any, longest_key: Any) -> Blocks:
    """The blocks of a plan whose spans are tensors; of padded arrays, `longest` are their lengths T and S."""
    spans = plan.spans
    count = _count(spans.q_begin)
    height, pieces = _blocks_within(plan.total_queries, count, longest, QUERY_BLOCK)
    width, chunks = _blocks_within(plan.total_keys, _count(spans.k_begin), longest_key, KEY_CHUNK)
    if not (isinstance(chunks, int) and chunks == 1):
        width = width + (-width) % 4
    size = _group(plan.heads, height, width, pieces)
    groups = -(-pieces // size)
    groups = groups if isinstance(groups, int) else tf.maximum(groups, 1)
    each = -(-spans.q_length // _int64(height))
    ends = tf.cumsum(each)
    number = tf.range(_int64(groups * size), dtype=tf.int64)
    sequence = tf.minimum(tf.searchsorted(ends, number, side="right", out_type=tf.int64), _int64(count) - 1)
    first = (number - tf.gather(ends - each, sequence)) * _int64(height)
    length = tf.clip_by_value(tf.gather(spans.q_length, sequence) - first, 0, _int64(height))
    high = tf.where(length > 0, tf.gather(spans.k_length, sequence), 0)
    token = tf.range(_int64(plan.total_queries), dtype=tf.int64)
    owner = tf.maximum(tf.searchsorted(spans.q_begin, token, side="right", out_type=tf.int64) - 1, 0)
    row = token - tf.gather(spans.q_begin, owner)
    real = row < tf.gather(spans.q_length, owner)
    place = tf.gather(ends - each, owner) * _int64(height) + row
    shape = (groups, size)
    sequence, first, length, high = (tf.reshape(array, shape) for array in (sequence, first, length, high))
    return Blocks(
        groups, height, width, sequence, first, length, tf.zeros_like(high), high, tf.where(real, place, 0), real,
        is_whole=False, is_single=False,
    )  # fmt: skip


def _size(lengths: np.ndarray, most: int) -> int:
    """The size of blocks or chunks that wastes little: lengths cut evenly where they agree, else about the mean."""
    longest = int(lengths.max(initial=0))
    if longest == 0:
        return 1
    lengths = lengths[lengths > 0]
    wanted = longest if (lengths == longest).all() else -(-int(lengths.sum()) // len(lengths))
    return _even(max(wanted, min(longest, 8)), most)


def _even(length: Any, most: int) -> Any:
    """`length` cut evenly into pieces of at most `most`."""
    pieces = -(-length // most)
    if isinstance(length, int):
        return -(-length // pieces) if length else 1
    return tf.maximum(-(-length // tf.maximum(pieces, 1)), 1)


def _blocks_within(total: Any, count: Any, longest: Any, most: int) -> tuple[Any, Any]:
    """The size of blocks and how many there are at most: of padded sequences all alike, else of about the mean length."""
    if longest is not None:
        size = _even(longest, most)
        return size, count * -(-longest // size)
    if isinstance(total, int) and isinstance(count, int):
        size = _even(max(-(-total // max(count, 1)), 8), most)
    else:
        size = _even(tf.maximum(-(-total // tf.maximum(count, 1)), 8), most)
    return size, total // size + count


def _group(heads: int, height: Any, width: Any, count: Any) -> Any:
    """How many blocks are computed together, at most `count`."""
    budget = SCORES_PER_GROUP // max(1, heads)
    if isinstance(height, int) and isinstance(width, int) and isinstance(count, int):
        most = max(1, budget // (height * width))
        groups = -(-count // most)
        return max(1, -(-count // max(groups, 1)))
    return tf.clip_by_value(budget // (height * width), 1, tf.maximum(count, 1))


def _count(array: Any) -> Any:
    return array.shape[0] if array.shape[0] is not None else tf.shape(array)[0]


def _int64(number: Any) -> Any:
    return tf.cast(number, tf.int64)
