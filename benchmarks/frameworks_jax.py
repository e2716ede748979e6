"""JAX: microseconds of a tiny call, and a training step of a small encoder, with regard's attention and with JAX's own.

python benchmarks/frameworks_jax.py [--rounds 9]

The encoder is the same pure function in both: one works on packed tokens, rounded up to a multiple of 256 so that few programs are compiled,
the other on padded sentences with `jax.nn.dot_product_attention` and the keys' lengths. Both compile one step and are timed in turns.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import regard

LAYERS, WIDTH, HEADS, VOCABULARY = 3, 128, 4, 4000
MULTIPLE = 256


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for name, seconds in in_turns(tiny_calls(), rounds, 50).items():
        print(f"{name:28} {1e6 * seconds:8.1f} us")
    for longest in (24, 128, 512):
        lengths = np.random.default_rng(0).integers(longest // 4, longest + 1, max(4, 2048 // longest))
        found = in_turns(steps(lengths), rounds, 1)
        tokens = int(lengths.sum())
        told = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found.items())
        print(
            f"step, {tokens} tokens of sentences up to {longest}: {told}, {found['padded'] / found['packed']:.2f} times as fast"
        )


def tiny_calls() -> dict[str, Callable[[], Any]]:
    """Calls of two sequences of five tokens, four heads of eight numbers."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 8)), jnp.float32)
    contenders = {
        "regard": lambda x: regard.attention(x, x, x, mask=regard.Causal()),
        "jax.nn": lambda x: jax.nn.dot_product_attention(x, x, x, is_causal=True),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, function in contenders.items():
        calls[f"{name}, at once"] = functools.partial(function, x)
        calls[f"{name}, compiled"] = functools.partial(jax.jit(function), x)
        summed = jax.jit(jax.grad(lambda x, function=function: function(x).sum()))
        calls[f"{name}, compiled gradient"] = functools.partial(summed, x)
    return calls


def steps(lengths: np.ndarray) -> dict[str, Callable[[], Any]]:
    """One training step each, compiled."""
    rng, total = np.random.default_rng(1), int(lengths.sum())
    parameters = initial(rng)
    ids = rng.integers(0, VOCABULARY, total)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    room = -(-total // MULTIPLE) * MULTIPLE
    flat = np.concatenate([ids, np.zeros(room - total, ids.dtype)])
    padded = regard.Packed(ids, offsets).to_padded()

    # Offsets are arguments: the same program serves all lengths.
    packed = jax.jit(
        lambda parameters, ids, offsets: step(
            parameters, ids, jnp.arange(room) < offsets[-1],
            lambda query, key, value: regard.attention(query, key, value, cu_seqlens_q=offsets),
        )
    )  # fmt: skip
    usual = jax.jit(
        lambda parameters, ids, lengths: step(
            parameters, ids, jnp.arange(padded.shape[1]) < lengths[:, None],
            lambda query, key, value: jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths),
        )
    )  # fmt: skip
    return {
        "packed": functools.partial(packed, parameters, jnp.asarray(flat), jnp.asarray(offsets)),
        "padded": functools.partial(usual, parameters, jnp.asarray(padded), jnp.asarray(lengths, jnp.int32)),
    }


def initial(rng: np.random.Generator) -> dict[str, Any]:
    """Matrices of an encoder."""

    def matrix(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape) * shape[0] ** -0.5, jnp.float32)

    layers = [
        {
            "heads": matrix(WIDTH, 3 * WIDTH),
            "out": matrix(WIDTH, WIDTH),
            "up": matrix(WIDTH, 4 * WIDTH),
            "down": matrix(4 * WIDTH, WIDTH),
        }
        for _ in range(LAYERS)
    ]
    return {"embedding": matrix(VOCABULARY, WIDTH), "layers": layers}


def step(parameters: Any, ids: Any, real: Any, attention: Callable[..., Any]) -> Any:
    """Parameters after one step of plain descent on the loss of copying."""

    def loss(parameters: Any) -> Any:
        x = parameters["embedding"][ids]
        for layer in parameters["layers"]:
            heads = (normal(x) @ layer["heads"]).reshape(*x.shape[:-1], 3 * HEADS, WIDTH // HEADS)
            query, key, value = jnp.split(heads, 3, axis=-2)
            x = x + attention(query, key, value).reshape(x.shape) @ layer["out"]
            x = x + jax.nn.gelu(normal(x) @ layer["up"]) @ layer["down"]
        logits = normal(x) @ parameters["embedding"].T
        losses = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, ids[..., None], -1)[..., 0]
        return jnp.where(real, losses, 0).sum() / real.sum()

    grads = jax.grad(loss)(parameters)
    return jax.tree.map(lambda parameter, grad: parameter - 1e-3 * grad, parameters, grads)


def normal(x: Any) -> Any:
    """Rows of mean square 1."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int, count: int) -> dict[str, float]:
    """The median seconds of each call, timed one after the other in every round."""
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(10 if count > 1 else 2):
            jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            some = count if "at once" not in name else 3
            begin = time.perf_counter()
            for _ in range(some):
                jax.block_until_ready(call())
            seen[name].append((time.perf_counter() - begin) / some)
    return {name: float(np.median(times)) for name, times in seen.items()}


if __name__ == "__main__":
    main()
