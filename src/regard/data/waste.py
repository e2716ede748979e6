"""What padding costs on given lengths, by how batches are formed: computed for every batch, before any training.

A padded batch of n examples holds `n * (longest of each field)` tokens, of which the examples' own are real. The packed batch
holds the real ones alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError, nearest
from regard.data.batches import checked_lengths

Counts = NDArray[np.int64]
ORDERS = {
    "random": "batches of random examples: the default of transformers and of JoeyNMT",
    "pools": "50 batches at a time, sorted by their first field: group_by_length of transformers",
    "sorted": "the whole set sorted, by the last field and then by the others: fairseq",
    "packed": "no padding, whatever the order: regard",
}
POOL = 50  # batches sorted at a time


@dataclass(frozen=True)
class Waste:
    """What one way to form batches costs in an epoch.

    Attributes:
        order: a key of `ORDERS`.
        batches: how many there are.
        padding: share of the computed tokens that are padding.
        activations: computed tokens for each real one, as memory and the work of every layer but attention grow.
        pairs: pairs of query and key computed for each real one: of every field with itself, and of the last with the others.
        largest: computed tokens of the largest batch.
    """

    order: str
    batches: int
    padding: float
    activations: float
    pairs: float
    largest: int


def waste(
    lengths: Any,
    order: str,
    *,
    tokens: int | None = None,
    sentences: int | None = None,
    seed: int = 0,
) -> Waste:
    """The cost of an epoch whose batches are formed in one way.

    Batches are filled one after the other: by a number of examples, or as long as no field of the batch, padding included,
    has more than `tokens`. A longer example is a batch by itself.

    Arguments:
        lengths: (n, fields) or (n,) integers, tokens of each example in each field.
        order: "random", "pools", "sorted" or "packed".
        tokens: the most tokens of a field in a batch.
        sentences: examples of a batch, instead of `tokens`.
        seed: of the random order, in which examples of like length stand, too.

    Raises:
        DataError: there are no examples, or `lengths` is no array of counts.
        ConfigError: the order is unknown, or there is not exactly one size, above 0.

    >>> waste([[2, 2], [4, 4], [2, 2], [4, 4]], "sorted", sentences=2).padding
    0.0
    >>> waste([[2, 2], [6, 2]], "random", sentences=2).padding
    0.25
    """
    counts = checked_lengths(lengths).astype(np.int64)
    _check(order, tokens, sentences)
    indices = np.random.default_rng(seed).permutation(len(counts))
    if order == "sorted":
        indices = indices[np.lexsort(counts[indices].T)]
    elif order == "pools":
        mean = max(1.0, float(counts[:, -1].mean()))
        size = POOL * sentences if sentences else max(1, int(POOL * (tokens or 0) / mean))
        indices = indices[np.lexsort((counts[indices, 0], np.arange(len(indices)) // size))]
    chosen = counts[indices]
    packed = order == "packed"
    starts = np.arange(0, len(chosen), sentences) if sentences else _starts(chosen, tokens or 0, packed)
    return _cost(order, chosen, starts, packed)


def _check(order: str, tokens: int | None, sentences: int | None) -> None:
    if order not in ORDERS:
        raise ConfigError(
            f"there is no order {order!r}{nearest(order, ORDERS)}. Expected: {', '.join(ORDERS)}."
        )
    if (tokens is None) == (sentences is None) or (tokens or sentences or 0) < 1:
        raise ConfigError(
            f"batches have one size. Expected: tokens or sentences, at least 1. Received: tokens={tokens}, "
            f"sentences={sentences}."
        )


def _starts(counts: Counts, budget: int, packed: bool) -> Counts:
    """Where the batches begin, each as full as the budget allows."""
    starts, begin = [0], 0
    totals = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), np.cumsum(counts, axis=0)])
    widest = counts.max(axis=1)
    while True:
        if packed:
            ends = [np.searchsorted(total, total[begin] + budget, side="right") for total in totals.T]
            fits = min(ends) - 1 - begin
        else:  # the first alone would allow so many: no need to look further
            reach = budget // widest[begin] + 1 if widest[begin] else len(counts)
            window = widest[begin : begin + reach]
            sizes = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
            fits = np.searchsorted(sizes, budget, side="right")
        begin += max(1, int(fits))
        if begin >= len(counts):
            return np.array(starts)
        starts.append(begin)


def _cost(order: str, counts: Counts, starts: Counts, packed: bool) -> Waste:
    examples = np.diff(np.append(starts, len(counts)))
    real = np.add.reduceat(counts, starts, axis=0).sum(axis=1)
    own_pairs = _pairs(counts).sum()
    if packed:
        computed, pairs = real, own_pairs
    else:
        longest = np.maximum.reduceat(counts, starts, axis=0)
        computed, pairs = examples * longest.sum(axis=1), (examples * _pairs(longest)).sum()
    ratio = float(computed.sum() / max(1, real.sum()))
    return Waste(
        order=order,
        batches=len(starts),
        padding=1 - 1 / ratio if ratio else 0.0,
        activations=ratio,
        pairs=float(pairs / max(1, own_pairs)),
        largest=int(computed.max()),
    )


def _pairs(counts: Counts) -> Counts:
    """Pairs of query and key of examples (n, fields): self-attention of every field, and the last one's to the others."""
    found: Counts = (counts**2).sum(axis=1) + counts[:, -1] * counts[:, :-1].sum(axis=1)
    return found
