"""Lists of token ids as packed batches for PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from regard._packed import Packed


def pack_ids(sequences: Sequence[Sequence[int]]) -> Packed:
    """The token ids of N sequences as one packed batch: values (total,), int64, and offsets (N + 1,).

    >>> pack_ids([[5, 6], [], [7]])
    Packed(values=tensor([5, 6, 7]), offsets=array([0, 2, 2, 3], dtype=int32))
    """
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences], dtype=np.int64)])
    return Packed(torch.tensor([token for ids in sequences for token in ids], dtype=torch.int64), offsets)


def pack_streams(examples: Sequence[tuple[Sequence[int], ...]], names: Sequence[str]) -> dict[str, Packed]:
    """One packed batch for each stream, of examples that hold the token ids of every stream in the order of `names`.

    >>> pack_streams([([5], [6, 7]), ([8], [9])], ("source", "target"))["target"].values
    tensor([6, 7, 9])
    """
    return {name: pack_ids(ids) for name, ids in zip(names, zip(*examples, strict=True), strict=True)}
