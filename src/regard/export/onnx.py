"""A translation model as two ONNX graphs, `encoder.onnx` and `decoder.onnx`, and our tokenizer.json beside them.

    encoder   source (sentences, source length), lengths (sentences,)
              -> context_key_0, context_value_0, ... (sentences, source length, dim) of every decoder block
    decoder   tokens (hypotheses, new), sources (hypotheses,), lengths, context_..., past_key_0, past_value_0, ...
              -> log_probabilities (hypotheses, new, vocabulary), present_key_0, present_value_0, ...

`past` and `present` are (hypotheses, heads, written so far, head size), of length 0 before the first token, which is the
begin; `sources` says which sentence each hypothesis translates. All sizes but the model's own are free. Sources are padded
by anything on the right, up to the longest of `lengths`.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regard.export._layers import LayerGraph
from regard.export.files import TOKENIZER, needed, prepare
from regard.export.weights import EPSILON, ROTARY_BASE, Weights

FILES = ("encoder.onnx", "decoder.onnx", TOKENIZER)


def write(predictor: Any, folder: Path) -> list[Path]:
    """Write the two graphs, which ONNX Runtime or any other program with opset 23 computes.

    Raises:
        ConfigError: onnx is not installed, the folder holds other files, or the model cannot be expressed.
    """
    needed("onnx", "onnx")
    weights, tokenizer = Weights(predictor.model), predictor.task.tokenizer
    table = weights.take("embedding.weight", weights.shape.vocabulary, weights.shape.dim)
    facts = {"begin": str(tokenizer.bos), "end": str(tokenizer.eos)}
    encoder = _Encoder(weights, table).graph
    decoder = _Decoder(weights, table).graph
    weights.finish()
    prepare(folder, FILES)
    encoder.save(folder / FILES[0], facts)
    decoder.save(folder / FILES[1], facts)
    tokenizer.save(folder / TOKENIZER)
    return [folder / name for name in FILES]


class _Blocks:
    """What both graphs are made of; tokens are (batch, length, dim)."""

    def __init__(self, name: str, weights: Weights, table: Any) -> None:
        self.graph, self.weights = LayerGraph(name), weights
        self.shape, self.head_dim = weights.shape, weights.head_dim
        self.table = self.graph.constant(table, np.float32)

    def embedded(self, tokens: str) -> str:
        """Token ids (batch, length) to the scaled embeddings."""
        scale = self.graph.constant(self.shape.dim**0.5, np.float32)
        return self.graph.add("Mul", self.graph.add("Gather", self.table, tokens), scale)

    def norm(self, x: str) -> str:
        """The norm of a token."""
        return self.graph.norm(x, self.shape.dim, EPSILON)

    def norm_of_heads(self, x: str) -> str:
        """The norm of each head of a token, or nothing where the model has none."""
        if not self.shape.qk_norm:
            return x
        return self.graph.norm_of_heads(x, self.shape.heads, self.head_dim, EPSILON)

    def linear(self, x: str, name: str, outputs: int, inputs: int) -> str:
        """The product with a weight of the model."""
        return self.graph.linear(x, self.weights.take(name, outputs, inputs))

    def turns(self, tokens: str, start: str | None = None) -> tuple[str, str]:
        """Cosines and sines of the positions of the tokens."""
        return self.graph.turns(tokens, self.head_dim, ROTARY_BASE, start)

    def own(self, x: str, name: str, turns: tuple[str, str]) -> tuple[str, str, str]:
        """Queries, keys and values of self-attention."""
        dim = self.shape.dim
        projected = self.linear(self.norm(x), f"{name}.attention.query_key_value.weight", 3 * dim, dim)
        query, key, value = self.graph.add_several("Split", 3, projected, axis=-1, num_outputs=3)
        query, key = (
            self.graph.turned(self.norm_of_heads(one), turns, self.shape.heads) for one in (query, key)
        )
        return query, key, value

    def attention(self, outputs: int, *inputs: str) -> list[str]:
        """The operator over queries, keys, values, mask and past, heads side by side."""
        heads = self.shape.heads
        return self.graph.add_several("Attention", outputs, *inputs, q_num_heads=heads, kv_num_heads=heads)

    def added(self, x: str, found: str, name: str) -> str:
        """What attention found, projected and added to the tokens."""
        dim = self.shape.dim
        return self.graph.add("Add", x, self.linear(found, f"{name}.output.weight", dim, dim))

    def fed_forward(self, x: str, name: str) -> str:
        """The second half of a block."""
        dim, hidden = self.shape.dim, self.shape.hidden
        both = self.linear(self.norm(x), f"{name}.feed_forward.gate_up.weight", 2 * hidden, dim)
        down = self.linear(self.graph.gated(both), f"{name}.feed_forward.down.weight", dim, hidden)
        return self.graph.add("Add", x, down)


class _Encoder(_Blocks):
    def __init__(self, weights: Weights, table: Any) -> None:
        super().__init__("encoder", weights, table)
        graph, dim = self.graph, self.shape.dim
        source = graph.input("source", np.int64, ["sentences", "source_length"])
        lengths = graph.input("lengths", np.int64, ["sentences"])
        mask, turns, x = graph.within(lengths, source, source), self.turns(source), self.embedded(source)
        for number in range(self.shape.encoder_layers):
            name = f"encoder.blocks.{number}"
            (found,) = self.attention(1, *self.own(x, name, turns), mask)
            x = self.fed_forward(self.added(x, found, f"{name}.attention"), name)
        x = self.norm(x)
        for number in range(self.shape.decoder_layers):
            weight = f"decoder.blocks.{number}.context_attention.key_value.weight"
            key, value = graph.add_several(
                "Split", 2, self.linear(x, weight, 2 * dim, dim), axis=-1, num_outputs=2
            )
            sizes: list[int | str] = ["sentences", "source_length", dim]
            graph.output(self.norm_of_heads(key), f"context_key_{number}", np.float32, sizes)
            graph.output(value, f"context_value_{number}", np.float32, sizes)


class _Decoder(_Blocks):
    def __init__(self, weights: Weights, table: Any) -> None:
        super().__init__("decoder", weights, table)
        graph = self.graph
        self.tokens = graph.input("tokens", np.int64, ["hypotheses", "new"])
        self.sources = graph.input("sources", np.int64, ["hypotheses"])
        lengths = graph.input("lengths", np.int64, ["sentences"])
        layers = range(self.shape.decoder_layers)
        contexts, pasts = (
            [self._context(number) for number in layers],
            [self._past(number) for number in layers],
        )
        written = graph.add("Shape", pasts[0][0], start=2, end=3)
        causal, turns = self._causal(written), self.turns(self.tokens, written)
        context_mask = graph.add("Gather", graph.within(lengths, contexts[0][0], self.tokens), self.sources)
        x = self.embedded(self.tokens)
        for number in layers:
            name = f"decoder.blocks.{number}"
            found, *present = self.attention(3, *self.own(x, name, turns), causal, *pasts[number])
            for kind, array in zip(("key", "value"), present, strict=True):
                graph.output(array, f"present_{kind}_{number}", np.float32, self._cache("all"))
            x = self.added(x, found, f"{name}.attention")
            x = self._look_at_context(x, f"{name}.context_attention", contexts[number], context_mask)
            x = self.fed_forward(x, name)
        scores = graph.add("MatMul", self.norm(x), graph.add("Transpose", self.table, perm=[1, 0]))
        log_p = graph.add("LogSoftmax", scores, axis=-1)
        sizes: list[int | str] = ["hypotheses", "new", self.shape.vocabulary]
        graph.output(log_p, "log_probabilities", np.float32, sizes)

    def _context(self, number: int) -> tuple[str, ...]:
        sizes: list[int | str] = ["sentences", "source_length", self.shape.dim]
        return tuple(
            self.graph.input(f"context_{kind}_{number}", np.float32, sizes) for kind in ("key", "value")
        )

    def _past(self, number: int) -> tuple[str, ...]:
        sizes = self._cache("written")
        return tuple(
            self.graph.input(f"past_{kind}_{number}", np.float32, sizes) for kind in ("key", "value")
        )

    def _cache(self, length: str) -> list[int | str]:
        return ["hypotheses", self.shape.heads, length, self.head_dim]

    def _causal(self, written: str) -> str:
        """A mask (new, written + new), said in full: programs differ in what `is_causal` means beside a past."""
        add, graph = self.graph.add, self.graph
        zero, one, axis = graph.constant(0), graph.constant(1), graph.constant([0])
        new = graph.add("Shape", self.tokens, start=1, end=2)
        query = add("Add", add("Range", zero, add("Squeeze", new, axis), one), written)
        key = add("Range", zero, add("Squeeze", add("Add", new, written), axis), one)
        return add("LessOrEqual", key, add("Unsqueeze", query, graph.constant([1])))

    def _look_at_context(self, x: str, name: str, context: tuple[str, ...], mask: str) -> str:
        dim = self.shape.dim
        query = self.linear(self.norm(x), f"{name}.query.weight", dim, dim)
        if self.shape.qk_norm:
            query = self.norm(query)
        read = [self.graph.add("Gather", one, self.sources) for one in context]
        (found,) = self.attention(1, query, *read, mask)
        return self.added(x, found, name)
