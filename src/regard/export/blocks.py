"""A pre-norm block of `regard.nn` as an ONNX graph: attention, a context's where there is one, and the feed-forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regard._errors import ConfigError
from regard._masks import Causal, Mask
from regard.export._layers import LayerGraph
from regard.export.attention import attended, attended_to, context_of, project, window_of
from regard.nn import CrossAttention, DecoderBlock, EncoderBlock, FeedForward, RMSNorm, SelfAttention

_PARTS = {
    "attention_norm": RMSNorm,
    "attention": SelfAttention,
    "feed_forward_norm": RMSNorm,
    "feed_forward": FeedForward,
}
_CONTEXT_PARTS = {"context_norm": RMSNorm, "context_attention": CrossAttention}


def block_to_onnx(block: EncoderBlock | DecoderBlock, path: Path | str, *, mask: Mask | None = None) -> Path:
    """Write one block, with its weights, as an ONNX model that ONNX Runtime or any other program with opset 23 computes.

    The graph's inputs are `x` (batch, length, dim) and `lengths` (batch,), how many tokens of each row are no padding, and for a
    `DecoderBlock` also `context` (batch, context length, dim), not all empty, and `context_lengths` (batch,). Its output is
    `y` (batch, length, dim); what it holds for padding means nothing. Dropout is left out.

    Arguments:
        block: an `EncoderBlock` or `DecoderBlock`, on any device, in any precision; the graph computes in float32.
        path: the file to write.
        mask: for an `EncoderBlock` `Causal`, `Window`, or both joined by `&`, which the graph then always has; a
            `DecoderBlock` is causal by itself.

    Returns:
        The path.

    Raises:
        ConfigError: onnx is not installed, it is another kind of block or has other parts, or a mask has no such graph.

    Source: https://onnx.ai/onnx/operators/onnx__Attention.html

    >>> import tempfile
    >>> from regard.export import block_to_onnx
    >>> block = regard.nn.DecoderBlock(32, heads=4, hidden=64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     block_to_onnx(block, f"{folder}/block.onnx").name
    'block.onnx'
    """
    _check(block)
    decodes = isinstance(block, DecoderBlock)
    if decodes and mask is not None:
        raise ConfigError(f"a DecoderBlock is causal and takes no other mask, got {mask!r}; pass mask=None")
    window, dim = window_of(Causal() if decodes else mask), block.attention.dim
    graph = LayerGraph("decoder_block" if decodes else "encoder_block")
    x = graph.input("x", np.float32, ["batch", "length", dim])
    lengths = graph.input("lengths", np.int64, ["batch"])
    inside = graph.norm(x, dim, block.attention_norm.eps)
    x = graph.add("Add", x, attended(graph, block.attention, inside, lengths, window))
    if isinstance(block, DecoderBlock):
        context = context_of(graph, block.context_attention)
        inside = graph.norm(x, dim, block.context_norm.eps)
        x = graph.add("Add", x, attended_to(graph, block.context_attention, inside, *context))
    inside = project(graph, graph.norm(x, dim, block.feed_forward_norm.eps), block.feed_forward.gate_up)
    x = graph.add("Add", x, project(graph, graph.gated(inside), block.feed_forward.down))
    graph.output(x, "y", np.float32, ["batch", "length", dim])
    graph.save(Path(path), {})
    return Path(path)


def _check(block: Any) -> None:
    """Blocks that inherit compute something else, and so do blocks with a part exchanged."""
    if type(block) not in (EncoderBlock, DecoderBlock):
        raise ConfigError(
            f"expected a regard.nn.EncoderBlock or DecoderBlock itself, got {type(block).__name__}; pass one block of a stack"
        )
    parts = _PARTS | (_CONTEXT_PARTS if type(block) is DecoderBlock else {})
    for name, kind in parts.items():
        part = getattr(block, name)
        if type(part) is not kind:
            found = f"{type(part).__module__.partition('.')[0]}'s {type(part).__name__}"
            raise ConfigError(
                f"the block cannot be written: expected {name} to be a {kind.__name__} of regard.nn, got {found}; "
                "pass a block with the parts it was made with"
            )
