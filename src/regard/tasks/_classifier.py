"""The model of a classifier: an encoder, a query that reads what it gives, a score for each label, and of texts a bag of n-grams beside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard._packed import Packed
from regard.nn.feedforward import Dropout
from regard.nn.ngrams import NgramBag
from regard.nn.norm import RMSNorm
from regard.nn.pooling import AttentionPool


class Classifier(nn.Module):
    """`scores = head(norm(pool(encoder(x)))) / T_0 + ngrams(x) / T_1`, with `temperatures` T and a `threshold` that are fitted on dev data.

    Arguments:
        encoder: gives `Packed` states (total, dim); with an attribute `dim`.
        heads: of the pooling query.
        labels: how many there are.
        dropout: share of the pooled state dropped in training.
        vocabulary: of texts the number of token ids, for the bag of n-grams; None: there is none.
    """

    def __init__(
        self, encoder: Any, heads: int, labels: int, dropout: float, vocabulary: int | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = AttentionPool(encoder.dim, heads)
        self.norm = RMSNorm()
        self.dropout = Dropout(dropout)
        self.head = nn.Parameter(
            torch.zeros(labels, encoder.dim)
        )  # no layer: Muon would make its rows orthogonal
        self.bias = nn.Parameter(torch.zeros(labels))
        self.ngrams = None if vocabulary is None else NgramBag(vocabulary, labels)
        self.temperatures = nn.Parameter(torch.ones(1 if vocabulary is None else 2), requires_grad=False)
        self.threshold = nn.Parameter(torch.full((), 0.5), requires_grad=False)

    def forward(self, *inputs: Any) -> Tensor:
        """What the encoder takes, of N sequences, to scores (N, labels), in the weights' own precision."""
        return torch.tensordot(1 / self.temperatures, torch.stack(self.opinions(*inputs)), 1)

    def opinions(self, *inputs: Any) -> list[Tensor]:
        """The scores of what reads with attention, and of texts those of the bag of n-grams, which training judges one by one.

        Judged by their sum alone, what learns the training data by heart first would leave the other nothing to learn.
        """
        states: Packed = self.encoder(*inputs)
        with torch.autocast(self.head.device.type, enabled=False):
            pooled = self.norm(self.pool(states.with_values(states.values.to(self.head.dtype))))
            scores = self.dropout(pooled) @ self.head.mT + self.bias
            return [scores] if self.ngrams is None else [scores, self.ngrams(inputs[0])]
