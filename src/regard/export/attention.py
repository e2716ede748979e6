"""An attention layer of `regard.nn` as an ONNX graph around the `Attention` operator.

Shapes: (batch, length, dim), padded on the right; ONNX has no packed sequences.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from regard._errors import ConfigError
from regard._masks import Causal, Mask, Window, conjuncts
from regard.export._layers import LayerGraph
from regard.nn import CrossAttention, SelfAttention

EVERYTHING = math.inf, math.inf


def attention_to_onnx(
    layer: SelfAttention | CrossAttention, path: Path | str, *, mask: Mask | None = None
) -> Path:
    """Write one attention layer, with its weights, as an ONNX model that ONNX Runtime or any other program with opset 23 computes.

    The graph's inputs are `x` (batch, length, dim) and `lengths` (batch,), how many tokens of each row are no padding, and for a
    `CrossAttention` `context` (batch, context length, context dim) and `context_lengths` (batch,) beside `x` alone. Its output is `y`
    (batch, length, dim); what it holds for padding means nothing. Dropout is left out.

    Arguments:
        layer: a `SelfAttention` or `CrossAttention`, on any device, in any precision; the graph computes in float32.
        path: the file to write.
        mask: `Causal`, `Window`, or both joined by `&`, which the graph then always has.

    Returns:
        The path.

    Raises:
        ConfigError: onnx is not installed, it is another kind of layer, or a mask has no such graph.

    Source: https://onnx.ai/onnx/operators/onnx__Attention.html

    >>> import tempfile
    >>> from regard.export import attention_to_onnx
    >>> layer = regard.nn.SelfAttention(32, heads=4, rotary=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     attention_to_onnx(layer, f"{folder}/layer.onnx", mask=regard.Causal()).name
    'layer.onnx'
    """
    window = window_of(mask)
    if isinstance(layer, SelfAttention):
        graph = LayerGraph("self_attention")
        x = graph.input("x", np.float32, ["batch", "length", layer.dim])
        y = attended(graph, layer, x, graph.input("lengths", np.int64, ["batch"]), window)
    elif isinstance(layer, CrossAttention):
        if window != EVERYTHING:
            raise ConfigError(
                "attention to a context takes no mask in a graph, got a Causal or Window; pass mask=None"
            )
        graph = LayerGraph("cross_attention")
        x = graph.input("x", np.float32, ["batch", "length", layer.dim])
        y = attended_to(graph, layer, x, *context_of(graph, layer))
    else:
        raise ConfigError(
            f"expected a regard.nn.SelfAttention or CrossAttention, got {type(layer).__name__}; pass one of its layers"
        )
    graph.output(y, "y", np.float32, ["batch", "length", layer.dim])
    graph.save(Path(path), {})
    return Path(path)


def window_of(mask: Mask | None) -> tuple[float, float]:
    """How far back and ahead a mask lets a query see."""
    left = right = math.inf
    for part in conjuncts(mask) if mask is not None else ():
        if isinstance(part, Causal):
            right = min(right, 0)
        elif isinstance(part, Window) and part.dilation == 1 and part.right is not None:
            left, right = min(left, part.left), min(right, part.right)
        else:
            raise ConfigError(
                f"a graph takes the masks Causal and Window, joined by &, got {part!r}; lengths are its inputs"
            )
    return left, right


def attended(
    graph: LayerGraph, layer: SelfAttention, x: str, lengths: str, window: tuple[float, float]
) -> str:
    """Self-attention of tokens (batch, length, dim), of which `lengths` are no padding, in a `window` of queries."""
    size, kv_heads = layer.head_dim, layer.kv_heads
    widths = graph.constant([heads * size for heads in (layer.heads, kv_heads, kv_heads)])
    both = project(graph, x, layer.query_key_value)
    query, key, value = graph.add_several("Split", 3, both, widths, axis=-1)
    query, key = _normed(graph, layer, query, layer.heads, size), _normed(graph, layer, key, kv_heads, size)
    if layer.rotary is not None:
        turns = graph.turns(x, layer.rotary.head_dim, layer.rotary.base)
        query, key = graph.turned(query, turns, layer.heads), graph.turned(key, turns, kv_heads)
    return _met(graph, layer, query, key, value, _mask(graph, x, lengths, window))


def context_of(graph: LayerGraph, layer: CrossAttention) -> tuple[str, str]:
    """The inputs `context` and `context_lengths`."""
    sizes: list[int | str] = ["batch", "context_length", layer.key_value.weight.shape[1]]
    return graph.input("context", np.float32, sizes), graph.input("context_lengths", np.int64, ["batch"])


def attended_to(graph: LayerGraph, layer: CrossAttention, x: str, context: str, lengths: str) -> str:
    """Attention of tokens (batch, length, dim) to a context, of which `lengths` are no padding."""
    size = layer.head_dim
    # Queries are normalized over all heads together, as if these were one.
    query = _normed(graph, layer, project(graph, x, layer.query), 1, layer.heads * size)
    widths = graph.constant([layer.kv_heads * size] * 2)
    key, value = graph.add_several("Split", 2, project(graph, context, layer.key_value), widths, axis=-1)
    key = _normed(graph, layer, key, layer.kv_heads, size)
    return _met(graph, layer, query, key, value, graph.within(lengths, context, x))


def project(graph: LayerGraph, x: str, layer: Any) -> str:
    """A linear layer."""
    weight, bias = (
        None if array is None else array.detach().cpu().float().numpy()
        for array in (layer.weight, layer.bias)
    )
    return graph.linear(x, weight, bias)


def _normed(graph: LayerGraph, layer: Any, x: str, heads: int, size: int) -> str:
    """The norm of each of so many parts of a token, or nothing where the layer has none."""
    return x if layer.query_norm is None else graph.norm_of_heads(x, heads, size, layer.query_norm.eps)


def _mask(graph: LayerGraph, x: str, lengths: str, window: tuple[float, float]) -> str:
    """(batch, 1, length, length): True where a query may see a key."""
    add, allowed, (left, right) = graph.add, graph.within(lengths, x, x), window
    position = graph.positions(x)
    distance = add("Sub", add("Unsqueeze", position, graph.constant([1])), position)
    if left != math.inf:
        allowed = add("And", allowed, add("LessOrEqual", distance, graph.constant(int(left))))
    if right != math.inf:
        allowed = add("And", allowed, add("GreaterOrEqual", distance, graph.constant(-int(right))))
    return allowed


def _met(graph: LayerGraph, layer: Any, query: str, key: str, value: str, mask: str) -> str:
    """The operator, and the way out."""
    heads = {"q_num_heads": layer.heads, "kv_num_heads": layer.kv_heads}
    found = graph.add("Attention", query, key, value, mask, **heads)
    if layer.combine == "concat":
        sizes = graph.constant([0, 0, layer.heads, layer.head_dim])
        joined = graph.add("Concat", *(graph.add("Reshape", one, sizes) for one in (query, found)), axis=-1)
        found = graph.add("Reshape", joined, graph.constant([0, 0, 2 * layer.heads * layer.head_dim]))
    return project(graph, found, layer.output)
