"""A pretrained encoder in the place of one that is trained from nothing: pieces of any number, without its marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from regard._packed import Packed
from regard.nn.pretrained import PretrainedEncoder
from regard.nn.pretrained_shape import PretrainedShape


class Marked(NamedTuple):
    """Sequences with marks around them, and at which of their places the pieces stand."""

    tokens: Packed
    places: Tensor


class PretrainedReader(nn.Module):
    """A `PretrainedEncoder` that is called as a `TextEncoder` is, for models that read with either.

    It puts the encoder's marks of begin and end around every sequence and gives the states of what stands between them. A sequence
    that is longer than the encoder has positions for is read in several parts of about equal length. What is added to the
    embeddings goes through a gate that begins at 0: first the encoder reads as it was pretrained to.

    The highest layers may be left for `together`, in which texts that were read each for itself see each other: a text that many
    others meet costs the lower layers once. What is added there goes through a gate of its own. Source: Cao et al. 2020, "DeFormer: Decomposing Pre-trained Transformers for Faster
    Question Answering".

    Arguments:
        shape: sizes and settings.
        marks: the token ids before and behind a sequence.
        upper: how many of the highest layers are left for `together`; all, where there are not so many.

    >>> shape = regard.nn.PretrainedShape(100, dim=32, heads=4, layers=2, hidden=64)
    >>> reader = regard.nn.PretrainedReader(shape, marks=([98], [99]))
    >>> reader(regard.Packed(torch.arange(7), np.array([0, 3, 7])), torch.zeros(7, 32)).values.shape, reader.dim
    (torch.Size([7, 32]), 32)
    """

    before: Tensor
    behind: Tensor

    def __init__(
        self, shape: PretrainedShape, marks: tuple[Sequence[int], Sequence[int]] = ((), ()), upper: int = 0
    ) -> None:
        super().__init__()
        self.lower = max(0, shape.layers - upper)
        self.dim, self.heads = shape.dim, shape.heads
        for name, ids in zip(("before", "behind"), marks, strict=True):
            self.register_buffer(name, torch.tensor(list(ids), dtype=torch.int64), persistent=False)
        self.pretrained = PretrainedEncoder(shape)
        self.gate = nn.Parameter(torch.zeros(shape.dim))
        self.upper_gate = nn.Parameter(torch.zeros(shape.dim)) if self.upper else None

    def forward(self, tokens: Packed, extra: Tensor | None = None) -> Packed:
        """Token ids (total,) to states (total, dim); `gate * extra` (total, dim) is added to what the first layer reads."""
        marked, places = self.marked(tokens)
        if extra is not None:
            room = extra.new_zeros(len(marked.values), self.dim)
            extra = room.index_copy(0, places, (self.gate * extra).to(room.dtype))
        states: Packed = self.pretrained(marked, extra=extra, layers=self.lower)
        return tokens.with_values(states.values[places])

    @property
    def upper(self) -> nn.ModuleList:
        """The layers that are left for `together`."""
        blocks: nn.ModuleList = self.pretrained.blocks[self.lower :]
        return blocks

    def together(self, x: Packed, extra: Tensor | None = None) -> Packed:
        """States (total, dim) of sequences of any texts, with `gate * extra` (total, dim), through the upper layers."""
        if extra is not None and self.upper_gate is not None:
            x = x.with_values(x.values + self.upper_gate * extra)
        for block in self.upper:
            x = block(x)
        return x

    def marked(self, tokens: Packed) -> Marked:
        """What the encoder reads: the sequences, or parts of them, with marks around each."""
        before, behind, device = self.before, self.behind, tokens.values.device
        around = len(before) + len(behind)
        sizes = even_parts(tokens.lengths, self.pretrained.shape.longest - around)
        offsets = np.concatenate([[0], np.cumsum(sizes + around)])
        shift = len(before) + around * np.arange(len(sizes))
        places = torch.from_numpy(np.arange(len(tokens.values)) + np.repeat(shift, sizes)).to(device)
        values = tokens.values.new_empty(int(offsets[-1]))
        values[places] = tokens.values
        for ids, begins in ((before, offsets[:-1]), (behind, offsets[1:] - len(behind))):
            spots = torch.from_numpy(begins[:, None] + np.arange(len(ids))).to(device)
            values[spots] = ids
        return Marked(Packed(values, offsets), places)


def leaves_upper(encoder: nn.Module) -> bool:
    """Whether an encoder has layers for `together`."""
    return isinstance(encoder, PretrainedReader) and len(encoder.upper) > 0


def even_parts(lengths: np.ndarray, longest: int) -> np.ndarray:
    """The lengths of the parts, at most `longest`, into which sequences are cut, as few and as even as may be; each has at least one.

    >>> even_parts(np.array([3, 0, 10]), longest=4)
    array([3, 0, 4, 3, 3])
    """
    counts = np.maximum(1, -(-lengths.astype(np.int64) // longest))
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(lengths // counts, counts) + (number < np.repeat(lengths % counts, counts))
