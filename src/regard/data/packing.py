"""Lists of token ids as packed batches for PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from regard._packed import Packed

Encoded = Sequence[tuple[Any, ...]]
"""Examples as the streams of a task."""


def pack_ids(sequences: Sequence[Sequence[int]]) -> Packed:
    """The token ids of N sequences as one packed batch: values (total,), int64, and offsets (N + 1,).

    >>> pack_ids([[5, 6], [], [7]])
    Packed(values=tensor([5, 6, 7]), offsets=array([0, 2, 2, 3], dtype=int32))
    """
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences], dtype=np.int64)])
    return Packed(torch.tensor([token for ids in sequences for token in ids], dtype=torch.int64), offsets)


def pack_rows(sequences: Sequence[np.ndarray]) -> Packed:
    """N sequences of rows of bytes (length, width) as one packed batch: values (total, width), uint8.

    >>> pack_rows([np.zeros((2, 3), np.uint8), np.ones((1, 3), np.uint8)]).values.shape
    torch.Size([3, 3])
    """
    offsets = np.cumsum([0, *map(len, sequences)])
    return Packed(torch.from_numpy(np.concatenate(sequences)), offsets)


def pack_streams(examples: Sequence[tuple[Any, ...]], names: Sequence[str]) -> dict[str, Packed]:
    """One packed batch for each stream, of examples that hold the tokens of every stream in the order of `names`.

    Tokens are ids, or rows of bytes.

    >>> pack_streams([([5], [6, 7]), ([8], [9])], ("source", "target"))["target"].values
    tensor([6, 7, 9])
    """
    streams = zip(*examples, strict=True)
    return {
        name: pack_rows(tokens) if isinstance(tokens[0], np.ndarray) else pack_ids(tokens)
        for name, tokens in zip(names, streams, strict=True)
    }
