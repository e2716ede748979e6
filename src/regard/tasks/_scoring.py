"""How well a language model foresees texts: the log-probability of every token, in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard._packed import Packed
from regard.data.texts import joined
from regard.data.windows import covering
from regard.decoding.continuation import token_log_p
from regard.metrics.language import nats_per_token
from regard.metrics.translation import Score
from regard.nn.language import LanguageModel
from regard.tasks._continuation import Likelihood, Passage
from regard.tasks._language import Language

TOGETHER = 8192  # tokens read at once
Window = tuple[int, int, int, int]  # number of the sequence, and as `covering` gives them


def window_lists(lengths: Sequence[int], context: int, stride: int, together: int) -> Iterator[list[Window]]:
    """Windows over texts of so many tokens, in lists of at most so many tokens."""
    held: list[Window] = []
    size = 0
    for number, length in enumerate(lengths):
        for begin, counted, end in covering(length - 1, context, stride):
            if held and size + end - begin > together:
                yield held
                held, size = [], 0
            held.append((number, begin, counted, end))
            size += end - begin
    if held:
        yield held


def shifted(windows: Sequence[Tensor]) -> tuple[Packed, Tensor]:
    """Windows of n + 1 tokens as the n that are read, packed, and the n that follow them, (total,)."""
    offsets = np.cumsum([0, *(len(one) - 1 for one in windows)])
    return Packed(torch.cat([one[:-1] for one in windows]), offsets), torch.cat([one[1:] for one in windows])


def read_windows(text: Packed, context: int) -> Iterator[tuple[Packed, Tensor]]:
    """Texts in windows that do not overlap, as `shifted` gives them; all at once where gradients are asked for."""
    sequences = text.unpack()
    together = int(text.offsets[-1]) if torch.is_grad_enabled() else TOGETHER
    for windows in window_lists(text.lengths.tolist(), context, context, together):
        yield shifted([sequences[number][begin : end + 1] for number, begin, _, end in windows])


def likelihoods(
    model: LanguageModel, language: Language, passages: Sequence[Passage], stride: int
) -> list[Likelihood]:
    """The likelihood of every passage; parts of a document that follow each other are read as one text."""
    texts: list[Tensor] = []
    owners: list[NDArray[np.int64]] = []  # the passage to which each token belongs
    first: list[int] = []  # characters of a text's first token, which nothing stands before
    units, passage = language.units, 0
    for parts in joined(passages):
        ids: list[int] = []
        owner: list[int] = []
        for part in parts:
            tokens = units.encode(part.text)
            ids += tokens
            owner += [passage] * len(tokens)
            passage += 1
        begins, ends = language.marks and parts[0].part == 0, language.marks and parts[-1].last
        first.append(0 if begins or not ids else len(units.decode(ids[:1])))
        texts.append(torch.tensor(language.marked(ids, begins=begins, ends=ends), dtype=torch.int64))
        owners.append(np.array([passage - len(parts)] * begins + owner + [passage - 1] * ends, np.int64))
    nats, counts = _bands(model, texts, owners, stride, len(passages))
    characters = [len(units.normalize(one.text)) for one in passages]
    for size, belongs in zip(first, owners, strict=True):
        if len(belongs):
            characters[belongs[0]] -= size
    bands = (tuple(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(nats, counts, strict=True))
    sums = zip(nats.sum(1).tolist(), counts.sum(1).tolist(), characters, bands, passages, strict=True)
    return [Likelihood(a, b, size, band, one.text, language.signature) for a, b, size, band, one in sums]


def _bands(
    model: LanguageModel, texts: Sequence[Tensor], owners: Sequence[Any], stride: int, count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Nats and tokens (passages, bands) by how many tokens a prediction could see: 1, 2 to 3, 4 to 7, ..."""
    bands = band_count(model.context)
    nats, counts = np.zeros((count, bands)), np.zeros((count, bands), np.int64)
    for windows in window_lists([len(text) for text in texts], model.context, stride, TOGETHER):
        before, after = shifted([texts[number][begin : end + 1] for number, begin, _, end in windows])
        log_p = token_log_p(model, model(before), after)
        # The predictions that count are the last of their window.
        places = [np.arange(counted - begin, end - begin) for _, begin, counted, end in windows]
        rows = np.concatenate([place + at for place, at in zip(places, before.offsets[:-1], strict=True)])
        owner = np.concatenate([owners[number][counted + 1 : end + 1] for number, _, counted, end in windows])
        band = np.frexp(np.concatenate(places) + 1.0)[1] - 1
        np.add.at(nats, (owner, band), -log_p[rows])
        np.add.at(counts, (owner, band), 1)
    return nats, counts


def band_count(context: int) -> int:
    """How many bands a context has: seen are 1, 2 to 3, 4 to 7, ... tokens."""
    return context.bit_length()


def by_position(predictions: Sequence[Likelihood]) -> list[Score]:
    """Nats per token of every band of every text, as rows."""
    return [nats_per_token([nats for one in predictions for nats, _ in one.bands], band_tokens(predictions))]


def band_tokens(predictions: Sequence[Likelihood]) -> list[int]:
    """How many tokens every band of every text has."""
    return [tokens for one in predictions for _, tokens in one.bands]
