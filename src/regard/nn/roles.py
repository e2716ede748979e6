"""The role labeller: one encoding of a sentence serves all its predicates.

Shape letters: P pieces, W words, Q predicates of all sentences, T rows: the words of a sentence once for each of its predicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._packed import Packed
from regard.nn._heads import project_heads
from regard.nn._sequences import positions_of
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.encoder import initialize
from regard.nn.feedforward import Dropout, FeedForward
from regard.nn.norm import RMSNorm
from regard.nn.pretrained_reader import leaves_upper
from regard.nn.recurrent import RecurrentEncoderBlock, known_kind
from regard.nn.residual import Stream
from regard.nn.rotary import Rotary

REACH = 16  # words; predicates further away are all equally far


class RowAttention(CrossAttention):
    """Cross-attention that knows where words stand: queries and keys are rotated by their place in the sentence."""

    def attend(self, x: Any, context: Packed, sentences: np.ndarray, turns: Tensor, of_row: Tensor) -> Tensor:
        """Rows (T, dim) of Q sequences, of which number q reads sentence `sentences[q]` of the context (W, dim)."""
        heads = [self.kv_heads, self.kv_heads]
        (query,) = project_heads(
            self.query, x.values, self.head_dim, [self.heads], 1, self.eps, turns[of_row]
        )
        key, value = project_heads(self.key_value, context.values, self.head_dim, heads, 1, self.eps, turns)
        options = {
            "cu_seqlens_q": x.offsets,
            "cu_seqlens_k": context.offsets,
            "key_sequence": sentences,
            "return_aux": None,
        }
        found, _ = self._attend(query, key, value, options)
        return self._out(query, found)


class RowBlock(nn.Module):
    """`x + attention(norm(x), sentence)`, then `x + feed_forward(norm(x))`: rows read the sentence, not each other."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = RMSNorm(), RMSNorm()
        self.attention = RowAttention(dim, heads, qk_norm=True)
        self.feed_forward = FeedForward(dim, hidden)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Packed, context: Packed, sentences: np.ndarray, turns: Tensor, of_row: Tensor
    ) -> Packed:
        """Rows (T, dim), in and out; arguments as for `RowAttention.attend`."""
        stream, inside = Stream.of(x).normalized(self.attention_norm)
        stream = stream.add(self.attention.attend(inside, context, sentences, turns, of_row), self.dropout)
        stream, inside = stream.normalized(self.feed_forward_norm)
        return stream.add(self.feed_forward(inside.values), self.dropout).like(x)


class RecurrentRowBlock(RecurrentEncoderBlock):
    """The control: an LSTM reads the rows of each predicate from both ends, where `RowBlock` attends to the sentence."""

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Rows (T, dim), in and out; what `RowBlock` needs beside them is left aside."""
        return super().forward(x)


@dataclass(frozen=True)
class Rows:
    """The words of each predicate's sentence, one sequence for each of Q predicates."""

    offsets: np.ndarray
    """(Q + 1,)"""
    sentences: np.ndarray
    """(Q,): the sentence of each predicate."""
    words: np.ndarray
    """(T,): the word of each row."""
    predicates: np.ndarray
    """(Q,): the word that is the predicate."""

    @classmethod
    def of(cls, words: np.ndarray, predicates: Packed) -> Rows:
        """From the offsets (N + 1,) of the words of N sentences, and the positions of their predicates."""
        sentences = np.repeat(np.arange(len(predicates)), predicates.lengths)
        begins, lengths = words[sentences].astype(np.int64), np.diff(words)[sentences]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        rows = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
        return cls(offsets, sentences, rows, begins + predicates.values.numpy())

    @property
    def distances(self) -> np.ndarray:
        """(T,): how far behind its predicate each row's word stands, cut at REACH, as a number from 0."""
        of_row = np.repeat(self.predicates, np.diff(self.offsets))
        return np.clip(self.words - of_row, -REACH, REACH) + REACH


class RoleLabeller(nn.Module):
    """Pieces of sentences to states of their words, and from these for every predicate to the states of its tags.

    A word's state is that of its first piece. For a predicate, `x_w = word_w + distance(w - p) + W word_p` goes through a
    few blocks in which every word reads the shared encoding; keys and values are computed once a sentence. Where a pretrained encoder
    has left its upper layers for that, they are the blocks, in which the words of `x` read each other.

    Arguments:
        encoder: pieces, and what is added to their embeddings, to states; it has a width `dim`.
        features: number of feature ids of words.
        tags: number of tags.
        heads: query heads of each block.
        hidden: width of each feed-forward.
        layers: blocks that run once for each predicate, where they are not the encoder's own.
        dropout: share of the entries dropped in training.
        kind: "attention", or "recurrent" for blocks without any.

    Raises:
        ConfigError: `kind` is neither of the two.

    >>> encoder = regard.nn.TextEncoder(100, dim=32, heads=4, hidden=64, layers=1)
    >>> model = RoleLabeller(encoder, features=50, tags=5, heads=4, hidden=64, layers=1, dropout=0.0)
    >>> pieces, starts = (regard.Packed(torch.tensor(ids), [0, len(ids)]) for ids in ([7, 8, 9], [0, 2]))
    >>> words = model(pieces, starts, torch.zeros(2, 3, dtype=torch.int64))
    >>> model.rows(words, regard.Packed(torch.tensor([1]), [0, 1])).values.shape
    torch.Size([2, 32])
    """

    def __init__(
        self,
        encoder: Any,
        *,
        features: int,
        tags: int,
        heads: int,
        hidden: int,
        layers: int,
        dropout: float,
        kind: str = "attention",
    ) -> None:
        super().__init__()
        dim = self.dim = int(encoder.dim)
        # The two tables of scores are embeddings: they belong to AdamW, not to the orthogonal steps of inner matrices.
        self.features = nn.Embedding(features, dim)
        self.finder = nn.Embedding(2, dim)
        self.distance = nn.Embedding(2 * REACH + 1, dim)
        self.predicate = nn.Linear(dim, dim, bias=False)
        layers = 0 if leaves_upper(encoder) else layers
        block: Any = known_kind(kind, {"attention": RowBlock, "recurrent": RecurrentRowBlock})
        self.blocks = nn.ModuleList(block(dim, heads, hidden, dropout=dropout) for _ in range(layers))
        self.norm = RMSNorm()
        self.tags = nn.Embedding(tags, dim)
        self.dropout = Dropout(dropout)
        self.rotary = Rotary(dim // heads)
        self.apply(initialize)
        self.encoder = encoder

    def forward(self, pieces: Packed, starts: Packed, features: Tensor) -> Packed:
        """States (W, dim) of words.

        Arguments:
            pieces: token ids (P,) of N sentences.
            starts: the position (W,) of each word's first piece within its sentence; each sentence's first is 0.
            features: (W, F) feature ids.
        """
        first = starts.values + torch.from_numpy(
            np.repeat(pieces.offsets[:-1].astype(np.int64), starts.lengths)
        )
        begins = torch.zeros(len(pieces.values), dtype=torch.int64)
        begins[first] = 1
        known = self.features(features).sum(1)
        states = self.encoder(pieces, known[begins.cumsum(0) - 1] * self.dim**0.5)
        return starts.with_values(states.values[first])

    def rows(self, words: Packed, predicates: Packed) -> Packed:
        """States (T, dim) from which `tags` are scored, one sequence for each predicate.

        Arguments:
            words: states (W, dim) of the words of N sentences.
            predicates: the positions (Q,) of their predicates within the sentences.
        """
        rows = Rows.of(words.offsets, predicates)
        of_row = torch.from_numpy(rows.words)
        centre = self.predicate(words.values[torch.from_numpy(rows.predicates)])
        lengths = torch.from_numpy(np.diff(rows.offsets))
        values, place = words.values[of_row], self.distance(torch.from_numpy(rows.distances)) * self.dim**0.5
        seen_from = place + centre.repeat_interleave(lengths, 0)
        if leaves_upper(self.encoder):
            x = self.encoder.together(Packed(values, rows.offsets), seen_from)
            return x.with_values(self.norm(x.values))
        x = Packed(self.dropout(values + seen_from), rows.offsets)
        turns = self.rotary(positions_of(words), words.values.dtype)
        for block in self.blocks:
            x = block(x, words, rows.sentences, turns, of_row)
        return x.with_values(self.norm(x.values))

    @property
    def meeting_places(self) -> tuple[nn.ModuleList, type[SelfAttention | CrossAttention]]:
        """What `regard.nn.watch` is to be given: the blocks in which words are read for a predicate, and by which kind of layer."""
        return (
            (self.encoder.upper, SelfAttention)
            if leaves_upper(self.encoder)
            else (self.blocks, CrossAttention)
        )

    def tag_scores(self, rows: Packed) -> Tensor:
        """States (T, dim) to the log-probabilities (T, tags) of tags."""
        return F.log_softmax(F.linear(rows.values, self.tags.weight).float(), dim=-1)
