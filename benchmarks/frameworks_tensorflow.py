"""TensorFlow: microseconds of a tiny call, and a training step of a small encoder, with regard's attention and with Keras' own.

python benchmarks/frameworks_tensorflow.py [--rounds 9]

The encoder is the same function in both: one works on packed tokens, the other on padded sentences with `keras.ops.dot_product_attention` and a
mask of the padding. Both are one `tf.function` for all lengths and are timed in turns. `XLA` compiles the step with tiles in TensorFlow's own operations.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import regard

LAYERS, WIDTH, HEADS, VOCABULARY = 3, 128, 4, 4000


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["REGARD_NUM_THREADS"] = str(options.threads)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name, seconds in in_turns(tiny_calls(), options.rounds, 50).items():
        print(f"{name:32} {1e6 * seconds:8.1f} us")
    for longest in (24, 128, 512):
        lengths = np.random.default_rng(0).integers(longest // 4, longest + 1, max(4, 2048 // longest))
        found = in_turns(steps(lengths), options.rounds, 1)
        told = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found.items())
        ratio = found["padded"] / found["packed"]
        print(f"step, {lengths.sum()} tokens of sentences up to {longest}: {told}, {ratio:.2f} times as fast")


def tiny_calls() -> dict[str, Callable[[], Any]]:
    """Calls of two sequences of five tokens, four heads of eight numbers."""
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 4, 8)), tf.float32)
    contenders = {
        "regard": lambda x: regard.attention(x, x, x, mask=regard.Causal()),
        "keras.ops": lambda x: keras.ops.dot_product_attention(x, x, x, is_causal=True),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, function in contenders.items():
        calls[f"{name}, at once"] = functools.partial(function, x)
        calls[f"{name}, at once, gradient"] = functools.partial(gradient, function, x)
        calls[f"{name}, tf.function"] = functools.partial(tf.function(function), x)
        calls[f"{name}, XLA"] = functools.partial(tf.function(function, jit_compile=True), x)
    tiled = tf.function(lambda x: regard.attention(x, x, x, mask=regard.Causal(), backend="tiled"))
    calls["regard, tf.function, tiles"] = functools.partial(tiled, x)
    return calls


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """The gradient of a function's output."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = function(x)
    return tape.gradient(out, x)


def steps(lengths: np.ndarray) -> dict[str, Callable[[], Any]]:
    """One training step each."""
    rng = np.random.default_rng(1)
    parameters = initial(rng)
    batch = regard.Packed(
        rng.integers(0, VOCABULARY, int(lengths.sum())), np.concatenate([[0], np.cumsum(lengths)])
    )
    ids, offsets = tf.constant(batch.values), tf.constant(batch.offsets)
    padded, counts = tf.constant(batch.to_padded()), tf.constant(lengths)

    def packed(ids: Any, offsets: Any) -> Any:
        real = tf.ones(tf.shape(ids), tf.bool)
        return step(parameters, ids, real, lambda *arrays: regard.attention(*arrays, cu_seqlens_q=offsets))

    def usual(ids: Any, lengths: Any) -> Any:
        real = tf.sequence_mask(lengths, tf.shape(ids)[1])
        mask = real[:, None, None, :]
        return step(
            parameters, ids, real, lambda *arrays: keras.ops.dot_product_attention(*arrays, mask=mask)
        )

    integers = tf.TensorSpec([None], tf.int64)
    return {
        "packed": functools.partial(
            tf.function(packed, input_signature=[integers, tf.TensorSpec([None], tf.int32)]), ids, offsets
        ),
        "padded": functools.partial(
            tf.function(usual, input_signature=[tf.TensorSpec([None, None], tf.int64), integers]),
            padded,
            counts,
        ),
    }


def initial(rng: np.random.Generator) -> dict[str, Any]:
    """Matrices of an encoder."""

    def matrix(*shape: int) -> Any:
        return tf.Variable(rng.normal(size=shape) * shape[0] ** -0.5, dtype=tf.float32)

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
    """The loss of copying, after which all parameters have moved along its gradient."""
    variables = tf.nest.flatten(parameters)
    with tf.GradientTape() as tape:
        x = tf.gather(parameters["embedding"], ids)
        for layer in parameters["layers"]:
            heads = tf.tensordot(normal(x), layer["heads"], 1)
            heads = tf.reshape(heads, [*tf.unstack(tf.shape(x))[:-1], 3 * HEADS, WIDTH // HEADS])
            query, key, value = tf.split(heads, 3, axis=-2)
            attended = tf.reshape(attention(query, key, value), tf.shape(x))
            x += tf.tensordot(attended, layer["out"], 1)
            x += tf.tensordot(tf.nn.gelu(tf.tensordot(normal(x), layer["up"], 1)), layer["down"], 1)
        logits = tf.tensordot(normal(x), tf.transpose(parameters["embedding"]), 1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
        loss = tf.reduce_mean(tf.boolean_mask(losses, real))
    for variable, grad in zip(variables, tape.gradient(loss, variables), strict=True):
        variable.assign_sub(1e-3 * tf.convert_to_tensor(grad))
    return loss


def normal(x: Any) -> Any:
    """Rows of mean square 1."""
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6)


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int, number: int) -> dict[str, float]:
    """The median seconds of each call, timed one after the other in every round."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(number):
                call()
            seconds[name].append((time.perf_counter() - begin) / number)
    return {name: float(np.median(found)) for name, found in seconds.items()}


if __name__ == "__main__":
    main()
