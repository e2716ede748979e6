"""An encoder-decoder that can copy tokens of its source (a pointer-generator), in memory that grows with the tokens alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from regard._attention import attention
from regard._aux import Aux
from regard._packed import Packed
from regard.nn.linear import Linear, dtype_of_products
from regard.nn.transformer import EncoderDecoder, Shape

COPY_DIM = 64  # of the one head that says where to copy from


class CopyingEncoderDecoder(EncoderDecoder):
    """An encoder-decoder whose next token comes from the vocabulary or from a place of the source.

    `p(y) = g softmax(vocabulary)[y] + (1 - g) sum over places s that hold y of softmax(copy scores)[s]`, where `g =
    sigmoid(state w + b)`, and the copy scores are those of one head of attention from the target's states to the source's.
    Source and target share one vocabulary: what is copied adds to the probability of the same id.

    Arguments:
        shape: the sizes.
        coverage: weight of a penalty, in training, for looking at a place again to copy from: `sum over t and s of min(a[t, s],
            sum over t' < t of a[t', s])`. It alone costs memory O(target x source) of each pair, for one head.

    Raises: as `EncoderDecoder`.

    Source: See et al. 2017, "Get To The Point: Summarization with Pointer-Generator Networks", with a head of its own to copy.

    >>> model = regard.nn.CopyingEncoderDecoder(regard.nn.Shape(vocabulary=100, dim=32))
    >>> source = regard.Packed(torch.arange(7), np.array([0, 3, 7]))
    >>> model.loss(source, source, source.values).shape
    torch.Size([])
    """

    def __init__(self, shape: Shape, coverage: float = 0.0) -> None:
        super().__init__(shape)
        self.coverage = coverage
        self.copy_query = Linear(shape.dim, COPY_DIM, bias=False)
        self.copy_key = Linear(shape.dim, COPY_DIM, bias=False)
        for layer in (self.copy_query, self.copy_key):
            nn.init.xavier_uniform_(layer.weight)
        self.gate = nn.Parameter(torch.zeros(shape.dim))
        self.gate_bias = nn.Parameter(torch.zeros(()))

    def loss(self, source: Packed, target: Packed, following: Tensor, smoothing: float = 0.0) -> Tensor:
        """The summed cross-entropy of the mixture, as three log-sum-exps: no scores of all pairs or of the vocabulary are kept.

        `sum_t (1 - e) * -log p(y_t) + e * mean_v -log softmax(vocabulary)[v]`: the vocabulary's part alone is smoothed.

        Arguments:
            source: token ids (total source,) of N sequences.
            target: token ids (total target,) that the decoder reads.
            following: (total target,) the token that follows each.
            smoothing: e, in [0, 1).
        """
        encoded = self.encode(source)
        states = self.decode(target, encoded)
        log_vocabulary, log_mean = self._written(states, following)
        query, keys = self.copy_query(states), source.with_values(self.copy_key(encoded.values))
        log_copy = self._copied(query, target, keys, source, following)
        gate = self.gate_logits(states)
        log_p = torch.logaddexp(F.logsigmoid(gate) + log_vocabulary, F.logsigmoid(-gate) + log_copy)
        loss = -((1 - smoothing) * log_p + smoothing * log_mean).sum()
        if self.training and self.coverage:
            loss = loss + self.coverage * repeated_looks(target.with_values(query), keys)
        return loss

    def gate_logits(self, states: Tensor) -> Tensor:
        """States (..., dim) to the logits (...,) of taking the next token from the vocabulary."""
        return (states.to(self.gate.dtype) * self.gate).sum(-1) + self.gate_bias

    def copy_weights(self, states: Tensor, keys: Packed, read: Tensor) -> Tensor:
        """Weights (M, S) over the places of its source for each of M states (M, dim), padded with zeros to the longest one that is read.

        Arguments: `keys` holds `copy_key` of N sources, (total source, dim of the head); state m reads source `read[m]`.
        """
        query, key = self.copy_query(states).unsqueeze(-2), keys.values.unsqueeze(-2)
        rows = Aux(rows=range(len(states)))
        begins = np.arange(len(states) + 1)
        _, found = attention(
            query, key, key[..., :1], cu_seqlens_q=begins, cu_seqlens_k=keys.offsets, key_sequence=read,
            return_aux=rows,
        )  # fmt: skip
        weights: Tensor = found.rows[:, 0]
        return weights

    def log_mixture(self, states: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        """log p (M, vocabulary) of the next token, from states (M, dim) and copy weights (M, S) of places that hold `tokens` (M, S)."""
        share = torch.sigmoid(self.gate_logits(states).float()).unsqueeze(-1)
        p = share * torch.softmax(self.scores(states).float(), -1)
        return p.scatter_add_(-1, tokens, (1 - share) * weights.to(p.dtype)).log()

    def copied_shares(self, states: Tensor, weights: Tensor, source: Tensor, written: Tensor) -> Tensor:
        """(T,): how probable it is that the tokens `written` (T,) were copied and not taken from the vocabulary.

        Arguments: states (T, dim) of one target, copy weights (T, S), token ids `source` (S,) and `written` (T,).
        """
        tokens = source.expand(len(states), -1)
        log_p = self.log_mixture(states, weights, tokens).gather(-1, written.unsqueeze(-1)).squeeze(-1)
        copied = (weights * (tokens == written.unsqueeze(-1))).sum(-1)
        return copied * torch.sigmoid(-self.gate_logits(states)) / log_p.exp()

    def _written(self, states: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """log softmax(vocabulary) of the tokens that follow, and its mean over the vocabulary."""
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
        """log of the weight of all places that hold the token that follows; -inf where none does."""
        key = keys.values
        order, offsets, groups = equal_places(
            source, target.with_values(following), self.embedding.num_embeddings
        )
        everywhere = _log_sum_exp(query, key, target.offsets, source.offsets)
        begins = np.arange(len(query) + 1)
        there = _log_sum_exp(query, key[torch.from_numpy(order).to(key.device)], begins, offsets, groups)
        return there - everywhere.masked_fill(everywhere == -torch.inf, 0.0)  # of an empty source nothing is copied


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
            weights = torch.softmax((rows @ places.mT).float() / rows.shape[-1] ** 0.5, -1)
            total = total + torch.minimum(weights[1:], weights[:-1].cumsum(0)).sum()
    return total


def _log_sum_exp(
    query: Tensor,
    key: Tensor,
    query_offsets: object,
    key_offsets: object,
    key_sequence: object = None,
    scale: float | None = None,
) -> Tensor:
    """(T,): of each query's scores with the keys of its sequence."""
    query, key = query.unsqueeze(-2), key.unsqueeze(-2)
    _, found = attention(
        query, key, key[..., :1], cu_seqlens_q=query_offsets, cu_seqlens_k=key_offsets,
        key_sequence=key_sequence, scale=scale, return_aux=Aux(lse=True),
    )  # fmt: skip
    lse: Tensor = found.lse[:, 0]
    return lse
