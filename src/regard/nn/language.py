"""The decoder-only language model: every token predicts the next one from those before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._packed import Packed
from regard.nn._sequences import positions_of
from regard.nn.blocks import CAUSAL, Encoder
from regard.nn.cache import KeyValueCache, LayerCache, PrefixCache
from regard.nn.encoder import initialize
from regard.nn.feedforward import Dropout
from regard.nn.residual import Stream


class LanguageModel(nn.Module):
    """A causal stack over one vocabulary; the embedding serves tokens and the scores of what follows.

    Arguments:
        vocabulary: number of token ids.
        dim: width of the tokens.
        heads: query heads of each block; `dim` is a multiple of it.
        hidden: width of each feed-forward.
        layers: number of blocks.
        context: tokens that it is trained to read at once.
        dropout: share of the entries dropped in training, of embeddings and of every branch.
        qk_norm: normalize queries and keys per head before they meet.

    Raises:
        ShapeError: `dim` is no multiple of `heads`, or heads are of odd size.

    Source: Radford et al. 2019, with the pre-norm blocks of `EncoderBlock` and tied embeddings.

    >>> model = regard.nn.LanguageModel(100, dim=32, heads=4, hidden=64, layers=2, context=16)
    >>> model.scores(model(regard.Packed(torch.arange(7), np.array([0, 3, 7])))).shape
    torch.Size([7, 100])
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        *,
        context: int,
        dropout: float = 0.0,
        qk_norm: bool = True,
    ) -> None:
        super().__init__()
        self.context, self.dim = context, dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.dropout = Dropout(dropout)
        self.stack = Encoder(layers, dim, heads, hidden, dropout=dropout, qk_norm=qk_norm)
        self.apply(initialize)

    def forward(self, tokens: Packed) -> Tensor:
        """Token ids (total,) of N sequences to states (total, dim), from which `scores` predicts the token that follows each."""
        return self.stack(self._embedded(tokens), mask=CAUSAL).values

    def scores(self, states: Tensor) -> Tensor:
        """States (..., dim) to unnormalized scores (..., vocabulary)."""
        return F.linear(states, self.embedding.weight)

    def read(self, prefixes: Packed, room: int, *, shared: bool = True) -> tuple[Tensor, list[LayerCache]]:
        """States (total, dim) of sequences that others will go on with, and what these need: see `go_on`.

        Arguments:
            prefixes: token ids (total,) of N sequences, none of them empty.
            room: tokens that may follow one by one; 0 where they come all at once.
            shared: whether `branch` will say who goes on with which; else the sequences go on themselves, token by token,
                which is quicker, and they must have one length.
        """
        whole = room + int(prefixes.lengths.max(initial=0))
        caches = [
            LayerCache(PrefixCache(room) if shared else KeyValueCache(whole)) for _ in self.stack.blocks
        ]
        return self._through(prefixes, positions_of(prefixes), caches), caches

    def go_on(self, tokens: Packed, positions: Tensor, caches: list[LayerCache]) -> Tensor:
        """States (total, dim) of tokens that stand behind a prefix, at `positions` (total,) from its first token.

        The first time after `read` they belong to the sequences that `branch` named, later to the same ones.
        """
        return self._through(tokens, positions, caches)

    def _through(self, tokens: Packed, positions: Tensor, caches: list[LayerCache]) -> Tensor:
        x = self._embedded(tokens)
        turns = self.stack.rotary(positions, x.values.dtype)
        stream: Any = Stream(x)
        for block, cache in zip(self.stack.blocks, caches, strict=True):
            stream = block(stream, mask=CAUSAL, turns=turns, cache=cache)
        return stream.normalized(self.stack.norm, leaves=True)[1].values

    def _embedded(self, tokens: Packed) -> Packed:
        return tokens.with_values(self.dropout(self.embedding(tokens.values), self.dim**0.5))


def branch(caches: list[LayerCache], prefixes: np.ndarray) -> None:
    """Go on with M sequences in every layer, of which sequence m goes on with prefix `prefixes[m]`."""
    chosen = torch.from_numpy(np.asarray(prefixes, np.int64))
    for cache in caches:
        cache.own.branch(chosen)
