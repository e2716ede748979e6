"""Dropout as a function of (seed, sequence, head, query position, key position), the same on every backend.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) by integer operators
alone: it runs unchanged on int64 NumPy arrays and PyTorch tensors, with 32-bit words held in int64.

The contract: the counter is (key position // 4, query position, head, sequence), each modulo 2^32, the key is the low and
the high word of the 64-bit seed, and the output word number `key position % 4` decides: a pair is kept when
`word >= floor(p * 2^32)`. Kept weights are divided by `1 - p`.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from regard._arrays import is_tensorflow, is_torch

Words = tuple[Any, Any, Any, Any]

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox4x32(counter: Words, key: tuple[Any, Any]) -> Words:
    """Four random words for each counter of four words, which broadcast.

    The counter's words are int64 arrays of at least one dimension, the key's ints or int64 arrays, all in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product wraps in an int64, and the shift copies the sign: the mask leaves the 32 bits that are right.
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (_high(right) & _WORD) ^ c1 ^ k0,
            right & _WORD,
            (_high(left) & _WORD) ^ c3 ^ k1,
            left & _WORD,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def keep_blocks(seed: Any, sequence: Any, head: Any, position: Any, block: Any, p: float) -> Words:
    """Which pairs stay, for the four keys `4 * block`, `4 * block + 1`, ... of each block: four boolean arrays.

    Each counter is computed once. The coordinates are int64 arrays of at least one dimension that
    broadcast; positions may be negative. `seed` is an int, or an int64 array of one number.
    """
    counter = (block & _WORD, position & _WORD, head & _WORD, sequence & _WORD)
    threshold = int(p * 2**32)
    w0, w1, w2, w3 = philox4x32(counter, _seed_words(seed))
    return w0 >= threshold, w1 >= threshold, w2 >= threshold, w3 >= threshold


def keep_run(seed: Any, sequence: Any, head: Any, position: Any, key: Any, p: float) -> Any:
    """As `keep`, four times faster: the last axis of `key` counts up by one, from a multiple of 4."""
    words = keep_blocks(seed, sequence, head, position, key[..., ::4] >> 2, p)
    if is_torch(key):
        import torch

        return torch.stack(words, -1).flatten(-2)[..., : key.shape[-1]]
    kept = np.stack(words, -1)
    return kept.reshape(*kept.shape[:-2], -1)[..., : key.shape[-1]]


def keep(seed: Any, sequence: Any, head: Any, position: Any, key: Any, p: float) -> Any:
    """Which pairs stay, as a boolean array; the coordinates are as for `keep_blocks`, with single keys.

    >>> import numpy as np
    >>> zero = np.zeros(1, np.int64)
    >>> keep(7, sequence=zero, head=zero, position=zero, key=np.arange(6), p=0.5)
    array([ True,  True, False, False, False,  True])
    """
    words = keep_blocks(seed, sequence, head, position, key >> 2, p)
    chosen = (word & (key & 3 == number) for number, word in enumerate(words))
    return functools.reduce(operator.or_, chosen)


def _high(number: Any) -> Any:
    """What stands above the low word."""
    if is_tensorflow(number):
        import tensorflow as tf

        return tf.bitwise.right_shift(number, tf.constant(32, number.dtype))
    return number >> 32


def _seed_words(seed: Any) -> tuple[Any, Any]:
    if isinstance(seed, int | np.ndarray | np.generic):
        seed = int(seed)
    return seed & _WORD, _high(seed) & _WORD
