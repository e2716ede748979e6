"""A model that copies, in the middle of writing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.decoding.beam import Array
from regard.decoding.plain import PlainWriter
from regard.nn.copying import CopyingEncoderDecoder


class CopyWriter(PlainWriter):
    """A `PlainWriter` of the mixture of vocabulary and source; the source is projected once for all steps.

    Arguments: as for `PlainWriter`, with a model that copies.
    """

    model: CopyingEncoderDecoder

    def __init__(self, model: CopyingEncoderDecoder, sources: Sequence[Sequence[int]]) -> None:
        super().__init__(model, sources)

    @torch.no_grad()
    def begin(self, sources: Array) -> None:
        """Encode them, and project them for copying."""
        super().begin(sources)
        self.keys = self.model.copy_keys(self.encoded, self.read)
        self.places = self.read.to_padded()

    def scores(self, states: Tensor, tokens: Tensor, read: Tensor) -> Tensor:
        """Log-probabilities (M, vocabulary)."""
        weights = self.model.copy_weights(self.model.copy_queries(states, tokens), self.keys, read)
        # Those that are done may have been the longest.
        places = self.places[read.to(self.places.device), : weights.shape[1]]
        return self.model.log_mixture(states, weights, places)
