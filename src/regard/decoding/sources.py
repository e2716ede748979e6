"""Decoders over sources of any kind, such as pictures: PyTorch encodes them, the kernel or PyTorch writes what they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regard._errors import ConfigError
from regard._lowering import kernel
from regard._packed import Packed
from regard.decoding.engine import Precision, check_precision, pack_stack
from regard.decoding.plain import PlainWriter
from regard.nn.blocks import DecoderBlock

Array = NDArray[Any]
Encode = Callable[[Sequence[Any]], Packed]
"""From N sources to their encodings, values (total, dim)."""


class SourceEngine:
    """A decoder as the kernel runs it, for an `EngineWriter`; later changes of its weights do not reach it.

    Arguments:
        model: with `decoder` and `embedding`, on a CPU, in float32, in evaluation mode.
        encode: from sources to their encodings; it remains PyTorch's work, in float32.
        precision: of the decoder's weights, as for `regard.decoding.engine.Engine`.
        native: as for `Engine`.

    Raises:
        ConfigError: the precision is none of the three, or there is no kernel for this model.
    """

    def __init__(
        self, model: Any, encode: Encode, precision: Precision = "fp32", *, native: bool = True
    ) -> None:
        check_precision(precision)
        if not can_write(model):
            raise ConfigError(
                "the kernel cannot run this decoder. Expected: the compiled kernel, and a model on a CPU in float32. "
                f"Received: {'no kernel' if kernel() is None else 'another model'}. Use precision='fp32' without it."
            )
        self.encoder, self.precision = encode, precision
        table = model.embedding.weight
        self.decoder = pack_stack(list(model.decoder.blocks), table, table, precision, native)

    @torch.no_grad()
    def encode(self, sources: Sequence[Any]) -> tuple[Array, Array]:
        """Encodings (total, dim) of the sources, and their offsets (N + 1,)."""
        encoded = self.encoder(sources)
        return np.ascontiguousarray(encoded.values.numpy()), np.asarray(encoded.offsets, np.int64)


class PlainSourceWriter(PlainWriter):
    """`PlainWriter` over sources of any kind.

    Arguments:
        model: with `decoder`, `embedding`, `step` and `scores` as `EncoderDecoder` has them, in evaluation mode.
        sources: of which it writes.
        encode: from sources to their encodings.
    """

    def __init__(self, model: Any, sources: Sequence[Any], encode: Encode) -> None:
        super().__init__(model, sources)
        self.encode = encode

    @torch.no_grad()
    def begin(self, sources: Array) -> None:
        """Encode them."""
        self.encoded = self.encode([self.sources[number] for number in sources])
        self.numbers, self.caches = sources, self.model.decoder.caches()


def can_write(model: nn.Module) -> bool:
    """Whether the kernel is there and runs the decoder of this model: blocks of attention on a CPU in float32."""
    blocks: Any = model.decoder.blocks  # type: ignore[union-attr]
    are_ours = len(blocks) > 0 and all(type(block) is DecoderBlock for block in blocks)
    on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    return kernel() is not None and are_ours and on_cpu
