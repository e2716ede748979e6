"""Sequences cut into blocks of query rows, and the chunks of keys that each meets: by arithmetic alone, offsets may be unknown.

Shapes: N sequences; G blocks of Q query rows; K keys of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from regard._errors import RegardError
from regard._form import Parts
from regard._masks import And, Causal, Coordinates, Lengths, Mask, Window, conjuncts
from regard._plan import padded_spans

# Scores that one step holds, all heads; rows of a block and keys of a chunk, at most and at least.
SCORES = 1 << 24
ROWS = 16, 128
KEYS = 16, 512


@dataclass(frozen=True, eq=False)
class Sequences:
    """N sequences of queries and the keys that they read, (N,) integers, which under a tracer are not known."""

    q_begin: Any
    q_length: Any
    k_begin: Any
    k_length: Any
    start: Any  # position of the first query


@dataclass(frozen=True, eq=False)
class Layout:
    """How a call is cut; `longest` is what a key sequence can have at most."""

    sequences: Sequences
    mask: Mask | None
    count: int
    rows: int
    keys: int
    groups: int  # the blocks are taken in so many turns
    longest: int
    total_queries: int
    total_keys: int
    heads: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """Some blocks: which sequence each belongs to, its rows in the flat array (G, Q), which of them are real, and its keys."""

    sequence: Array
    row: Array
    position: Array
    token: Array
    valid: Array
    first: Array  # of its keys, a multiple of 4
    last: Array


def layout_of(parts: Parts, q_shape: tuple[int, ...], k_shape: tuple[int, ...]) -> Layout:
    """Cut a call of arrays (..., T, H, D) and (..., S, J, D)."""
    total_queries, total_keys, heads = math.prod(q_shape[:-2]), math.prod(k_shape[:-2]), q_shape[-2]
    sequences, mask = _sequences(parts, q_shape, k_shape)
    number = sequences.q_begin.shape[0]
    packed = parts.cu_seqlens_q is not None
    if packed:
        rows = _power(total_queries // max(1, number), *ROWS)
        count = total_queries // rows + number if number else 0
    else:
        rows = min(ROWS[1], q_shape[-3])
        count = number * -(-q_shape[-3] // max(1, rows))
    longest = total_keys if packed else k_shape[-3]
    keys = _power(min(longest, SCORES // max(1, count * rows * heads)), *KEYS)
    groups = max(1, -(-count * rows * heads * keys // SCORES))
    return Layout(sequences, mask, count, rows, keys, groups, longest, total_queries, total_keys, heads)


def _power(wanted: int, least: int, most: int) -> int:
    """A power of two near what is wanted."""
    return min(most, max(least, 1 << max(0, wanted - 1).bit_length()))


def _sequences(
    parts: Parts, q_shape: tuple[int, ...], k_shape: tuple[int, ...]
) -> tuple[Sequences, Mask | None]:
    if parts.cu_seqlens_q is None:
        spans, _ = padded_spans(q_shape, k_shape)
        begins = (spans.q_begin, spans.q_length, spans.k_begin, spans.k_length)
        q_begin, q_length, k_begin, k_length = (jnp.asarray(part, jnp.int32) for part in begins)
    else:
        offsets = jnp.asarray(parts.cu_seqlens_q)
        q_begin, q_length = offsets[:-1], jnp.diff(offsets)
        offsets = offsets if parts.cu_seqlens_k is None else jnp.asarray(parts.cu_seqlens_k)
        k_begin, k_length = offsets[:-1], jnp.diff(offsets)
        if parts.key_sequence is not None:
            reads = jnp.asarray(parts.key_sequence)
            k_begin, k_length = k_begin[reads], k_length[reads]
    others: Mask | None = None
    for part in conjuncts(parts.mask) if parts.mask is not None else ():
        if isinstance(part, Lengths):
            q_length = q_length if part.q is None else jnp.minimum(q_length, part.q)
            k_length = k_length if part.k is None else jnp.minimum(k_length, part.k)
        else:
            others = part if others is None else others & part
    start = k_length - q_length if parts.query_start is None else jnp.asarray(parts.query_start, jnp.int32)
    return Sequences(q_begin, q_length, k_begin, k_length, jnp.broadcast_to(start, q_length.shape)), others


def blocks_of(layout: Layout, number: Array) -> Blocks:
    """The blocks of these numbers (G,); blocks behind the last one have no valid row."""
    some = layout.sequences
    pieces = -(-some.q_length // layout.rows)
    ends = jnp.cumsum(pieces)
    sequence = jnp.minimum(jnp.searchsorted(ends, number, side="right"), pieces.shape[0] - 1)
    within = (number - (ends - pieces)[sequence]) * layout.rows
    row = within[:, None] + jnp.arange(layout.rows, dtype=jnp.int32)
    length, start = some.q_length[sequence], some.start[sequence]
    valid = (row < length[:, None]) & (number < ends[-1])[:, None]
    token = jnp.clip(some.q_begin[sequence][:, None] + row, 0, layout.total_queries - 1)
    last_row = jnp.minimum(within + layout.rows, length) - 1
    first, last = _hull(layout.mask, start + within, start + last_row)
    last = jnp.where(valid.any(1), jnp.minimum(last, some.k_length[sequence]), 0)
    # Dropout draws its numbers for runs of four keys.
    first = jnp.clip(first, 0, layout.longest) & ~3
    return Blocks(sequence, row, start[:, None] + row, token, valid, first, last)


def places(layout: Layout) -> tuple[Array, Array]:
    """Where each token's row stands among those of all blocks, (T,), and whether it has one."""
    some = layout.sequences
    token = jnp.arange(layout.total_queries, dtype=jnp.int32)
    pieces = -(-some.q_length // layout.rows)
    # The last sequence that begins at or before a token; empty ones begin where their successor does.
    sequence = jnp.maximum(jnp.searchsorted(some.q_begin, token, side="right") - 1, 0)
    row = token - some.q_begin[sequence]
    inside = (row >= 0) & (row < some.q_length[sequence])
    place = (jnp.cumsum(pieces) - pieces)[sequence] * layout.rows + row
    return jnp.where(inside, place, 0), inside


def steps_of(layout: Layout, blocks: Blocks, *, bounded: bool) -> Any:
    """How many chunks of keys the blocks meet at most; `bounded` by a number that is known."""
    if bounded:
        return -(-(layout.longest + 3) // layout.keys)
    longest = jnp.max(blocks.last - blocks.first, initial=0)
    return -(-longest // layout.keys)


@dataclass(frozen=True, eq=False)
class Tile:
    """Blocks against one chunk of keys each: places of the keys (G, K), coordinates, and the pairs (G, H or 1, Q, K) that meet."""

    token: Array
    at: Coordinates
    allowed: Array


def tile_of(layout: Layout, blocks: Blocks, step: Any) -> Tile:
    """The blocks' chunk number `step`."""
    key = (blocks.first + step * layout.keys)[:, None] + jnp.arange(layout.keys, dtype=jnp.int32)
    begin = layout.sequences.k_begin[blocks.sequence][:, None]
    token = jnp.clip(begin + key, 0, layout.total_keys - 1)
    at = Coordinates(
        sequence=blocks.sequence[:, None, None, None],
        head=jnp.arange(layout.heads, dtype=jnp.int32)[:, None, None],
        row=blocks.row[:, None, :, None],
        position=blocks.position[:, None, :, None],
        key=key[:, None, None, :],
        query_token=blocks.token[:, None, :, None],
        key_token=token[:, None, None, :],
        bring=jnp.asarray,
    )
    allowed = blocks.valid[:, None, :, None] & (key < blocks.last[:, None])[:, None, None, :]
    if layout.mask is not None:
        allowed = allowed & layout.mask.allows(at)
    return Tile(token, at, allowed)


def _hull(mask: Mask | None, first: Array, last: Array) -> tuple[Array, Array]:
    """A range of keys that holds all that the positions `first` to `last` may see."""
    everything = jnp.zeros_like(first), jnp.full_like(last, np.iinfo(np.int32).max)
    if isinstance(mask, And):
        (low, high), (other_low, other_high) = (
            _hull(part, first, last) for part in (mask.first, mask.second)
        )
        return jnp.maximum(low, other_low), jnp.minimum(high, other_high)
    if isinstance(mask, Causal):
        return everything[0], last + 1
    if isinstance(mask, Window):
        low = everything[0] if mask.left == math.inf else first - int(mask.left)
        right = math.inf if mask.right is None else mask.right
        return low, everything[1] if right == math.inf else last + int(right) + 1
    return everything


def check_positions(*numbers: Any) -> None:
    """Raise where an integer that is known does not fit the 32 bits that positions have here."""
    for number in numbers:
        array = np.asarray(number)
        if array.dtype.kind in "iu" and array.size and max(-int(array.min()), int(array.max())) >= 1 << 30:
            raise RegardError(
                f"JAX counts positions in 32 bits; expected integers below 2**30. Received {array.min()} to {array.max()}; "
                "count positions from the first key, and number documents from 0."
            )
