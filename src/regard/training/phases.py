"""What a run learns, one thing after the other: each has batches of its own, a loss, and a count to divide it by."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from regard._packed import Packed
from regard.data.batches import PackedBatches
from regard.data.store import Gathered, TokenStore
from regard.nn.consistency import consistent, twice
from regard.nn.distillation import taught, teaching
from regard.training import workers
from regard.training.recipe import Recipe
from regard.training.task import Task
from regard.training.variants import variants_of

NOISE = 2.0  # tokens by which lengths are blurred before sorting, so that batches differ from epoch to epoch


class Phase(Protocol):
    """A part of a run."""

    batches: PackedBatches
    """Which examples each update takes."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is learned."""

    def batch(self, indices: np.ndarray, step: int) -> Any:
        """The examples at `indices`, for update number `step`."""

    def loss(self, batch: Any, progress: float) -> Tensor:
        """The loss of a batch, summed over what `counted` counts, where the run has come so far."""

    def counted(self, batch: Any) -> int:
        """How many decisions a batch asks for."""

    def tokens(self, batch: Any) -> int:
        """How many tokens a batch has."""


class Learning:
    """The task itself; where the recipe says so, with two passes that are to agree, or with a teacher."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        store: TokenStore,
        teacher: nn.Module | None = None,
    ) -> None:
        self.task, self.model, self.recipe, self.store, self.teacher = task, model, recipe, store, teacher
        # A task may cut its examples anew in every epoch.
        self.windows = task.windows(store, recipe) if hasattr(task, "windows") else None
        lengths = store.lengths if self.windows is None else self.windows.lengths
        self.batches = batches_of(lengths, recipe, variants=variants_of(store, recipe))

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.model.parameters()

    def batch(self, indices: np.ndarray, step: int) -> dict[str, Packed]:
        if self.windows is None:
            gathered = self.store.gather(indices)
        else:
            gathered = self.windows.gather(indices, self.batches.drawn)
        return {name: packed(stream) for name, stream in gathered.items()}

    def loss(self, batch: dict[str, Packed], progress: float) -> Tensor:
        if self.recipe.cider_finish and progress >= 1 - self.recipe.cider_finish:
            finish: Any = self.task
            loss: Tensor = finish.finish_loss(self.model, batch)
            return loss
        with ExitStack() as asked:
            if self.recipe.r_drop:
                batch = {name: twice(stream) for name, stream in batch.items()}
                asked.enter_context(consistent(self.recipe.r_drop))
            if self.teacher is not None:
                with teaching() as said:
                    self.task.loss(self.teacher, batch, 0.0)
                asked.enter_context(taught(said, self.recipe.teacher_share))
            return self.task.loss(self.model, batch, self.recipe.label_smoothing or 0.0)

    def counted(self, batch: dict[str, Packed]) -> int:
        return self.task.counted(batch)

    def tokens(self, batch: dict[str, Packed]) -> int:
        return sum(len(stream.values) for stream in batch.values())

    def size(self) -> tuple[int, int]:
        """How many examples there are, and how many tokens they have, cut in one way."""
        variants = self.batches.variants
        return len(self.store) // variants, int(self.store.lengths.sum(dtype=np.int64)) // variants


class Rehearsal(Learning):
    """What the task learns before: the same, of examples that it made of texts without answers."""

    def __init__(self, task: Task, model: nn.Module, recipe: Recipe, store: TokenStore) -> None:
        self.learns: str = task.rehearses  # type: ignore[attr-defined]
        # These examples are cut into pieces in one way, and no teacher has seen their like.
        super().__init__(task, model, recipe.replace(bpe_dropout=0.0), store)


def batches_of(lengths: Any, recipe: Recipe, variants: int = 1) -> PackedBatches:
    """Batches of the recipe's size, of which this worker has its share; `lengths` as `PackedBatches` takes them."""
    return PackedBatches(
        lengths,
        recipe.tokens or 2048,
        recipe.seed,
        noise=NOISE,
        variants=variants,
        rank=workers.rank(),
        world=workers.world(),
    )


def packed(gathered: Gathered) -> Packed:
    """What a store gives, as the model takes it."""
    values, offsets = gathered
    return Packed(torch.from_numpy(values if values.dtype == np.uint8 else values.astype(np.int64)), offsets)
