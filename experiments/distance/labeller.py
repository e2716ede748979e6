"""The model of the experiment: a text encoder of either kind and a table of labels, trained as `regard train` trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distance.examples import Batch, Example, pack
from regard.nn import TextEncoder
from regard.nn.encoder import initialize
from regard.training.averaging import WeightAverage
from regard.training.muon import make_optimizers
from regard.training.recipe import Recipe
from regard.training.schedule import learning_rate_share

KINDS = ("attention", "recurrent")


@dataclass(frozen=True)
class Budget:
    """When a training ends: after so many updates, or so many minutes of them."""

    updates: int | None = None
    minutes: float | None = None

    def __str__(self) -> str:
        return f"{self.minutes:g} min" if self.updates is None else f"{self.updates} updates"

    def share(self, updates: int, seconds: float) -> float:
        """How much of it is spent, from 0 to 1."""
        if self.updates is not None:
            return updates / self.updates
        return seconds / (60 * (self.minutes or 1))


class Labeller(nn.Module):
    """Token ids to scores of labels at the places that are asked."""

    def __init__(self, vocabulary: int, labels: int, sizes: dict[str, Any], kind: str) -> None:
        super().__init__()
        self.table = nn.Embedding(labels, sizes["dim"])
        initialize(self.table)
        self.encoder = TextEncoder(vocabulary, **sizes, kind=kind)

    def forward(self, batch: Batch) -> Tensor:
        """(Q, labels)."""
        return F.linear(self.encoder(batch.tokens).values[batch.rows], self.table.weight)


def train(model: Labeller, batches: Iterator[Sequence[Example]], budget: Budget) -> dict[str, Any]:
    """Train with the optimizers, schedule and averaging of a recipe's defaults; the time that making batches takes is free."""
    recipe = Recipe()
    peaks = (recipe.matrix_learning_rate, recipe.learning_rate)
    optimizers = make_optimizers(model, *peaks, recipe.weight_decay)
    average = WeightAverage(model, recipe.average)
    model.train()
    updates, seconds = 0, 0.0
    while (spent := budget.share(updates, seconds)) < 1:
        batch = pack(next(batches))
        begin = time.perf_counter()
        F.cross_entropy(model(batch), batch.labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate_share(spent, recipe.warmup)
            optimizer.step()
            optimizer.zero_grad()
        updates += 1
        average.update(updates)
        seconds += time.perf_counter() - begin
    average.swap()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"updates": updates, "seconds": round(seconds, 1), "parameters": parameters}


@torch.no_grad()
def answers(model: Labeller, examples: Sequence[Example], together: int = 100) -> list[list[int]]:
    """For each example how many answers are right, and how many were asked."""
    model.eval()
    rows: list[list[int]] = []
    for begin in range(0, len(examples), together):
        batch = pack(examples[begin : begin + together])
        right = (model(batch).argmax(-1) == batch.labels).numpy()
        starts = np.cumsum([0, *batch.counts])[:-1]
        rows += np.stack([np.add.reduceat(right.astype(int), starts), batch.counts], axis=1).tolist()
    return rows
