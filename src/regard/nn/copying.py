"""An encoder-decoder that can copy tokens of its source (a pointer-generator), in memory that grows with the tokens alone."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from regard._attention import attention
from regard._aux import Aux
from regard._packed import Packed
from regard.nn.chances import ROWS, Chances
from regard.nn.consistency import asked
from regard.nn.distillation import lesson
from regard.nn.linear import Linear, dtype_of_products
from regard.nn.norm import normalize
from regard.nn.transformer import EncoderDecoder, Shape

# Of the one head that says where to copy from: for what tokens mean, and for which one stands before.
STATE_DIM, TOKEN_DIM = 64, 32
SCALE = STATE_DIM**-0.5
EPS = 1e-6


class CopyingEncoderDecoder(EncoderDecoder):
    """An encoder-decoder whose next token comes from the vocabulary or from a place of the source.

    `p(y) = g softmax(vocabulary)[y] + (1 - g) sum over places s that hold y of softmax(copy scores)[s]`, where `g =
    sigmoid(state w + b)`, and the copy scores are those of one head of attention from the target to the source. Its queries and keys
    are `[state W_q, n(token W_b)]` and `[encoding W_k, c n(token before W_b)]`, n normalizing: what follows in the source a token
    that was just written is easily copied next. Source and target share one vocabulary: what is copied adds to the probability of
    the same id.

    Arguments:
        shape: the sizes.
        coverage: weight of a penalty, in training, for looking at a place again to copy from: `sum over t and s of min(a[t, s],
            sum over t' < t of a[t', s])`. It alone costs memory O(target x source) of each pair, for one head.

    Raises: as `EncoderDecoder`.

    Source: See et al. 2017, "Get To The Point: Summarization with Pointer-Generator Networks", with a head of its own to copy;
    that tokens are known by the ones before them is what induction heads learn (Olsson et al. 2022), given here from the start.

    >>> model = regard.nn.CopyingEncoderDecoder(regard.nn.Shape(vocabulary=100, dim=32))
    >>> source = regard.Packed(torch.arange(7), np.array([0, 3, 7]))
    >>> model.loss(source, source, source.values).shape
    torch.Size([])
    """

    def __init__(self, shape: Shape, coverage: float = 0.0) -> None:
        super().__init__(shape)
        self.coverage = coverage
        self.copy_query = Linear(shape.dim, STATE_DIM, bias=False)
        self.copy_key = Linear(shape.dim, STATE_DIM, bias=False)
        self.copy_token = Linear(shape.dim, TOKEN_DIM, bias=False)
        for layer in (self.copy_query, self.copy_key, self.copy_token):
            nn.init.xavier_uniform_(layer.weight)
        self.before = nn.Parameter(torch.ones(()))
        self.gate = nn.Parameter(torch.zeros(shape.dim))
        self.gate_bias = nn.Parameter(torch.zeros(()))

    def loss(self, source: Packed, target: Packed, following: Tensor, smoothing: float = 0.0) -> Tensor:
        """The summed cross-entropy of the mixture, as three log-sum-exps: no scores of all pairs or of the vocabulary are kept.

        `sum_t (1 - e) * -log p(y_t) + e * mean_v -log softmax(vocabulary)[v]`: the vocabulary's part alone is smoothed. Inside
        `consistent` and `taught` whole mixtures are compared, in blocks of rows, and sequences are gone through one by one.

        Arguments:
            source: token ids (total source,) of N sequences.
            target: token ids (total target,) that the decoder reads.
            following: (total target,) the token that follows each.
            smoothing: e, in [0, 1).
        """
        encoded = self.encode(source)
        states = self.decode(target, encoded)
        query = target.with_values(self.copy_queries(states, target.values))
        keys = self.copy_keys(encoded, source)
        chances = self.chances(states, query, keys, source)

        def truth() -> Tensor:
            log_vocabulary, log_mean = self._written(states, following)
            log_copy = self._copied(query.values, target, keys, source, following)
            gate = self.gate_logits(states)
            log_p = torch.logaddexp(F.logsigmoid(gate) + log_vocabulary, F.logsigmoid(-gate) + log_copy)
            loss = -((1 - smoothing) * log_p + smoothing * log_mean).sum()
            consistency = asked()
            return loss if consistency is None else consistency.of_blocks(loss, chances)

        now = lesson()
        loss = truth() if now is None else now.loss(truth, chances, states.new_zeros(()))
        if self.training and self.coverage:
            passes = 1 if asked() is None else 2  # two that are to agree count as one
            loss = loss + self.coverage / passes * repeated_looks(query, keys)
        return loss

    def chances(self, states: Tensor, query: Packed, keys: Packed, source: Packed) -> Chances:
        """The mixture of vocabulary and source, in blocks of rows of one sequence each.

        Arguments:
            states: (total target, dim) of N targets.
            query: (total target, D), what `copy_queries` gives.
            keys: (total source, D), what `copy_keys` gives.
            source: token ids (total source,) of N sequences.
        """
        blocks = [
            (number, slice(begin, min(begin + ROWS, int(end))))
            for number, (first, end) in enumerate(itertools.pairwise(query.offsets))
            for begin in range(int(first), int(end), ROWS)
        ]

        def log_p(block: int) -> Tensor:
            number, rows = blocks[block]
            places = slice(int(keys.offsets[number]), int(keys.offsets[number + 1]))
            scores = (query.values[rows] @ keys.values[places].mT).to(_summed_in(states)) * SCALE
            tokens = source.values[places].expand(len(scores), -1)
            return self.log_mixture(states[rows], torch.softmax(scores, -1), tokens)

        return Chances(len(blocks), log_p)

    def gate_logits(self, states: Tensor) -> Tensor:
        """States (..., dim) to the logits (...,) of taking the next token from the vocabulary."""
        return (states.to(self.gate.dtype) * self.gate).sum(-1) + self.gate_bias

    def copy_queries(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States (T, dim) of a target, and the tokens (T,) that were read for them, to the queries (T, D) of the copying head."""
        return torch.cat([self.copy_query(states), self._known_by(tokens)], -1)

    def copy_keys(self, encoded: Packed, source: Packed) -> Packed:
        """Encodings and token ids of N sources to the keys (total source, D) of the copying head."""
        before = self._known_by(source.values).roll(1, 0)
        starts = torch.from_numpy(source.offsets[:-1][source.lengths > 0].astype(np.int64))
        before = before.index_fill(0, starts.to(before.device), 0.0)  # nothing stands before the first
        return source.with_values(torch.cat([self.copy_key(encoded.values), before * self.before], -1))

    def copy_weights(self, query: Tensor, keys: Packed, read: Tensor) -> Tensor:
        """Weights (M, S) over the places of its source for each of M queries, padded with zeros to the longest one that is read.

        Arguments: `query` (M, D) is what `copy_queries` gives, `keys` what `copy_keys` gives; query m reads source `read[m]`.
        """
        key = keys.values.unsqueeze(-2)
        _, found = attention(
            query.unsqueeze(-2), key, key[..., :1], cu_seqlens_q=np.arange(len(query) + 1), cu_seqlens_k=keys.offsets,
            key_sequence=read, scale=SCALE, return_aux=Aux(rows=range(len(query))),
        )  # fmt: skip
        weights: Tensor = found.rows[:, 0]
        return weights

    def log_mixture(self, states: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        """The log p (M, vocabulary) of the next token, from states (M, dim) and copy weights (M, S) of places that hold `tokens` (M, S)."""
        dtype = _summed_in(states)
        share = torch.sigmoid(self.gate_logits(states).to(dtype)).unsqueeze(-1)
        p = share * torch.softmax(self.scores(states).to(dtype), -1)
        p = p.scatter_add_(-1, tokens, (1 - share) * weights.to(dtype))
        # Without a token in sight the logarithm's slope is infinite.
        return p.clamp_min(torch.finfo(dtype).tiny).log()

    def copied_shares(self, states: Tensor, weights: Tensor, source: Tensor, written: Tensor) -> Tensor:
        """(T,): how probable it is that the tokens `written` (T,) were copied and not taken from the vocabulary.

        Arguments: states (T, dim) of one target, copy weights (T, S), token ids `source` (S,) and `written` (T,).
        """
        tokens = source.expand(len(states), -1)
        log_p = self.log_mixture(states, weights, tokens).gather(-1, written.unsqueeze(-1)).squeeze(-1)
        copied = (weights * (tokens == written.unsqueeze(-1))).sum(-1)
        return copied * torch.sigmoid(-self.gate_logits(states)) / log_p.exp()

    def _known_by(self, tokens: Tensor) -> Tensor:
        return normalize(self.copy_token(self.embedding(tokens)), EPS)

    def _written(self, states: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """The log softmax(vocabulary) of the tokens that follow, and its mean over the vocabulary."""
        dtype = dtype_of_products(states)
        table, rows = self.embedding.weight.to(dtype), states.to(dtype)
        # The vocabulary is a sequence of keys that every state reads.
        normalizer = _log_sum_exp(rows, table, [0, len(rows)], [0, len(table)], scale=1.0)
        wide = normalizer.dtype
        hit = (rows.to(wide) * table[following].to(wide)).sum(-1)
        mean = (rows.to(wide) * table.to(wide).mean(0)).sum(-1)
        return hit - normalizer, mean - normalizer

    def _copied(
        self, query: Tensor, target: Packed, keys: Packed, source: Packed, following: Tensor
    ) -> Tensor:
        """The log of the weight of all places that hold the token that follows; -inf where none does."""
        key = keys.values
        order, offsets, groups = equal_places(
            source, target.with_values(following), self.embedding.num_embeddings
        )
        everywhere = _log_sum_exp(query, key, target.offsets, source.offsets, scale=SCALE)
        begins = np.arange(len(query) + 1)
        sorted_key = key[torch.from_numpy(order).to(key.device)]
        there = _log_sum_exp(query, sorted_key, begins, offsets, groups, scale=SCALE)
        return there - everywhere.masked_fill(
            everywhere == -torch.inf, 0.0
        )  # of an empty source nothing is copied


def equal_places(
    source: Packed, target: Packed, vocabulary: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the source of each target token holds the same id: the source's places sorted into groups of one sequence and one id.

    So "the places that hold my id" is a key sequence like any other, and costs what it holds.

    Arguments:
        source: token ids (total source,) of N sequences, each below `vocabulary`.
        target: token ids (total target,) of N sequences.
        vocabulary: the number of ids.

    Returns:
        order (total source,) of the places, offsets (G + 2,) of the groups, the last of which is empty, and the group
        (total target,) of each target token, the empty one where its source has no such id.

    >>> equal_places(regard.Packed(torch.tensor([5, 3, 5, 3]), [0, 3, 4]), regard.Packed(torch.tensor([5, 5]), [0, 1, 2]), 9)
    (array([1, 0, 2, 3]), array([0, 1, 3, 4, 4]), array([1, 3]))
    """
    ours, theirs = (
        np.repeat(np.arange(len(packed)), packed.lengths) * vocabulary + packed.values.cpu().numpy()
        for packed in (source, target)
    )
    order = np.argsort(ours, kind="stable")
    ids, begins = np.unique(ours[order], return_index=True)
    groups = np.searchsorted(ids, theirs)
    known = groups < len(ids)
    known[known] = ids[groups[known]] == theirs[known]
    return order, np.append(begins, [len(order)] * 2), np.where(known, groups, len(ids))


def repeated_looks(query: Packed, key: Packed) -> Tensor:
    """`sum over t and s of min(a[t, s], sum over t' < t of a[t', s])` of each pair of sequences, a their attention weights.

    A plain formula with all weights of a pair, one pair after the other.

    Arguments: `query` (total, D) and `key` (total, D) of N sequences each.

    Source: See et al. 2017, equation 12; the scores themselves do not see what was looked at before.
    """
    total = query.values.new_zeros((), dtype=torch.float32)
    for rows, places in zip(query.unpack(), key.unpack(), strict=True):
        if len(rows) > 1 and len(places):
            weights = torch.softmax((rows @ places.mT).float() * SCALE, -1)
            total = total + torch.minimum(weights[1:], weights[:-1].cumsum(0)).sum()
    return total


def _summed_in(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


def _log_sum_exp(
    query: Tensor,
    key: Tensor,
    query_offsets: object,
    key_offsets: object,
    key_sequence: object = None,
    *,
    scale: float,
) -> Tensor:
    """(T,): of each query's scores with the keys of its sequence."""
    query, key = query.unsqueeze(-2), key.unsqueeze(-2)
    _, found = attention(
        query, key, key[..., :1], cu_seqlens_q=query_offsets, cu_seqlens_k=key_offsets,
        key_sequence=key_sequence, scale=scale, return_aux=Aux(lse=True),
    )  # fmt: skip
    lse: Tensor = found.lse[:, 0]
    return lse
