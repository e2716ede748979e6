"""The encoder-decoder over one vocabulary, with tied embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._masks import Global, Mask, Window
from regard._packed import Packed
from regard.nn.cache import LayerCache
from regard.nn.encoder import initialize
from regard.nn.feedforward import Dropout
from regard.nn.recurrent import decoder_of, encoder_of


@dataclass(frozen=True)
class Shape:
    """The sizes that make a model.

    Attributes:
        vocabulary: number of token ids.
        dim: width of the tokens.
        heads: query heads of each block; `dim` is a multiple of it.
        hidden: width of each feed-forward.
        encoder_layers: blocks of the encoder.
        decoder_layers: blocks of the decoder.
        dropout: share of the entries dropped in training, of embeddings and of every branch.
        qk_norm: normalize queries and keys per head before they meet.
        encoder: "attention", or "recurrent" for LSTMs of as many parameters in place of self-attention.
        decoder: the same; a recurrent decoder attends to the source all the same.
        window: how many source tokens on each side a source token sees, besides the first one, which sees all and is seen by
            all; by default the whole source.
    """

    vocabulary: int
    dim: int = 128
    heads: int = 4
    hidden: int = 256
    encoder_layers: int = 4
    decoder_layers: int = 2
    dropout: float = 0.1
    qk_norm: bool = True
    encoder: str = "attention"
    decoder: str = "attention"
    window: int | None = None


class EncoderDecoder(nn.Module):
    """Source tokens to target tokens: one embedding serves source, target and the scores over the vocabulary.

    Arguments:
        shape: the sizes.

    Raises:
        ShapeError: `shape.dim` is no multiple of `shape.heads`, or heads are of odd size.
        ConfigError: there are no layers of the kind that `shape` names, or it has a window over a recurrent encoder.

    Source: Vaswani et al. 2017, tied as in Press and Wolf 2017, with the pre-norm blocks of `EncoderBlock`.

    >>> model = regard.nn.EncoderDecoder(regard.nn.Shape(vocabulary=100, dim=32))
    >>> source = regard.Packed(torch.arange(7), np.array([0, 3, 7]))
    >>> model.scores(model(source, source)).shape
    torch.Size([7, 100])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape.window is not None and shape.encoder != "attention":
            raise ConfigError(
                f"a window is one of attention. Expected: encoder='attention', or no window. "
                f"Received: encoder={shape.encoder!r} with window={shape.window}. To mend it: leave one of them out."
            )
        self.shape = shape
        self.mask: Mask | None = None if shape.window is None else Window(shape.window) | Global([0])
        sizes = (shape.dim, shape.heads, shape.hidden)
        options: dict[str, Any] = {"dropout": shape.dropout, "qk_norm": shape.qk_norm}
        self.embedding = nn.Embedding(shape.vocabulary, shape.dim)
        self.dropout = Dropout(shape.dropout)
        self.encoder = encoder_of(shape.encoder)(shape.encoder_layers, *sizes, **options)
        self.decoder = decoder_of(shape.decoder)(shape.decoder_layers, *sizes, **options)
        self.apply(initialize)

    def forward(self, source: Packed, target: Packed) -> Tensor:
        """Hidden states (total target, dim) of N pairs, from which `scores` predicts the token that follows each.

        Arguments:
            source: token ids (total source,) of N sequences.
            target: token ids (total target,) of N sequences, which the decoder reads; target n belongs to source n.

        Raises:
            ShapeError: there are not as many sources as targets.
        """
        return self.decode(target, self.encode(source))

    def encode(self, source: Packed) -> Packed:
        """Token ids (total source,) of N sequences to their encodings, values (total source, dim)."""
        return self.encoder(self._embedded(source), mask=self.mask)

    def decode(self, target: Packed, encoded: Packed) -> Tensor:
        """Hidden states (total target, dim) of targets that are there as a whole."""
        states: Tensor = self.decoder(self._embedded(target), encoded).values
        return states

    def step(self, tokens: Packed, encoded: Packed, caches: list[LayerCache], key_sequence: Tensor) -> Tensor:
        """Hidden states (N, dim) of the next token of N hypotheses, of which hypothesis n reads source `key_sequence[n]`."""
        return self.decoder(self._embedded(tokens), encoded, key_sequence=key_sequence, caches=caches).values

    def scores(self, states: Tensor) -> Tensor:
        """Hidden states (..., dim) to unnormalized scores (..., vocabulary)."""
        return F.linear(states, self.embedding.weight)

    def _embedded(self, tokens: Packed) -> Packed:
        return tokens.with_values(self.dropout(self.embedding(tokens.values), self.shape.dim**0.5))
