"""What single tokens and pairs of neighbours say by themselves, wherever they stand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._packed import Packed

NUMBERS = 1 << 18  # in the table of pairs, however many labels share it
FACTORS = (2654435761, 2246822519)  # odd, from xxHash: ids of tokens are small, their products spread


class NgramBag(nn.Module):
    """A linear model of a text's tokens and pairs of neighbouring tokens, in packed form (Joulin et al. 2016).

    `scores = sum_g table[g] / sqrt(number of g)` over tokens and pairs. Pairs share rows of a table by a hash. Of few texts such a model learns
    sooner than attention which words tell; it begins at zero, so that beside another model it adds what that lacks. A sequence of no tokens gives zeros.

    Arguments:
        vocabulary: number of token ids.
        labels: scores of a sequence.

    Raises:
        ConfigError: one of them is below 1.

    >>> bag = regard.nn.NgramBag(100, labels=3)
    >>> bag(regard.Packed(torch.arange(7), np.array([0, 3, 7]))).shape
    torch.Size([2, 3])
    """

    def __init__(self, vocabulary: int, labels: int) -> None:
        super().__init__()
        if min(vocabulary, labels) < 1:
            raise ConfigError(
                f"expected a vocabulary and labels of at least 1. Received {vocabulary} and {labels}."
            )
        self.tokens = nn.Parameter(torch.zeros(vocabulary, labels))
        self.pairs = nn.Parameter(torch.zeros(max(1, NUMBERS // labels), labels))

    def forward(self, x: Packed) -> Tensor:
        """Token ids (total,) of N sequences to scores (N, labels)."""
        starts = torch.from_numpy(x.offsets[:-1]).long()
        lengths = torch.from_numpy(x.lengths).long()
        scores = F.embedding_bag(x.values.long(), self.tokens, starts, mode="sum")
        pairs = (lengths - 1).clamp(min=0)
        scores = scores + F.embedding_bag(
            _pairs(x, len(self.pairs)), self.pairs, pairs.cumsum(0) - pairs, mode="sum"
        )
        return scores / (lengths + pairs).clamp(min=1).sqrt().unsqueeze(-1)


def _pairs(x: Packed, rows: int) -> Tensor:
    """The rows of all neighbours within a sequence, in order."""
    first, second = x.values[:-1].long(), x.values[1:].long()
    mixed = (first * FACTORS[0]) ^ (second * FACTORS[1])
    inside = torch.ones(len(mixed), dtype=torch.bool)
    ends = torch.from_numpy(x.offsets[1:-1]).long() - 1
    inside[ends[(ends >= 0) & (ends < len(inside))]] = False
    return (mixed[inside] >> 12) % rows
