"""Self-attention that concatenates the query with what it found, in NumPy, TensorFlow and PyTorch, with equal numbers.

A function of this shape has been copied into many TensorFlow tutorials and course works:

    def self_attention(Q, K, V, d_k):
        scores = tf.matmul(Q, K, transpose_b=True) / tf.sqrt(d_k)
        context = tf.matmul(tf.nn.softmax(scores), V)
        return tf.layers.dense(tf.concat([Q, context], axis=-1), d_model)

Its idea is sound: out = [Q ; softmax(Q Kᵀ / √d_k) V] W + b keeps the query beside its context, where the Transformer of
Vaswani et al. (2017) multiplies the context alone by W_o and leaves the rest to the residual connection. As published
it does not run, and where it is made to run it is not yet self-attention:

1. `tf.sqrt(d_k)` takes the square root of an integer, which TensorFlow has no operation for: write `math.sqrt(d_k)`.
2. `d_model` is defined nowhere: the projection must come back to the width of the input.
3. `tf.layers` left TensorFlow with version 2: the layer is `tf.keras.layers.Dense`. It also made a new variable at every
   call, so the weights could be neither reused nor frozen.
4. Q, K and V are handed in, and callers hand in the same x three times. Without W_q, W_k and W_v the scores x xᵀ are
   symmetric, and nothing that is learned decides who looks at whom.

Run it: `python examples/concat.py` (TensorFlow is needed; `pip install regard[tensorflow]`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import torch

import regard
from regard.nn import SelfAttention

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Parameters:
    """The weights that all three frameworks share; matrices are (in, out)."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    output: np.ndarray
    bias: np.ndarray

    @classmethod
    def draw(cls, dim: int, seed: int = 0) -> Parameters:
        """Random weights for tokens of `dim` features."""
        random = np.random.default_rng(seed)
        square = [random.normal(size=(dim, dim)) / math.sqrt(dim) for _ in range(3)]
        return cls(*square, random.normal(size=(2 * dim, dim)) / math.sqrt(2 * dim), random.normal(size=dim))


def with_numpy(x: np.ndarray, parameters: Parameters) -> np.ndarray:
    """The formula on NumPy arrays (batch, length, dim); one head stands as an axis of length 1."""
    query, key, value = (x @ weights for weights in (parameters.query, parameters.key, parameters.value))
    context = regard.attention(query[..., None, :], key[..., None, :], value[..., None, :])[..., 0, :]
    return np.concatenate([query, context], axis=-1) @ parameters.output + parameters.bias


def with_torch(x: np.ndarray, parameters: Parameters, *, trainable: bool = True) -> torch.Tensor:
    """The layer of `regard.nn`; a frozen projection is one that needs no gradient."""
    layer = SelfAttention(x.shape[-1], heads=1, combine="concat").double()
    with torch.no_grad():
        stacked = np.concatenate([parameters.query, parameters.key, parameters.value], axis=1)
        layer.query_key_value.weight.copy_(torch.from_numpy(stacked.T.copy()))
        layer.output.weight.copy_(torch.from_numpy(parameters.output.T.copy()))
        layer.output.bias.copy_(torch.from_numpy(parameters.bias))
    layer.output.requires_grad_(trainable)
    return layer(torch.from_numpy(x))


def with_tensorflow(x: np.ndarray, parameters: Parameters, *, trainable: bool = True) -> np.ndarray:
    """The published function, mended."""
    import tensorflow as tf

    dim = x.shape[-1]
    dense = tf.keras.layers.Dense(dim, trainable=trainable, dtype="float64")
    dense.build((None, None, 2 * dim))
    dense.set_weights([parameters.output, parameters.bias])

    tokens = tf.constant(x)
    query, key, value = (tokens @ weights for weights in (parameters.query, parameters.key, parameters.value))
    scores = tf.matmul(query, key, transpose_b=True) / math.sqrt(dim)
    context = tf.matmul(tf.nn.softmax(scores), value)
    return dense(tf.concat([query, context], axis=-1)).numpy()


def why_the_published_version_fails() -> list[str]:
    """What TensorFlow itself answers to the first and third fault."""
    import tensorflow as tf

    answers = []
    for fault in (lambda: tf.sqrt(64), lambda: tf.layers.dense):
        try:
            fault()
        except Exception as error:  # noqa: BLE001  # the class differs between versions of TensorFlow
            answers.append(f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    return answers


def main() -> None:
    """Print how far the three frameworks are apart, and the errors of the published version."""
    x = np.random.default_rng(1).normal(size=(2, 5, 8))
    parameters = Parameters.draw(dim=8)
    numpy_out = with_numpy(x, parameters)
    print("first numbers       ", np.round(numpy_out[0, 0, :4], 6))
    print("PyTorch differs by  ", np.abs(numpy_out - with_torch(x, parameters).detach().numpy()).max())
    print("TensorFlow differs by", np.abs(numpy_out - with_tensorflow(x, parameters)).max())
    print("The published version:")
    for answer in why_the_published_version_fails():
        print("  ", answer)


if __name__ == "__main__":
    main()
