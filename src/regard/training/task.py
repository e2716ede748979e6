"""What training knows of a task, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from regard._packed import Packed
from regard.data.records import Record
from regard.metrics.translation import Score
from regard.training.recipe import Recipe


class Task(Protocol):
    """An application: its records, its model, its loss and its score."""

    name: str
    fields: tuple[str, ...]
    """The columns that every record has."""
    streams: tuple[str, ...]
    """The names of the token sequences that a record becomes; the last is the one that is counted in the loss."""

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Learn from the training records what encoding needs, such as a vocabulary."""

    def encode(self, records: Iterable[Record]) -> Iterable[tuple[Sequence[int], ...]]:
        """Token ids of every record, one sequence for each stream."""

    def model(self, recipe: Recipe) -> nn.Module:
        """A new model."""

    def loss(self, model: nn.Module, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """The loss of a batch, summed over its counted tokens."""

    def predict(self, model: nn.Module, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """A result for every input, in order."""

    def score(self, predictions: Sequence[Any], records: Sequence[Record]) -> list[Score]:
        """The scores of predictions against the records; the first is the one that decides."""

    def save(self, folder: Path) -> None:
        """Write what `learn` learned."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
