"""Pictures to sentences: the encoder of patches, and the decoder of texts that reads what it gives."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from regard._packed import Packed
from regard.nn.blocks import Decoder
from regard.nn.cache import LayerCache
from regard.nn.encoder import initialize
from regard.nn.feedforward import Dropout
from regard.nn.patches import PatchEncoder


class Captioner(nn.Module):
    """Patches of pictures and the captions so far to what follows; one embedding serves words read and words written.

    All captions of a picture read one encoding of it, by `key_sequence`, without copies.

    Arguments:
        encoder: of the pictures; its width is that of the decoder.
        vocabulary: number of token ids.
        heads: query heads of each block of the decoder.
        hidden: width of each of its feed-forwards.
        layers: number of its blocks.
        dropout: share of the entries dropped in training, of embeddings and of every branch of the decoder.

    Raises:
        ShapeError: the encoder's width is no multiple of `heads`, or heads are of odd size.

    Source: Vaswani et al. 2017 for the decoder, tied as in Press and Wolf 2017, over patches as in Dosovitskiy et al. 2021.

    >>> encoder = regard.nn.PatchEncoder(4, dim=32, heads=4, hidden=64, layers=1)
    >>> model = regard.nn.Captioner(encoder, vocabulary=100, heads=4, hidden=64, layers=1)
    >>> patches = regard.Packed(torch.zeros(10, 48, dtype=torch.uint8), np.array([0, 4, 10]))
    >>> captions = regard.Packed(torch.arange(7), np.array([0, 2, 4, 7]))  # two of the first picture, one of the second
    >>> model(patches, [[2, 2], [3, 2]], captions, torch.tensor([0, 0, 1])).shape
    torch.Size([7, 32])
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        vocabulary: int,
        heads: int,
        hidden: int,
        layers: int,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = encoder.dim
        self.encoder = encoder
        self.embedding = nn.Embedding(vocabulary, self.dim)
        self.dropout = Dropout(dropout)
        self.decoder = Decoder(layers, self.dim, heads, hidden, dropout=dropout)
        for module in (self.embedding, self.decoder):
            module.apply(initialize)

    def forward(self, patches: Packed, sizes: Any, captions: Packed, key_sequence: Tensor) -> Tensor:
        """Hidden states (total of the captions, dim), from which `scores` predicts the token that follows each.

        Arguments:
            patches: values (total, P * P * 3), uint8: those of N pictures, row by row.
            sizes: (N, 2) integers, rows and columns of each picture.
            captions: token ids (total,) of M captions.
            key_sequence: (M,) the number of the picture that each caption is of.

        Raises:
            ShapeError: patches and sizes do not belong together.
        """
        return self.read(self.encode(patches, sizes), captions, key_sequence)

    def read(self, encoded: Packed, captions: Packed, key_sequence: Tensor) -> Tensor:
        """As `forward`, of pictures that are encoded already."""
        states: Packed = self.decoder(self._embedded(captions), encoded, key_sequence=key_sequence)
        return states.values

    def encode(self, patches: Packed, sizes: Any) -> Packed:
        """The encodings of N pictures, values (total, dim)."""
        encoded: Packed = self.encoder(patches, sizes)
        return encoded

    def step(self, tokens: Packed, encoded: Packed, caches: list[LayerCache], key_sequence: Tensor) -> Tensor:
        """Hidden states (M, dim) of the next token of M hypotheses, of which hypothesis m reads picture `key_sequence[m]`."""
        states: Packed = self.decoder(
            self._embedded(tokens), encoded, key_sequence=key_sequence, caches=caches
        )
        return states.values

    def scores(self, states: Tensor) -> Tensor:
        """Hidden states (..., dim) to unnormalized scores (..., vocabulary)."""
        return F.linear(states, self.embedding.weight)

    def _embedded(self, tokens: Packed) -> Packed:
        return tokens.with_values(self.dropout(self.embedding(tokens.values), self.dim**0.5))
