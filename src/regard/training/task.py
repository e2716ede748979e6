"""What training knows of a task, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from regard._packed import Packed
from regard.data.packing import Encoded
from regard.data.records import Record, Source
from regard.metrics.buckets import Group
from regard.metrics.translation import Score
from regard.training.recipe import Recipe


class Result(Protocol):
    """What a person gets for one input; as text it is what is printed."""

    def as_json(self) -> dict[str, Any]:
        """The result in plain values."""

    def picture(self) -> Any:
        """What was looked at, with a method `save(path)`; only where `predict` was asked for attention.

        Where a result has several things to show, its `pictured` says which one this is.
        """


class Task(Protocol):
    """An application: its records, its model, its loss and its score.

    It may also have

    - `windows(store, recipe)`, which gives `lengths(epoch)` and `gather(indices, epoch)`: examples are then cut anew in every epoch;
    - `rehearsals(records)`, which makes examples of records without answers to be learned before, and `rehearses`, what is done with them;
    - `check_scored(records)`, which refuses dev data of which no score can be made, before anything is trained;
    - `check_learnable(record)`, which gives it, or refuses what the run that training begins with cannot learn;
    - `unlabelled(source, max_characters)`, which reads texts to pretrain on that are not what a prediction is made of;
    - `held_together(record)`, equal for records of which some must not be held out for dev without the others;
    - `asks_for(record)`, things that training must have seen before the record can be scored;
    - `remarks`, lines that say what `learn` saw;
    - `taught`, the options that a teacher decides, with what they are where a recipe leaves them open;
    - `comparable(systems)`, the options with which `score` scores the predictions of several systems alike;
    - `descends`, True where a lower score is better, and `digits`, with which scores are shown;
    - `example_score`, what `example_scores` counts, for people; by default the first score.
    """

    name: str
    streams: tuple[str, ...]
    """The names of the token sequences that an example becomes."""
    options: tuple[str, ...]
    """The keywords of `predict`: of the flags of `regard predict`, those that this task knows."""
    score_options: tuple[str, ...]
    """The keywords of `score`: of the flags of `regard evaluate`, those that this task knows."""
    recipe_options: tuple[str, ...]
    """The options of a recipe that this task obeys beside those of every task; others are refused. It may depend on what was read."""
    tokenizer: Any
    """What texts are cut with, once it is learned or loaded; `encode` asks for it anew. A task without texts has none."""

    def configure(self, recipe: Recipe) -> None:
        """Take from a recipe what reading depends on, such as names of fields, and refuse options that do not go together.

        Called before anything is read.
        """

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """The records of a file, checked at the door; without `answers` only what a prediction needs."""

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """What a person gives to a prediction as a checked record; `place` is a file's name and a line for messages."""

    def input_of(self, record: Record) -> Any:
        """What `predict` takes of a record."""

    def characters(self, record: Record) -> int:
        """How much text a record holds."""

    def sizes(self, examples: int) -> dict[str, Any]:
        """Options of a recipe that fit so many examples."""

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Learn from the training records what encoding needs, such as a vocabulary."""

    def encode(self, records: Iterable[Record]) -> Iterable[tuple[Any, ...]]:
        """The tokens of every record, one sequence for each stream: ids, or rows of bytes (tokens, width), uint8."""

    def readings(self, records: Iterable[Record]) -> Iterable[Sequence[int]]:
        """What the encoder reads of every record, also of records without answers; a task without texts has no such method."""

    def model(self, recipe: Recipe) -> nn.Module:
        """A new model."""

    def loss(self, model: nn.Module, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """The loss of a batch, summed over what `counted` counts."""

    def counted(self, batch: dict[str, Packed]) -> int:
        """How many decisions a batch asks for, by which its loss is divided."""

    def calibrate(self, model: nn.Module, records: Sequence[Record], examples: Encoded) -> None:
        """Fit to dev records, and to what `encode` made of them, what training does not, in parameters that need no gradient."""

    def predict(self, model: nn.Module, inputs: Sequence[Any], **options: Any) -> list[Result]:
        """A result for every input, in order."""

    def score(self, predictions: Sequence[Any], records: Sequence[Record], **options: Any) -> list[Score]:
        """The scores of predictions against the records; the first is the one that decides.

        Those that are measurements can be cut and compared; a note on one system stands behind "; " in a signature.
        """

    @property
    def groups(self) -> dict[str, Group]:
        """What records can be cut by, `length` among them, to see where a model is weak."""

    def example_scores(
        self, predictions: Sequence[Any], records: Sequence[Record], **options: Any
    ) -> list[float]:
        """A score of every example by itself, between 0 and 100; options are those of `score`."""

    def restored(self, entry: Record, record: Record) -> Result:
        """A result from what its `as_json` gave, for `record`; DataError where it is another record's or none."""

    def save(self, folder: Path) -> None:
        """Write what `learn` learned."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""

    def facts(self) -> dict[str, Any]:
        """What `regard inspect` says of what was learned beside the model."""
