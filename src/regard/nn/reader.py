"""Questions read together with passages: the model of extractive question answering, and its scores of spans.

Shape letters: X texts, P their tokens, R readings, T tokens of passages over all readings, L the longest span, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from regard._errors import ShapeError
from regard._packed import Packed
from regard.nn._sequences import positions_of, values_of
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.blocks import EncoderBlock
from regard.nn.consistency import asked as consistency_asked
from regard.nn.encoder import initialize
from regard.nn.feedforward import Dropout
from regard.nn.norm import RMSNorm
from regard.nn.pretrained_reader import leaves_upper
from regard.nn.recurrent import RecurrentEncoderBlock, known_kind
from regard.nn.residual import Stream
from regard.nn.rotary import Rotary

RANK = 32  # of the score between a beginning and an end


@dataclass(frozen=True)
class SpanScores:
    """Unnormalized scores: of every span of every reading, and of there being no answer in it.

    Attributes:
        spans: (T, L), of the span that begins at token t and has l + 1 tokens; -inf where it would leave its reading.
        offsets: (R + 1,): reading r has the rows from `offsets[r]` to `offsets[r + 1]`.
        nothing: (R,), or None for a model that always answers.
    """

    spans: Tensor
    offsets: NDArray[np.int64]
    nothing: Tensor | None


class MeetingBlock(EncoderBlock):
    """An encoder block in which each text of a reading attends to the other one, and not to itself.

    It has as many parameters as `EncoderBlock`. Source: Seo et al. 2017, "Bidirectional Attention Flow for Machine Comprehension".
    """

    def __init__(self, dim: int, heads: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, hidden, dropout=dropout)
        self.attention = CrossAttention(dim, heads, qk_norm=True)  # type: ignore[assignment]

    def forward(self, x: Packed) -> Packed:  # type: ignore[override]
        """States (T, dim) of 2R texts, of which each even one and the next belong together, in and out."""
        stream, inside = Stream.of(x).normalized(self.attention_norm)
        found = self.attention(inside, inside, key_sequence=np.arange(len(x)) ^ 1)
        return self._feed(stream.add(values_of(found), self.dropout)).like(x)


class PassageReader(nn.Module):
    """Encodes questions and passages by themselves, each once, then reads each question together with passages.

    A reading is the states of a question and those of a passage, one after the other, plus an embedding of what the two have in
    common, through a few blocks in which every token sees both. The score of a span is `s_i + e_j + <a_i, c_j> + b_(j-i)`, with
    its last two terms the end given the beginning, and the length.

    Where a pretrained encoder has left its upper layers for that, these are the blocks.

    The recurrent control attends as well where the two meet, as a recurrent decoder does to its source: in the first block
    every token sees the other text, and in those above it LSTMs read question and passage from end to end.

    Arguments:
        encoder: token ids, and what is added to their embeddings, to states; it has a width `dim`.
        spellings: how many numbers say what a token looks like.
        parts: (C, F) integers: the embeddings whose sum each code of a token in a reading stands for.
        heads: query heads of each block.
        hidden: width of each feed-forward.
        layers: blocks that run once for each reading, where they are not the encoder's own.
        longest: the most tokens of a span.
        dropout: share of the entries dropped in training.
        abstains: whether there may be no answer.
        kind: "attention", or "recurrent" for LSTMs of as many parameters in all blocks but the first.

    Raises:
        ConfigError: `kind` is neither of the two.

    >>> encoder = regard.nn.TextEncoder(100, dim=32, heads=4, hidden=64, layers=1)
    >>> model = PassageReader(encoder, spellings=5, parts=[[0], [1]], heads=4, hidden=64, layers=1, longest=2)
    >>> texts = regard.Packed(torch.arange(8), np.array([0, 3, 5, 8]))  # two passages and a question
    >>> scores = model(texts, torch.zeros(8, dtype=torch.int64), [[2, 0], [2, 1]], torch.zeros(11, dtype=torch.int64))
    >>> scores.spans.shape, scores.offsets
    (torch.Size([5, 2]), array([0, 3, 5]))
    """

    table: Tensor

    def __init__(
        self,
        encoder: Any,
        *,
        spellings: int,
        parts: Any,
        heads: int,
        hidden: int,
        layers: int,
        longest: int,
        dropout: float = 0.0,
        abstains: bool = False,
        kind: str = "attention",
    ) -> None:
        super().__init__()
        self.dim, self.longest = encoder.dim, longest
        # Tables and scores are embeddings: they belong to AdamW, not to the orthogonal steps of inner matrices.
        table = torch.as_tensor(np.asarray(parts), dtype=torch.int64)
        self.register_buffer("table", table, persistent=False)
        self.spelling = nn.Embedding(spellings, self.dim)
        self.common = nn.Embedding(int(table.max()) + 1, self.dim)
        block: Any = known_kind(kind, {"attention": EncoderBlock, "recurrent": RecurrentEncoderBlock})
        layers = 0 if leaves_upper(encoder) else layers
        meets = kind == "recurrent" and layers > 0
        self.meeting = MeetingBlock(self.dim, heads, hidden, dropout=dropout) if meets else None
        self.blocks = nn.ModuleList(
            block(self.dim, heads, hidden, dropout=dropout) for _ in range(layers - meets)
        )
        self.norm = RMSNorm()
        self.rotary = Rotary(self.dim // heads)
        self.dropout = Dropout(dropout)
        self.ends = nn.Embedding(2, self.dim)
        self.pair = nn.Linear(self.dim, 2 * RANK, bias=False)
        self.lengths = nn.Embedding(longest, 1)
        self.none = nn.Embedding(1, self.dim) if abstains else None
        # How probable it must be that there is no answer, fitted on dev data; below 0: more so than any span.
        self.threshold = nn.Parameter(torch.full((), -1.0), requires_grad=False) if abstains else None
        self.apply(initialize)
        nn.init.zeros_(self.lengths.weight)
        self.encoder = encoder

    def forward(self, texts: Packed, spellings: Tensor, readings: Any, codes: Tensor) -> SpanScores:
        """Scores of all spans of all readings.

        Arguments:
            texts: token ids (P,) of X texts, questions and passages in any order.
            spellings: (P,) integers.
            readings: (R, 2) integers: for each reading the numbers of its question and its passage.
            codes: (question and passage tokens of all readings,) integers, rows of `parts`.

        Raises:
            ShapeError: there is not a code for each token of each reading.
        """
        pairs = np.asarray(readings, np.int64).reshape(-1, 2)
        begins, lengths = texts.offsets.astype(np.int64)[pairs], texts.lengths.astype(np.int64)[pairs]
        if len(codes) != lengths.sum():
            raise ShapeError(f"expected a code for each of {lengths.sum()} tokens. Received {len(codes)}.")
        encoded = self.encoder(texts, self.spelling(spellings) * self.dim**0.5)
        rows = torch.from_numpy(ragged(begins.ravel(), lengths.ravel()))
        common = F.embedding_bag(self.table[codes], self.common.weight, mode="sum") * self.dim**0.5
        x = self._together(encoded.values[rows], common, lengths)
        with torch.autocast(x.values.device.type, enabled=False):
            begins = x.offsets[:-1].astype(np.int64) + lengths[:, 0]
            return self._scores(self.norm(x.values).float(), begins, lengths[:, 1])

    def _together(self, states: Tensor, common: Tensor, lengths: NDArray[np.int64]) -> Packed:
        """States of questions and passages through the blocks in which they meet; `lengths` (R, 2) are those of both."""
        offsets = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])
        if leaves_upper(self.encoder):
            together: Packed = self.encoder.together(Packed(states, offsets), common)
            return together
        values = self.dropout(states + common)
        if self.meeting is not None:
            texts = Packed(values, np.concatenate([[0], np.cumsum(lengths)]))
            values = self.meeting(texts).values
        x = Packed(values, offsets)
        turns = self.rotary(positions_of(x), x.values.dtype)
        for block in self.blocks:
            x = block(x, turns=turns)
        return x

    @property
    def meeting_places(self) -> tuple[nn.Module, type[SelfAttention | CrossAttention]]:
        """What `regard.nn.watch` is to be given: where questions look at passages, and by which kind of layer."""
        if leaves_upper(self.encoder):
            return self.encoder.upper, SelfAttention
        return (self.blocks, SelfAttention) if self.meeting is None else (self.meeting, CrossAttention)

    def _scores(self, states: Tensor, begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> SpanScores:
        passages = states[torch.from_numpy(ragged(begins, lengths))]
        starts, stops = F.linear(passages, self.ends.weight).unbind(1)
        forward, backward = self.pair(passages).split(RANK, 1)
        # One product for both terms in which the end has a part: (T, 1, RANK + 1) by (T, RANK + 1, L).
        left = torch.cat([forward * RANK**-0.5, torch.ones_like(starts)[:, None]], 1)
        right = F.pad(torch.cat([backward, stops[:, None]], 1), (0, 0, 0, self.longest))
        ends = torch.bmm(left.unsqueeze(1), right.unfold(0, self.longest, 1)[: len(passages)]).squeeze(1)
        scores = ends + starts[:, None] + self.lengths.weight[:, 0]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        left_over = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
        outside = np.arange(self.longest) >= left_over[:, None]
        spans = scores.masked_fill(torch.from_numpy(outside), -torch.inf)
        # The last token of a question is its end, which sees the passage and is no word: what is absent is read there.
        nothing = None if self.none is None else states[torch.from_numpy(begins - 1)] @ self.none.weight[0]
        return SpanScores(spans, offsets, nothing)


def ragged(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers `begins[n], begins[n] + 1, ...`, `lengths[n]` of them, for every n.

    >>> ragged(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(begins - before, lengths)


def span_loss(scores: SpanScores, asked: Any, golds: Any, smoothing: float = 0.0, *, row: Any) -> Tensor:
    """The loss of questions, `-log sum_(gold spans) p(span)`, summed; p is normalized over all readings of a question.

    With smoothing e: `(1 - e) * loss + e * mean_(all spans) -log p`. Questions without a gold are left out.
    Source: Clark and Gardner 2018, "Simple and Effective Multi-Paragraph Reading Comprehension" (shared normalization, summed golds).

    Arguments:
        scores: of R readings.
        asked: (R,) integers: the question of each reading, counted from 0.
        golds: (G, 2) integers: a reading and the tokens of the span, 0 of which say that there is no answer.
        smoothing: in [0, 1).
        row: (G,) integers: the row of `scores.spans` at which each gold begins; ignored where there is no answer.
    """
    questions = torch.as_tensor(np.asarray(asked, np.int64))
    count = int(questions.max()) + 1 if len(questions) else 0
    of_row = questions.repeat_interleave(torch.from_numpy(np.diff(scores.offsets)))
    every = [scores.spans.logsumexp(1)]
    places = [of_row]
    reading, length = np.asarray(golds, np.int64).reshape(-1, 2).T
    here = length > 0
    starts = torch.from_numpy(np.asarray(row, np.int64)[here])
    gold = [scores.spans[starts, torch.from_numpy(length[here] - 1)]]
    gold_places = [questions[torch.from_numpy(reading[here])]]
    if scores.nothing is not None:
        every.append(absent(scores.nothing, questions, count))
        places.append(torch.arange(count))
        silent = questions[torch.from_numpy(reading[~here])]
        gold.append(every[1][silent])
        gold_places.append(silent)
    kept, numbers = torch.unique(torch.cat(gold_places), return_inverse=True)
    whole = segment_logsumexp(torch.cat(every), torch.cat(places), count)
    loss = (whole[kept] - segment_logsumexp(torch.cat(gold), numbers, len(kept))).sum()
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing * (whole - _mean_scores(scores, of_row, count))[kept].sum()
    if (consistency := consistency_asked()) is None:
        return loss
    chances = [scores.spans - whole[of_row][:, None], *(found - whole for found in every[1:])]
    return consistency.of_chances(loss, *chances)


def _mean_scores(scores: SpanScores, of_row: Tensor, count: int) -> Tensor:
    """(count,): the mean score of the spans of each question."""
    valid = torch.isfinite(scores.spans)
    room = torch.zeros(count, dtype=scores.spans.dtype)
    sums = room.index_add(0, of_row, torch.where(valid, scores.spans, 0.0).sum(1))
    sizes = room.index_add(0, of_row, valid.sum(1).to(room.dtype))
    return sums / sizes


def absent(nothing: Tensor, questions: Tensor, count: int) -> Tensor:
    """The score of each question that no reading answers it: the mean over its readings."""
    sums = torch.zeros(count, dtype=nothing.dtype).index_add(0, questions, nothing)
    return sums / torch.bincount(questions, minlength=count)


def segment_logsumexp(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """(count,): `log sum exp` of the values (N,) of each segment, -inf where there is none.

    >>> segment_logsumexp(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 0, 1]), 2)
    tensor([1.6931, 2.0000])
    """
    lowest = torch.full((count,), -torch.inf, dtype=values.dtype)
    peaks = lowest.scatter_reduce(0, segments, values.detach(), "amax")
    total = torch.zeros_like(peaks).index_add(0, segments, torch.exp(values - peaks[segments]))
    return peaks + total.log()
