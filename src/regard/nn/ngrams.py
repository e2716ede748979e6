"""Which tokens and pairs of neighbours a text has, and what each says by itself, wherever it stands."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._packed import Packed

NUMBERS = 1 << 18  # in the rows of pairs, however many labels share them
FACTORS = (2654435761, 2246822519)  # odd, from xxHash: ids of tokens are small, their products spread


class NgramBag(nn.Module):
    """A linear model of which tokens and pairs of neighbouring tokens a text has, in packed form (Joulin et al. 2016).

    `scores = sum_g table[g] / sqrt(number of g)` over the different tokens and pairs `g`: how often one comes tells little, that it comes
    tells much. Pairs share rows of the table by a hash. Of few texts such a model learns sooner than attention which words tell; it
    begins at zero, so that beside another model it adds what that lacks. A sequence of no tokens gives zeros.

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
        self.vocabulary, self.hashed = vocabulary, max(1, NUMBERS // labels)
        self.table = nn.Parameter(torch.zeros(vocabulary + self.hashed, labels))

    def forward(self, x: Packed) -> Tensor:
        """Token ids (total,) of N sequences to scores (N, labels)."""
        owners = torch.from_numpy(np.repeat(np.arange(len(x)), x.lengths))
        tokens = x.values.long()
        paired = owners[:-1] == owners[1:]
        pairs = self.vocabulary + _hashed(tokens[:-1], tokens[1:])[paired] % self.hashed
        size = len(self.table)
        found = torch.cat([owners * size + tokens, owners[:-1][paired] * size + pairs]).unique()
        counts = torch.bincount(found // size, minlength=len(x))
        scores = F.embedding_bag(found % size, self.table, counts.cumsum(0) - counts, mode="sum")
        return scores / counts.clamp(min=1).sqrt().unsqueeze(-1)


def _hashed(first: Tensor, second: Tensor) -> Tensor:
    return ((first * FACTORS[0]) ^ (second * FACTORS[1])) >> 12
