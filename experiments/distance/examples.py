"""What both models are asked: tokens, the places where an answer is wanted, and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard import Packed


class Example(NamedTuple):
    """Token ids, the positions whose states are asked, and the label expected at each."""

    tokens: list[int]
    asked: list[int]
    labels: list[int]


class Batch(NamedTuple):
    """Examples packed: token ids, the rows that are asked (Q,), their labels (Q,) and how many each example asks (N,)."""

    tokens: Packed
    rows: Tensor
    labels: Tensor
    counts: np.ndarray


def pack(examples: Sequence[Example]) -> Batch:
    """One batch, without padding."""
    offsets = np.cumsum([0, *(len(one.tokens) for one in examples)])
    tokens = torch.tensor([token for one in examples for token in one.tokens])
    rows = [begin + place for begin, one in zip(offsets[:-1], examples, strict=True) for place in one.asked]
    labels = [label for one in examples for label in one.labels]
    counts = np.array([len(one.asked) for one in examples])
    return Batch(Packed(tokens, offsets), torch.tensor(rows), torch.tensor(labels), counts)
