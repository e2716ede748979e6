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
from regard.export._graph import Graph
from regard.nn import CrossAttention, SelfAttention


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
    window = _window(mask)
    if isinstance(layer, SelfAttention):
        graph = _SelfAttention(layer, window).graph
    elif isinstance(layer, CrossAttention):
        graph = _CrossAttention(layer, window).graph
    else:
        raise ConfigError(
            f"expected a regard.nn.SelfAttention or CrossAttention, got {type(layer).__name__}; pass one of its layers"
        )
    graph.save(Path(path), {})
    return Path(path)


def _window(mask: Mask | None) -> tuple[float, float]:
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


class _Attention:
    """What both graphs are made of; heads stand side by side in (batch, length, heads * head size)."""

    def __init__(self, layer: Any, name: str, window: tuple[float, float]) -> None:
        self.layer, self.window = layer, window
        self.graph = Graph(name)

    def linear(self, x: str, layer: Any) -> str:
        """The product with a weight, and its bias where it has one."""
        weight = layer.weight.detach().cpu().float().numpy()
        found = self.graph.add("MatMul", x, self.graph.constant(weight.T, np.float32))
        if layer.bias is None:
            return found
        return self.graph.add(
            "Add", found, self.graph.constant(layer.bias.detach().cpu().float().numpy(), np.float32)
        )

    def normed(self, x: str, heads: int, size: int) -> str:
        """The norm of each of so many parts of a token, or nothing where the layer has none."""
        if self.layer.query_norm is None:
            return x
        add, graph = self.graph.add, self.graph
        parts = add("Reshape", x, graph.constant([0, 0, heads, size]))
        gain = graph.constant(np.ones(size), np.float32)
        normed = add("RMSNormalization", parts, gain, axis=-1, epsilon=self.layer.query_norm.eps)
        return add("Reshape", normed, graph.constant([0, 0, heads * size]))

    def mask(self, queries: str, keys: str, lengths: str) -> str:
        """(batch, 1, queries, keys): True where a query may see a key, positions counted so that the last ones meet."""
        add, graph = self.graph.add, self.graph
        rows, columns = self.positions(queries), self.positions(keys)
        inside = add("Less", columns, add("Unsqueeze", lengths, graph.constant([1])))
        allowed = add("Unsqueeze", inside, graph.constant([1, 2]))
        one, length = graph.constant([1]), add("Shape", queries, start=1, end=2)
        # ONNX Runtime wants every query named.
        allowed = add("Expand", allowed, add("Concat", one, one, length, one, axis=0))
        distance = add("Sub", add("Unsqueeze", rows, graph.constant([1])), columns)
        left, right = self.window
        if left != math.inf:
            allowed = add("And", allowed, add("LessOrEqual", distance, graph.constant(int(left))))
        if right != math.inf:
            allowed = add("And", allowed, add("GreaterOrEqual", distance, graph.constant(-int(right))))
        return allowed

    def positions(self, x: str) -> str:
        """0, 1, ... up to the length of x."""
        add, graph = self.graph.add, self.graph
        length = add("Squeeze", add("Shape", x, start=1, end=2), graph.constant([0]))
        return add("Range", graph.constant(0), length, graph.constant(1))

    def finish(self, query: str, key: str, value: str, mask: str) -> None:
        """The operator, the way out, and the output `y`."""
        layer = self.layer
        heads = {"q_num_heads": layer.heads, "kv_num_heads": layer.kv_heads}
        found = self.graph.add("Attention", query, key, value, mask, **heads)
        if layer.combine == "concat":
            size = layer.head_dim
            wide = [
                self.graph.add("Reshape", one, self.graph.constant([0, 0, layer.heads, size]))
                for one in (query, found)
            ]
            joined = self.graph.add("Concat", *wide, axis=-1)
            found = self.graph.add("Reshape", joined, self.graph.constant([0, 0, 2 * layer.heads * size]))
        self.graph.output(self.linear(found, layer.output), "y", np.float32, ["batch", "length", layer.dim])


class _SelfAttention(_Attention):
    def __init__(self, layer: SelfAttention, window: tuple[float, float]) -> None:
        super().__init__(layer, "self_attention", window)
        graph, size = self.graph, layer.head_dim
        x = graph.input("x", np.float32, ["batch", "length", layer.dim])
        lengths = graph.input("lengths", np.int64, ["batch"])
        widths = graph.constant([heads * size for heads in (layer.heads, layer.kv_heads, layer.kv_heads)])
        query, key, value = graph.add_several(
            "Split", 3, self.linear(x, layer.query_key_value), widths, axis=-1
        )
        query, key = self.normed(query, layer.heads, size), self.normed(key, layer.kv_heads, size)
        if layer.rotary is not None:
            turns = self.turns(x)
            query, key = (
                graph.add("RotaryEmbedding", one, *turns, interleaved=1, num_heads=heads)
                for one, heads in ((query, layer.heads), (key, layer.kv_heads))
            )
        self.finish(query, key, value, self.mask(x, x, lengths))

    def turns(self, x: str) -> tuple[str, str]:
        """Cosines and sines (batch, length, head size / 2) of the positions, in float64 until then."""
        add, graph, rotary = self.graph.add, self.graph, self.layer.rotary
        kinds = graph.onnx.TensorProto
        speed = graph.constant(
            rotary.base ** (-np.arange(0, rotary.head_dim, 2) / rotary.head_dim), np.float64
        )
        position = add("Cast", self.positions(x), to=kinds.DOUBLE)
        angle = add("Mul", add("Unsqueeze", position, graph.constant([-1])), speed)
        sizes = add("Concat", add("Shape", x, start=0, end=2), graph.constant([rotary.head_dim // 2]), axis=0)
        cosine, sine = (
            add("Expand", add("Cast", add(name, angle), to=kinds.FLOAT), sizes) for name in ("Cos", "Sin")
        )
        return cosine, sine


class _CrossAttention(_Attention):
    def __init__(self, layer: CrossAttention, window: tuple[float, float]) -> None:
        super().__init__(layer, "cross_attention", window)
        graph, size = self.graph, layer.head_dim
        if window != (math.inf, math.inf):
            raise ConfigError(
                "attention to a context takes no mask in a graph, got a Causal or Window; pass mask=None"
            )
        x = graph.input("x", np.float32, ["batch", "length", layer.dim])
        context_dim = layer.key_value.weight.shape[1]
        context = graph.input("context", np.float32, ["batch", "context_length", context_dim])
        lengths = graph.input("context_lengths", np.int64, ["batch"])
        # Queries are normalized over all heads together, as if these were one.
        query = self.normed(self.linear(x, layer.query), 1, layer.heads * size)
        widths = graph.constant([layer.kv_heads * size] * 2)
        key, value = graph.add_several("Split", 2, self.linear(context, layer.key_value), widths, axis=-1)
        self.finish(query, self.normed(key, layer.kv_heads, size), value, self.mask(x, context, lengths))
