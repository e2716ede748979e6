"""`regard compare`: which of two models is better on a file of examples, where, and whether it may be luck."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard._errors import ConfigError
from regard.cli._buckets import Cutting
from regard.cli._comparison import Report, Results
from regard.cli._options import name_fields, needed, task_options
from regard.cli._output import give, give_json
from regard.cli._predictions import read_predictions, task_of
from regard.cli.evaluate import sample_test

if TYPE_CHECKING:
    from regard.data.records import Record


def compare(
    first: Path,
    second: Path,
    /,
    *,
    data: str | None = None,
    by: str = "length",
    examples: int = 3,
    beam: int | None = None,
    length_penalty: float | None = None,
    no_answer: float | None = None,
    lowercase: bool = False,
    language: str | None = None,
    text: str | None = None,
    label: str | None = None,
    precision: Literal["fp32", "bf16", "int8"] | None = None,
    max_characters: int | None = None,
    json: bool = False,
) -> None:
    """Say which of two models is better on a file of examples, where, and whether it may be luck.

    Args:
        first: A run folder, or predictions that regard evaluate wrote, FILE.jsonl.
        second: Another of the same task. Differences are second - first.
        data: The examples: .jsonl, .csv, .tsv (or with .gz), or two text files "a.en,a.de". Default: the test part of the
            sample, for a model that was trained on it.
        by: What the differences are cut by: length; for translation frequency, which is how often training of the first run
            saw the rarest word; for roles frequency of the predicate, and distance to its farthest argument. Default: length.
        examples: How many of the examples that gained most, and of those that lost most, are shown. Default: 3.
        beam: Hypotheses that a run keeps for each sentence; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1.
        no_answer: How probable it must be that there is no answer before a run gives none. Default: what the dev data of its
            training chose, or else more so than any answer.
        lowercase: Compare without case, as sacrebleu -lc; always so for runs of lower case, but not for their files.
        language: Language of the references, such as de or zh; of captions also the one to write in. Default: looked up in
            the text, of captions the first of the run.
        text: Name of the field that is classified. Default: as in the training of the first run.
        label: Name of the field of labels. Default: as in the training of the first run.
        max_characters: Longest text accepted in a field; longer ones are refused. Default: as in training.
        precision: Of a run's weights while writing. Default: fp32.
        json: One JSON object.
    """
    if examples < 0:
        raise ConfigError(
            f"a number of examples is below 0. Expected: 0 or more. Received: --examples {examples}."
        )
    systems = [_system(path, max_characters) for path in (first, second)]
    task = _one_task(systems)
    for name in ("groups", "example_scores", "restored"):
        needed(task, name, "regard compare")
    runs = [system.predictor for system in systems if system.predictor is not None]
    name_fields([task, *(run.task for run in runs)], text, label)
    longest = max((run.recipe.max_characters for run in runs), default=max_characters or sys.maxsize)
    records = list(task.read(data or _sample_test(runs), longest))
    cutting = Cutting(task, by, records)
    if cutting.group.measure is not None:
        raise ConfigError(
            f"two systems are not compared by {by!r}: its parts have no row for each example, to be drawn anew. Expected: --by length. "
            f"Received: --by {by}. To mend it: cut each run by itself, with regard evaluate RUN --by {by}."
        )
    given: dict[str, Any] = {"beam": beam, "penalty": length_penalty, "precision": precision}
    given |= {"no_answer": no_answer}
    if "language" in task.options:
        given["language"] = language
    options = task_options(task.name, task.options, given, getattr(task, "defaults", None))
    wanted = {"lowercase": lowercase or None, "language": language}
    scoring = task_options(task.name, task.score_options, wanted)
    found = [_predicted(system, task, records, options) for system in systems]
    if hasattr(task, "comparable"):
        scoring |= task.comparable(found)
    results = [
        _scored(system, task, records, one, scoring) for system, one in zip(systems, found, strict=True)
    ]
    shown: dict[str, Any] = {
        "digits": getattr(task, "digits", 1),
        "each": getattr(task, "example_score", None),
    }
    report = Report(records, cutting, *results, examples=examples, **shown)
    if json:
        names = {"task": task.name, "first": str(first), "second": str(second)}
        give_json({**names, **report.as_json()})
    else:
        give(str(report))


@dataclass(frozen=True)
class _System:
    """A run, or without a predictor a file of predictions."""

    path: Path
    task: str
    predictor: Any


def _system(path: Path, max_characters: int | None) -> _System:
    from regard._load import load

    if path.suffix == ".jsonl":
        return _System(path, task_of(path), None)
    predictor = load(path, max_characters)
    return _System(path, predictor.task.name, predictor)


def _one_task(systems: Sequence[_System]) -> Any:
    """The task of both, as the first run knows it."""
    first, second = systems
    if first.task != second.task:
        raise ConfigError(
            f"two tasks cannot be compared. Expected: two systems of one task. Received: {first.path} of {first.task} and "
            f"{second.path} of {second.task}. To mend it: name two of one task."
        )
    for system in systems:
        if system.predictor is not None:
            return system.predictor.task
    from regard.tasks import make_task

    return make_task(first.task)


def _sample_test(runs: Sequence[Any]) -> str:
    if not runs:
        raise ConfigError("there is no data to compare on. Expected: --data FILE. Received: none.")
    return sample_test(runs[0])


def _predicted(system: _System, task: Any, records: list[Record], options: dict[str, Any]) -> list[Any]:
    if system.predictor is None:
        return read_predictions(system.path, task, records)
    inputs = [system.predictor.task.input_of(record) for record in records]
    predictions: list[Any] = system.predictor.predict_checked(inputs, **options)
    return predictions


def _scored(
    system: _System, task: Any, records: list[Record], predictions: list[Any], scoring: dict[str, Any]
) -> Results:
    """What a system predicted, scored: a run by its own task, which may know no case."""
    task = task if system.predictor is None else system.predictor.task
    each = task.example_scores(predictions, records, **scoring)
    return Results(predictions, task.score(predictions, records, **scoring), each)
