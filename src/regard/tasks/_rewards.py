"""Training on the score itself: captions are drawn from the model, and made likelier the better they are than their fellows.

Self-critical training (Rennie et al. 2017) with the mean of the other samples as the baseline (Luo 2020): of K captions drawn for a
picture, caption k has the advantage `r_k - mean_{j != k} r_j`, and the loss is `-sum_k advantage_k * log p(caption_k) / K`. The
reward r is CIDEr-D of pieces, the end counted as one, so that captions that break off are worth less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from regard._packed import Packed
from regard.data.packing import pack_ids
from regard.metrics.captions import cider
from regard.metrics.measurement import by_example
from regard.nn.cache import keep
from regard.nn.captioner import Captioner
from regard.tasks._caption import sizes_of, teacher_forced

DRAWN = 5  # captions of each picture and language
Group = tuple[int, int]
"""A picture of the batch, and the token that begins its captions of one language."""


def reward_loss(model: Captioner, batch: dict[str, Packed], end: int, longest: int) -> Tensor:
    """The self-critical loss, summed over what is drawn, about as large for each picture and language as it has pieces."""
    groups = _references(batch)
    owners = torch.tensor([picture for picture, _ in groups for _ in range(DRAWN)])
    begins = torch.tensor([begin for _, begin in groups for _ in range(DRAWN)])
    encoded = model.encode(batch["patches"], sizes_of(batch))
    drawn = draw(model, encoded, owners, begins, end, longest)
    advantages = torch.from_numpy(_advantages(drawn, groups, end)).to(encoded.values.dtype)
    read = pack_ids([[int(begin), *ids] for begin, ids in zip(begins, drawn, strict=True)])
    written = pack_ids([[*ids, end] for ids in drawn]).values
    states = model.read(encoded, read, owners)
    losses = F.cross_entropy(model.scores(states).float(), written, reduction="none")
    of_piece = torch.repeat_interleave(advantages, torch.from_numpy(read.lengths.astype(np.int64)))
    return (losses * of_piece).sum() / DRAWN


@torch.no_grad()
def draw(
    model: Captioner, encoded: Packed, owners: Tensor, begins: Tensor, end: int, longest: int
) -> list[list[int]]:
    """A caption (M of them) for each begin, drawn from the model without dropout; `owners` says of which picture.

    What has not ended after `longest` pieces ends there.
    """
    was_training = model.training
    model.eval()
    caches, live = model.decoder.caches(), torch.arange(len(begins))
    tokens = begins
    drawn: list[list[int]] = [[] for _ in begins.tolist()]
    for _ in range(longest):
        packed = Packed(tokens, np.arange(len(tokens) + 1))
        scores = model.scores(model.step(packed, encoded, caches, owners[live])).float()
        tokens = torch.multinomial(torch.softmax(scores, dim=-1), 1)[:, 0]
        goes_on = tokens != end
        live, tokens = live[goes_on], tokens[goes_on]
        if not len(live):
            break
        for number, token in zip(live.tolist(), tokens.tolist(), strict=True):
            drawn[number].append(token)
        keep(caches, goes_on.nonzero()[:, 0])
    model.train(was_training)
    return drawn


def _references(batch: dict[str, Packed]) -> dict[Group, list[list[int]]]:
    """Of each picture and language the captions, with their ends and without their begins."""
    read, written, pictures = teacher_forced(batch)
    groups: dict[Group, list[list[int]]] = {}
    for picture, begin, last in zip(pictures.tolist(), read.offsets[:-1], read.offsets[1:], strict=True):
        key = picture, int(read.values[begin])
        groups.setdefault(key, []).append(written[begin:last].tolist())
    return groups


def _advantages(
    drawn: Sequence[Sequence[int]], groups: dict[Group, list[list[int]]], end: int
) -> NDArray[np.float64]:
    """(M,): how much better each caption is than its fellows on average; rarity is counted in the references of the batch."""
    rewards = np.zeros((len(groups), DRAWN))
    texts: Any = np.array([_text([*ids, end]) for ids in drawn], dtype=object).reshape(-1, DRAWN)
    keys = list(groups)
    for begin in sorted({one for _, one in keys}):  # each language by itself
        rows = [number for number, key in enumerate(keys) if key[1] == begin]
        references = [[_text(ids) for ids in groups[keys[row]]] for row in rows for _ in range(DRAWN)]
        scores = by_example(cider([text for row in rows for text in texts[row]], references, "none"))
        rewards[rows] = np.reshape(scores, (-1, DRAWN)) / 100
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (DRAWN - 1)
    return (rewards - others).reshape(-1)


def _text(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))
