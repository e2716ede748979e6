"""Weights that go between these layers, those of `regard.nn`, and those of Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from regard._errors import ShapeError
from regard.keras.attention import CrossAttention, SelfAttention


def state_dict(layer: Any) -> dict[str, np.ndarray]:
    """A built layer's weights as NumPy arrays under the names and in the shapes of its twin in `regard.nn`.

    `twin.load_state_dict({name: torch.as_tensor(array) for name, array in state_dict(layer).items()})` gives a layer of PyTorch with
    the same numbers.

    Raises ShapeError when the layer has no twin, or its first input is still to come.

    >>> layer = regard.keras.SelfAttention(4)
    >>> layer.build((None, None, 32))
    >>> {name: array.shape for name, array in regard.keras.state_dict(layer).items()}
    {'query_key_value.weight': (96, 32), 'output.weight': (32, 32)}
    """
    return {name: _transposed(_numbers(variable)) for name, variable in _variables(layer)}


def load_state_dict(layer: Any, state: Mapping[str, Any]) -> None:
    """Give a built layer the weights of its twin in `regard.nn`, `twin.state_dict()`, whose numbers it then gives.

    Arguments:
        layer: a layer of `regard.keras`.
        state: weights by name, PyTorch's or NumPy's.

    Raises ShapeError when names or shapes differ; the layer is then as it was.

    >>> first, second = regard.keras.FeedForward(16), regard.keras.FeedForward(16)
    >>> first.build((None, 8)), second.build((None, 8))
    (None, None)
    >>> regard.keras.load_state_dict(second, regard.keras.state_dict(first))
    >>> found = [keras.ops.convert_to_numpy(layer(np.ones((3, 8), "float32"))) for layer in (first, second)]
    >>> np.array_equal(*found)
    True
    """
    variables = dict(_variables(layer))
    if set(variables) != set(state):
        raise ShapeError(
            "the weights must be those of the layer's twin in regard.nn, with the same options. "
            f"Missing: {sorted(set(variables) - set(state))}. Unknown: {sorted(set(state) - set(variables))}."
        )
    found = {name: _transposed(_numbers(state[name])) for name in variables}
    for name, variable in variables.items():
        if tuple(variable.shape) != found[name].shape:
            raise ShapeError(
                f"{name} must have the shape {tuple(variable.shape)[::-1]}. Received {found[name].shape[::-1]}; "
                "make the layer with the sizes of its twin."
            )
    for name, variable in variables.items():
        variable.assign(found[name])


def load_multihead(layer: SelfAttention | CrossAttention, source: Any) -> None:
    """Give a built `SelfAttention` or `CrossAttention` the weights of a Keras layer, whose numbers it then gives.

    Arguments:
        layer: without rotation, normalized queries or concatenation, which Keras does not know.
        source: a built `keras.layers.MultiHeadAttention`, `keras.layers.GroupQueryAttention` or `regard.keras.MultiHeadAttention`.

    Raises ShapeError when the formula, sizes or biases differ.

    >>> source, layer = keras.layers.MultiHeadAttention(4, 8), regard.keras.SelfAttention(4, use_bias=True)
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 32)).astype("float32")
    >>> layer.build(x.shape), source.build(x.shape, x.shape)
    (None, None)
    >>> regard.keras.load_multihead(layer, source)
    >>> np.allclose(keras.ops.convert_to_numpy(layer(x)), keras.ops.convert_to_numpy(source(x, x)), atol=1e-5)
    True
    """
    if layer.qk_norm or getattr(layer, "rotary", False) or getattr(layer, "combine", "project") != "project":
        raise ShapeError(
            "Keras' attention has no rotation, no normalized queries and no concatenation. Expected a layer with "
            'rotary=False, qk_norm=False and combine="project".'
        )
    kernels, biases = _kernels_and_biases(layer, source)
    received = kernels[0].shape[1], kernels[1].shape[1]
    if received != (layer.num_heads, layer.num_key_value_heads):
        raise ShapeError(
            f"expected {layer.num_heads} query heads and {layer.num_key_value_heads} key heads. "
            f"Received {received[0]} and {received[1]}."
        )
    state = {"output.weight": kernels[3].reshape(-1, kernels[3].shape[-1]).T}
    if layer.use_bias:
        state["output.bias"] = biases[3]
    for name in set(layer.parts()) - {"output"}:
        parts = _GROUPS[name]
        state[f"{name}.weight"] = np.concatenate([_rows(kernels[part]) for part in parts], axis=1).T
        if layer.use_bias:
            state[f"{name}.bias"] = np.concatenate([biases[part].reshape(-1) for part in parts])
    load_state_dict(layer, state)


# Which of query, key and value a projection of ours computes.
_GROUPS = {"query_key_value": (0, 1, 2), "query": (0,), "key_value": (1, 2)}


def _kernels_and_biases(layer: Any, source: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Those of query, key, value and output of a layer of Keras."""
    given = [_numbers(variable) for variable in source.weights]
    expected = 8 if layer.use_bias else 4
    if len(given) != expected:
        raise ShapeError(
            f"expected {expected} weights of query, key, value and output, as use_bias={layer.use_bias}. "
            f"Received {len(given)}."
        )
    return (given[::2], given[1::2]) if layer.use_bias else (given, [])


def _rows(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(len(kernel), -1)


def _variables(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keras' variables by PyTorch's names."""
    if not layer.built or not (hasattr(layer, "parts") or isinstance(layer, keras.layers.Dense)):
        raise ShapeError(
            f"expected a layer with a twin in regard.nn that has been built. Received {type(layer).__name__}, "
            f"built={layer.built}; call it once or build it with the shape of its input."
        )
    if isinstance(layer, keras.layers.Dense):
        yield f"{prefix}weight", layer.kernel
        if layer.use_bias:
            yield f"{prefix}bias", layer.bias
        return
    for name, part in layer.parts().items():
        yield from _variables(part, f"{prefix}{name}.")


def _numbers(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    return np.asarray(array) if not isinstance(array, keras.Variable) else ops.convert_to_numpy(array)


def _transposed(array: np.ndarray) -> np.ndarray:
    """PyTorch's weights (out, in) and Keras' (in, out)."""
    return np.ascontiguousarray(array.T)
