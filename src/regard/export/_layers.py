"""What the layers of `regard.nn` are made of, as ONNX operators; tokens are (batch, length, dim), padded on the right."""

from __future__ import annotations

from typing import Any

import numpy as np

from regard.export._graph import Graph


class LayerGraph(Graph):
    """A graph that knows norms, products, positions and lengths; heads stand side by side in (batch, length, heads * head size)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._ones: dict[int, str] = {}

    def linear(self, x: str, weight: Any, bias: Any = None) -> str:
        """The product with a weight (outputs, inputs), and a bias where there is one; both NumPy arrays."""
        found = self.add("MatMul", x, self.constant(weight.T, np.float32))
        return found if bias is None else self.add("Add", found, self.constant(bias, np.float32))

    def norm(self, x: str, size: int, eps: float) -> str:
        """The norm over the last dimension, of this size."""
        if size not in self._ones:
            self._ones[size] = self.constant(np.ones(size), np.float32)
        return self.add("RMSNormalization", x, self._ones[size], axis=-1, epsilon=eps)

    def norm_of_heads(self, x: str, heads: int, size: int, eps: float) -> str:
        """The norm of each of so many parts of a token."""
        parts = self.add("Reshape", x, self.constant([0, 0, heads, size]))
        return self.add("Reshape", self.norm(parts, size, eps), self.constant([0, 0, heads * size]))

    def gated(self, gate_up: str) -> str:
        """`silu(gate) * up` of both side by side."""
        gate, up = self.add_several("Split", 2, gate_up, axis=-1, num_outputs=2)
        return self.add("Mul", self.add("Mul", gate, self.add("Sigmoid", gate)), up)

    def positions(self, x: str) -> str:
        """0, 1, ... up to the length of x (batch, length, ...)."""
        length = self.add("Squeeze", self.add("Shape", x, start=1, end=2), self.constant([0]))
        return self.add("Range", self.constant(0), length, self.constant(1))

    def turns(self, x: str, head_dim: int, base: float, start: str | None = None) -> tuple[str, str]:
        """Cosines and sines (batch, length, head size / 2) of the positions of x, from `start` on, in float64 until then."""
        kinds, position = self.onnx.TensorProto, self.positions(x)
        if start is not None:
            position = self.add("Add", position, start)
        speed = self.constant(base ** (-np.arange(0, head_dim, 2) / head_dim), np.float64)
        wide = self.add("Cast", position, to=kinds.DOUBLE)
        angle = self.add("Mul", self.add("Unsqueeze", wide, self.constant([-1])), speed)
        sizes = self.add(
            "Concat", self.add("Shape", x, start=0, end=2), self.constant([head_dim // 2]), axis=0
        )
        cosine, sine = (
            self.add("Expand", self.add("Cast", self.add(name, angle), to=kinds.FLOAT), sizes)
            for name in ("Cos", "Sin")
        )
        return cosine, sine

    def turned(self, x: str, turns: tuple[str, str], heads: int) -> str:
        """Heads turned by their positions."""
        return self.add("RotaryEmbedding", x, *turns, interleaved=1, num_heads=heads)

    def within(self, lengths: str, keys: str, queries: str) -> str:
        """A mask (batch, 1, queries, keys): keys of padding are seen by nobody. ONNX Runtime wants every query named."""
        inside = self.add("Less", self.positions(keys), self.add("Unsqueeze", lengths, self.constant([1])))
        one, rows = self.constant([1]), self.add("Shape", queries, start=1, end=2)
        sizes = self.add("Concat", one, one, rows, one, axis=0)
        return self.add("Expand", self.add("Unsqueeze", inside, self.constant([1, 2])), sizes)
