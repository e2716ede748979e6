"""Which tokens are changed, and which outputs must stay as they are: integers and masks, no framework.

Letters: U tokens, padding among them; R rows of output, one for each token or one for each of N sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
CUTS = 8


@dataclass(frozen=True)
class Tokens:
    """Where every token of a batch stands, all (U,)."""

    sequence: NDArray[np.int64]
    place: NDArray[np.int64]
    real: Mask
    """False where there is padding."""
    count: int
    """Sequences, empty ones too."""
    axes: int
    """Of the batch: 1 where sequences are packed, 2 where they are padded."""

    @classmethod
    def of_lengths(cls, lengths: NDArray[np.int64]) -> Tokens:
        """Of packed sequences."""
        sequence = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(sequence)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(sequence, place, np.ones(len(sequence), bool), len(lengths), 1)

    @classmethod
    def of_mask(cls, real: Mask) -> Tokens:
        """Of padded sequences; `real` (N, T)."""
        sequence, place = np.indices(real.shape).reshape(2, -1)
        return cls(sequence, place, real.reshape(-1), len(real), 2)

    @property
    def rank(self) -> NDArray[np.int64]:
        """(U,): how many real tokens of its sequence stand before each token."""
        before: NDArray[np.int64] = np.cumsum(self.real) - self.real
        first = np.searchsorted(self.sequence, self.sequence)  # sequences stand one after the other
        return before - before[first]

    def pooled(self) -> Tokens:
        """One row for each sequence, at no place; real where the sequence has a token."""
        real = np.bincount(self.sequence[self.real], minlength=self.count) > 0
        return Tokens(np.arange(self.count), np.full(self.count, -1), real, self.count, 1)


@dataclass(frozen=True)
class Probe:
    """A set of tokens (U,) that is changed, and the rows of output (R,) that must not notice."""

    kind: str
    changed: Mask
    watched: Mask


def sequence_probes(tokens: Tokens, rows: Tokens) -> Iterator[Probe]:
    """Sequences split by each bit of their number: every pair stands on different sides at least once."""
    numbers = np.unique(tokens.sequence[tokens.real])
    order = np.zeros(tokens.count, np.int64)
    order[numbers] = np.arange(len(numbers))
    for bit in range(max(0, len(numbers) - 1).bit_length()):
        side = order >> bit & 1 == 1
        for chosen in (side, ~side):
            yield Probe("sequence", tokens.real & chosen[tokens.sequence], rows.real & ~chosen[rows.sequence])


def padding_probes(tokens: Tokens, rows: Tokens) -> Iterator[Probe]:
    """All padding at once."""
    if not tokens.real.all():
        yield Probe("padding", ~tokens.real, rows.real.copy())


def future_probes(tokens: Tokens, sequences: NDArray[np.int64] | None, thorough: bool) -> Iterator[Probe]:
    """Sequences cut in two, each at another place from probe to probe: what comes first must not notice what comes after.

    Arguments:
        tokens: rows of output are these.
        sequences: those that are cut; None: all.
        thorough: at every place; else at a few.
    """
    rank = tokens.rank
    kept = tokens.real if sequences is None else tokens.real & np.isin(tokens.sequence, sequences)
    lengths = np.bincount(tokens.sequence[kept], minlength=tokens.count)
    places = np.maximum(lengths - 1, 1)  # cuts that a sequence has
    most = int(lengths.max(initial=0)) - 1
    count = most if thorough else min(most, CUTS)
    for number in range(count):
        begin = number * places // count if not thorough else np.full(len(places), number)
        cut = 1 + (begin + np.arange(len(places))) % places
        behind = rank >= cut[tokens.sequence]
        yield Probe("future", kept & behind, kept & ~behind)
