"""An encoder-decoder's weights, packed once for the C++ kernel, which writes a token of every hypothesis in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._lowering import kernel, missing, threads
from regard.decoding.beam import Candidates
from regard.decoding.shortlist import Shortlist
from regard.nn.blocks import DecoderBlock, EncoderBlock
from regard.nn.transformer import EncoderDecoder

Array = NDArray[Any]
Precision = Literal["fp32", "bf16", "int8"]


class Engine:
    """An encoder-decoder as the kernel runs it; later changes of the model's weights do not reach it.

    Arguments:
        model: on a CPU, in float32.
        precision: of the weights, and of activations where they meet them: "fp32"; "bf16", rounded to 8 bits of mantissa;
            "int8", whole numbers with a scale for each output and each token. Sums are 32 bits wide in every case.
        native: use the machine's own instructions for products of bf16 and int8, where it has quick ones.

    Raises:
        ConfigError: the precision is none of the three, or there is no kernel for this model.

    >>> model = regard.nn.EncoderDecoder(regard.nn.Shape(vocabulary=50, dim=16, heads=2)).eval()
    >>> encoded, _ = Engine(model, "int8").encode([[4, 5, 6], [7]])
    >>> encoded.shape
    (4, 16)
    """

    def __init__(self, model: EncoderDecoder, precision: Precision = "fp32", *, native: bool = True) -> None:
        check_precision(precision)
        if not is_for(model):
            raise ConfigError(
                f"the kernel cannot run this model. Expected: the compiled kernel, and a model on a CPU in float32. Received: "
                f"{'a kernel that ' + missing if kernel() is None else 'another model'}. Use precision='fp32' without it."
            )
        self.precision, self.dim = precision, model.shape.dim
        table = model.embedding.weight
        self.encoder = pack_stack(list(model.encoder.blocks), table, None, precision, native)
        self.decoder = pack_stack(list(model.decoder.blocks), table, table, precision, native)

    def encode(self, sources: Sequence[Sequence[int]]) -> tuple[Array, Array]:
        """Hidden states (total, dim) of token ids, and their offsets (N + 1,)."""
        offsets = np.zeros(len(sources) + 1, np.int64)
        np.cumsum([len(ids) for ids in sources], out=offsets[1:])
        ids = np.fromiter((token for ids in sources for token in ids), np.int32, count=int(offsets[-1]))
        hidden = np.empty((len(ids), self.dim), np.float32)
        self.encoder.encode(ids, offsets, hidden, threads())
        return hidden, offsets


class EngineWriter:
    """A `Stepper` over an engine: sources begin whenever there is room.

    Arguments:
        engine: the model.
        sources: the token ids of every source.
        beam: the most hypotheses of a source.
        shortlist: what can be written for the sources; by default the whole vocabulary.
    """

    refills = True

    def __init__(
        self,
        engine: Engine,
        sources: Sequence[Sequence[int]],
        beam: int,
        shortlist: Shortlist | None = None,
    ) -> None:
        self.engine, self.sources, self.shortlist = engine, sources, shortlist
        self.others = False  # whether sources began since the last step
        self.writer = kernel().Writer(engine.decoder, beam)
        self.threads = threads()
        self.candidates = engine.decoder.vocabulary

    def begin(self, sources: Array) -> None:
        """Encode them, and project their keys and values."""
        hidden, offsets = self.engine.encode([self.sources[number] for number in sources])
        self.writer.admit(sources, hidden, offsets, self.threads)
        self.others = True

    def allow(self, ids: Sequence[int] | Array) -> None:
        """From now on only these tokens are candidates, until others are allowed; with none given, all are."""
        self.writer.allow(np.asarray(ids, np.int32))
        self.candidates = len(ids) or self.engine.decoder.vocabulary

    def step(self, tokens: Array, sources: Array, parents: Array, count: int, end: int) -> Candidates:
        """As `Stepper.step`."""
        if self.shortlist is not None and self.others:
            live = [self.sources[number] for number in np.unique(sources)]
            self.allow(self.shortlist.allowed(live, also=[end]))
        self.others = False
        shape = len(tokens), min(count, self.candidates)
        found = Candidates(
            np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(len(tokens), np.float32)
        )
        self.writer.step(tokens, sources, parents, end, *found, self.threads)
        return found


def is_for(model: nn.Module) -> bool:
    """Whether the kernel is there and runs this model: an encoder-decoder of full attention on a CPU in float32."""
    # A subclass computes more than the kernel knows.
    if kernel() is None or type(model) is not EncoderDecoder or model.mask is not None:
        return False
    if not len(model.encoder.blocks) or not len(model.decoder.blocks):
        return False
    stacks = (EncoderBlock, model.encoder.blocks), (DecoderBlock, model.decoder.blocks)
    if any(type(block) is not kind for kind, blocks in stacks for block in blocks):  # recurrent ones
        return False
    return all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())


def check_precision(precision: str) -> None:
    """ConfigError for what is no precision."""
    if precision not in get_args(Precision):
        raise ConfigError(
            f"there is no precision {precision!r}. Expected one of: {', '.join(get_args(Precision))}."
        )


def pack_stack(
    blocks: Sequence[Any],
    embedding: Tensor,
    output: Tensor | None = None,
    precision: Precision = "fp32",
    native: bool = True,
) -> Any:
    """The kernel's form of blocks that are alike but for their weights, with a last normalization behind them.

    Arguments:
        blocks: one or more `DecoderBlock`, or `EncoderBlock`, which without a context are also those of a language model.
        embedding: (vocabulary, dim), scaled by `sqrt(dim)` where it is read.
        output: (vocabulary, dim), from hidden states to scores; not needed to encode.
        precision: as for `Engine`.
        native: as for `Engine`.
    """
    attention, dim = blocks[0].attention, embedding.shape[1]
    norm, eps = attention.query_norm, blocks[0].attention_norm.eps
    hidden = blocks[0].feed_forward.down.in_features
    is_decoder = isinstance(blocks[0], DecoderBlock)
    return kernel().StackWeights(
        (dim, attention.heads, attention.kv_heads, attention.head_dim, hidden, is_decoder, norm is not None),
        (eps, eps if norm is None else norm.eps, attention.rotary.base),
        [_matrices(block) for block in blocks],
        _array(embedding),
        dim**0.5,
        (_array(output), None),
        precision,
        native,
    )


def _matrices(block: EncoderBlock) -> list[tuple[Array | None, Array | None]]:
    layers: list[nn.Linear | None] = [
        block.attention.query_key_value,
        block.attention.output,
        None,
        None,
        None,
    ]
    if isinstance(block, DecoderBlock):
        context = block.context_attention
        layers[2:] = [context.query, context.key_value, context.output]
    layers += [block.feed_forward.gate_up, block.feed_forward.down]
    return [(None, None) if one is None else (_array(one.weight), _array(one.bias)) for one in layers]


def _array(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else np.ascontiguousarray(tensor.detach().numpy())
