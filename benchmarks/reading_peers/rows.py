"""Rows of numbers as padded tensors, and the parts of like length in which they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reading_peers.vocabulary import Vocabulary

Ids = NDArray[np.int32]


def ids(numbers: Sequence[int]) -> Ids:
    """Numbers in four bytes each: a list would hold tens of bytes for each of some millions."""
    return np.array(numbers, np.int32)


def stacked(rows: Sequence[Ids], fill: int) -> Tensor:
    """(rows, longest): padded at the end."""
    out = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return torch.from_numpy(out)


def mask(rows: Sequence[Ids]) -> Tensor:
    """(rows, longest): 1 where a row is, 0 where it is padded."""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()


def batch(vocabulary: Vocabulary, rows: Sequence[Any]) -> dict[str, Tensor]:
    """What a model of the vocabulary is given of rows that have `ids` and `types`."""
    column = [row.ids for row in rows]
    types = {"token_type_ids": stacked([row.types for row in rows], 0)} if vocabulary.typed else {}
    return {"input_ids": stacked(column, vocabulary.pad), "attention_mask": mask(column), **types}


def parts(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The numbers of all rows, those of like length together, at most `tokens` a part with padding."""
    part: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if part and (len(part) + 1) * lengths[number] > tokens:
            yield part
            part = []
        part.append(number)
    if part:
        yield part
