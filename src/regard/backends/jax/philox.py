"""Dropout's choice, as `regard._dropout` defines it, in 32-bit integers: JAX has no others unless it is told so."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def keep_run(seed: Array, sequence: Array, head: Array, position: Array, key: Array, p: float) -> Array:
    """Which pairs stay; the last axis of `key` counts up by one, from a multiple of 4. `seed` is its low and high word, uint32."""
    counter = tuple(_word(part) for part in (key[..., ::4] >> 2, position, head, sequence))
    words = philox4x32(counter, (seed[0], seed[1]))
    kept = jnp.stack([word >= jnp.uint32(int(p * 2**32)) for word in words], -1)
    return kept.reshape(*kept.shape[:-2], -1)[..., : key.shape[-1]]


def philox4x32(counter: tuple[Any, ...], key: tuple[Any, Any]) -> tuple[Array, ...]:
    """Four random words for each counter of four words, all uint32, which broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        low, high = _product(c0, _MULTIPLIERS[0])
        other_low, other_high = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = other_high ^ c1 ^ k0, other_low, high ^ c3 ^ k1, low
        k0, k1 = k0 + jnp.uint32(_KEY_STEPS[0]), k1 + jnp.uint32(_KEY_STEPS[1])
    return tuple(jnp.broadcast_arrays(c0, c1, c2, c3))


def seed_words(seed: Any) -> Array:
    """A seed, an integer or an array of one, as its low and high word (2,), uint32."""
    if not isinstance(seed, Array):
        seed = int(seed)
        return jnp.asarray([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], jnp.uint32)
    seed = jnp.asarray(seed).reshape(())
    if seed.dtype.itemsize == 8:
        return jnp.stack([(seed & 0xFFFFFFFF).astype(jnp.uint32), (seed >> 32).astype(jnp.uint32)])
    signed = jnp.issubdtype(seed.dtype, jnp.signedinteger)
    high = (seed >> (8 * seed.dtype.itemsize - 1)).astype(jnp.uint32) if signed else jnp.uint32(0)
    return jnp.stack([seed.astype(jnp.uint32), high])


def _word(number: Array) -> Array:
    """The low 32 bits, of negative numbers too."""
    return jnp.asarray(number).astype(jnp.uint32)


def _product(a: Array, multiplier: int) -> tuple[Array, Array]:
    """The low and the high word of a product, from halves of words."""
    low, high = jnp.uint32(multiplier & 0xFFFF), jnp.uint32(multiplier >> 16)
    a_low, a_high = a & 0xFFFF, a >> 16
    middle = a_high * low + ((a_low * low) >> 16)
    other = a_low * high + (middle & 0xFFFF)
    return a * jnp.uint32(multiplier), a_high * high + (middle >> 16) + (other >> 16)
