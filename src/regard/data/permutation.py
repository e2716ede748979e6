"""Pseudorandom permutations of `range(count)`, computed at any position without being stored.

A Feistel network permutes the smallest even power of two that holds `count`; values outside `range(count)` are sent
through it again until they fall inside (cycle walking, Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
The domain is less than four times `count`, so that a value walks fewer than four steps on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
ROUNDS = 6
GOLDEN = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1


def hashed(key: int, numbers: NDArray[Any]) -> Bits:
    """64 random-looking bits for each of `numbers`, a function of `key` and the number alone.

    The finalizer of SplitMix64 (Steele, Lea and Flood 2014) over a keyed counter.
    """
    mixed = np.asarray(numbers).astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key & WORD)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def derived(*parts: int) -> int:
    """One 64-bit key from several numbers, in order: the seed, the epoch, the purpose.

    >>> derived(1, 2) != derived(2, 1)
    True
    """
    key = 0
    for part in parts:
        key = int(hashed(key, np.array([part & WORD], dtype=np.uint64))[0])
        key = (key + GOLDEN) & WORD
    return key


def uniform(key: int, numbers: NDArray[Any]) -> NDArray[np.float64]:
    """A number in [0, 1) for each of `numbers`."""
    return np.asarray((hashed(key, numbers) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def permuted(positions: NDArray[Any] | Sequence[int], count: int, key: int) -> NDArray[np.int64]:
    """Where the permutation of `range(count)` with this `key` sends each of `positions`, all in [0, count)."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    keys = [derived(key, number) for number in range(ROUNDS)]
    result = _feistel(np.asarray(positions, dtype=np.uint64), half, keys)
    outside = np.flatnonzero(result >= count)
    while outside.size:
        result[outside] = _feistel(result[outside], half, keys)
        outside = outside[result[outside] >= count]
    return result.astype(np.int64)


def _feistel(numbers: Bits, half: int, keys: Sequence[int]) -> Bits:
    low = np.uint64((1 << half) - 1)
    left, right = numbers >> np.uint64(half), numbers & low
    for key in keys:
        left, right = right, left ^ (hashed(key, right) & low)
    return np.asarray((left << np.uint64(half)) | right, dtype=np.uint64)
