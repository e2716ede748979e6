"""An encoder-decoder in the middle of writing, in PyTorch: for GPUs, where there is no kernel, and as what the kernel is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard._packed import Packed
from regard.decoding.beam import Candidates
from regard.nn.cache import LayerCache, keep
from regard.nn.transformer import EncoderDecoder

Array = NDArray[Any]


class PlainWriter:
    """A `Stepper` whose hypotheses all have one length, as the layers' caches want it: sources begin and end together.

    Arguments:
        model: the encoder-decoder, in evaluation mode.
        sources: the token ids of every source.
    """

    refills = False

    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> None:
        self.model, self.sources = model, sources
        self.device = model.embedding.weight.device
        self.caches: list[LayerCache] = []
        self.numbers = np.empty(0, np.int64)

    @torch.no_grad()
    def begin(self, sources: Array) -> None:
        """Encode them."""
        chosen = [self.sources[number] for number in sources]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in chosen])])
        ids = np.concatenate([np.asarray(ids, np.int64) for ids in chosen])
        self.read = Packed(torch.from_numpy(ids).to(self.device), offsets)
        self.encoded = self.model.encode(self.read)
        self.numbers, self.caches = sources, self.model.decoder.caches()

    @torch.no_grad()
    def step(self, tokens: Array, sources: Array, parents: Array, count: int, end: int) -> Candidates:
        """As `Stepper.step`."""
        if parents[0] >= 0:
            keep(self.caches, torch.from_numpy(parents).to(self.device))
        packed = Packed(torch.from_numpy(tokens).to(self.device), np.arange(len(tokens) + 1))
        read = torch.from_numpy(np.searchsorted(self.numbers, sources))
        states = self.model.step(packed, self.encoded, self.caches, read)
        return best_of(self.scores(states, packed.values, read).float(), count, end)

    def scores(self, states: Tensor, tokens: Tensor, read: Tensor) -> Tensor:
        """Scores (M, vocabulary) from hidden states (M, dim) of hypotheses, their last tokens (M,) and the sources they read (M,)."""
        return self.model.scores(states)


def best_of(scores: Tensor, count: int, end: int) -> Candidates:
    """The candidates among all scores (M, vocabulary), which need not be normalized."""
    log_p = torch.log_softmax(scores, dim=-1)
    best = log_p.topk(min(count, log_p.shape[1]))
    return Candidates(best.indices.cpu().numpy(), best.values.cpu().numpy(), log_p[:, end].cpu().numpy())
