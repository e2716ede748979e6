"""`regard compare`: which of two models is better on a file of examples, where, and whether it may be luck."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard._errors import ConfigError
from regard.cli._buckets import Cutting
from regard.cli._output import give, give_json
from regard.cli._predictions import read_predictions, task_of
from regard.cli.evaluate import sample_test

if TYPE_CHECKING:
    from regard.data.records import Record
    from regard.metrics.measurement import Measurement
    from regard.metrics.significance import Comparison


def compare(
    first: Path,
    second: Path,
    /,
    *,
    data: str | None = None,
    by: str = "length",
    examples: int = 3,
    beam: int = 5,
    length_penalty: float = 1.0,
    lowercase: bool = False,
    language: str | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    json: bool = False,
) -> None:
    """Say which of two models is better on a file of examples, where, and whether it may be luck.

    Args:
        first: A run folder, or predictions that regard evaluate wrote, FILE.jsonl.
        second: Another of the same task. Differences are second - first.
        data: The examples: .jsonl, .tsv (or with .gz), or two text files "a.en,a.de". Default: the test part of the
            sample, for a model that was trained on it.
        by: What the differences are cut by: length, or frequency, which is how often training of the first run saw the
            rarest word. Default: length.
        examples: How many of the examples that gained most, and of those that lost most, are shown. Default: 3.
        beam: Hypotheses that a run keeps for each sentence; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1.
        lowercase: Compare without case, as sacrebleu -lc; always so for runs of lower case, but not for their files.
        language: Language of the references, such as de or zh. Default: looked up in the text.
        precision: Of a run's weights while writing. Default: fp32.
        json: One JSON object.
    """
    if examples < 0:
        raise ConfigError(
            f"a number of examples is below 0. Expected: 0 or more. Received: --examples {examples}."
        )
    systems = [_system(path) for path in (first, second)]
    task = _one_task(systems)
    runs = [system.predictor for system in systems if system.predictor is not None]
    longest = max((run.recipe.max_characters for run in runs), default=sys.maxsize)
    records = list(task.read(data or _sample_test(runs), longest))
    cutting = Cutting(task, by, records)
    options = {"beam": beam, "penalty": length_penalty, "precision": precision}
    scoring = {"lowercase": lowercase, "language": language}
    results = [_predicted(system, task, records, options, scoring) for system in systems]
    report = _Report(records, cutting, *results, examples=examples)
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


@dataclass(frozen=True)
class _Results:
    """What a system predicted, its scores, and the score of each example by itself."""

    predictions: list[Any]
    scores: list[Any]
    each: list[float]


class _Report:
    """What is said of two results for the same records."""

    def __init__(
        self,
        records: Sequence[Record],
        cutting: Cutting,
        first: _Results,
        second: _Results,
        *,
        examples: int,
    ) -> None:
        from regard.metrics.significance import compare as compared

        self.records, self.cutting, self.results = records, cutting, (first, second)
        pairs = [
            pair
            for pair in zip(first.scores, second.scores, strict=True)
            if all(hasattr(score, "statistics") for score in pair)
        ]
        self.signatures = [one.signature for one, _ in pairs]
        self.found = [compared(one, other) for one, other in pairs]
        self.table = {
            one.name: [_of_rows(one, other, bucket.rows) for bucket in cutting.buckets]
            for one, other in pairs
            if cutting.fits(one)
        }
        self.changes = [b - a for a, b in zip(first.each, second.each, strict=True)]
        self.shown = most_changed(self.changes, examples)

    def as_json(self) -> dict[str, Any]:
        """Everything in plain values."""
        scores = [
            {**vars(found), "signature": text}
            for found, text in zip(self.found, self.signatures, strict=True)
        ]
        return {
            "count": len(self.records),
            "scores": scores,
            "by": self.cutting.as_json(self.table, _plain),
            "changed": {**self._tally(), "most": [self._example(row) for row in self.shown]},
        }

    def __str__(self) -> str:
        lines = [
            f"{found.name:<8}{found.first:5.1f} -> {found.second:5.1f}   {_interval(found):<20} p {found.p:.4f}   {text}"
            for found, text in zip(self.found, self.signatures, strict=True)
        ]
        tests = " and ".join(sorted({found.test for found in self.found}))
        lines.append(
            f"{len(self.records):,} examples; second - first with its 95 % interval by paired bootstrap, p by {tests}"
        )
        lines.append(self.cutting.as_text(self.table, _interval, 22))
        lines += [
            "",
            "{better:,} examples better, {worse:,} worse, {same:,} the same".format(**self._tally()),
        ]
        return "\n".join([*lines, *(self._example_text(row) for row in self.shown)])

    def _tally(self) -> dict[str, int]:
        better = sum(change > 0 for change in self.changes)
        worse = sum(change < 0 for change in self.changes)
        return {"better": better, "worse": worse, "same": len(self.changes) - better - worse}

    def _example(self, row: int) -> dict[str, Any]:
        first, second = (
            {"score": one.each[row], "prediction": one.predictions[row].as_json()} for one in self.results
        )
        record = self.records[row]
        facts = {"file": record.file, "line": record.line, "record": record.fields}
        return {"change": self.changes[row], **facts, "first": first, "second": second}

    def _example_text(self, row: int) -> str:
        record = self.records[row]
        given = {name: value for name, value in record.fields.items() if isinstance(value, str)}
        written = {
            f"{name} {one.each[row]:.1f}": str(one.predictions[row])
            for name, one in zip(("first", "second"), self.results, strict=True)
        }
        lines = [f"  {name:<13}{_short(text)}" for name, text in {**given, **written}.items()]
        return "\n".join(["", f"{self.changes[row]:+.1f}   {record.place}", *lines])


def most_changed(changes: Sequence[float], count: int) -> list[int]:
    """The places of the `count` largest gains, then of the `count` largest losses; what did not change is neither.

    >>> most_changed([0.0, 5.0, -1.0, 7.0, -2.0], 2)
    [3, 1, 4, 2]
    """
    order = sorted(range(len(changes)), key=lambda row: -abs(changes[row]))
    gains = [row for row in order if changes[row] > 0]
    losses = [row for row in order if changes[row] < 0]
    return gains[:count] + losses[:count]


def _system(path: Path) -> _System:
    from regard._load import load

    if path.suffix == ".jsonl":
        return _System(path, task_of(path), None)
    predictor = load(path)
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


def _predicted(
    system: _System, task: Any, records: list[Record], options: dict[str, Any], scoring: dict[str, Any]
) -> _Results:
    """What a system predicts, scored: a run by its own task, which may know no case."""
    if system.predictor is None:
        predictions = read_predictions(system.path, task, records)
    else:
        task = system.predictor.task
        inputs = [task.input_of(record) for record in records]
        predictions = system.predictor.predict(inputs, **options)
    each = task.example_scores(predictions, records, **scoring)
    return _Results(predictions, task.score(predictions, records, **scoring), each)


def _of_rows(first: Measurement, second: Measurement, rows: Any) -> Comparison:
    """The difference in some rows. Its p is not shown, and so the quicker test: of many small ones some would succeed."""
    from regard.metrics.buckets import part
    from regard.metrics.significance import compare as compared

    return compared(part(first, rows), part(second, rows), test="bootstrap")


def _plain(found: Comparison) -> dict[str, float]:
    return {name: getattr(found, name) for name in ("first", "second", "difference", "low", "high")}


def _interval(found: Comparison) -> str:
    return f"{found.difference:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
