"""`--predictions FILE.jsonl`: what a model predicted, written once and read again; each line names its task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard._errors import ConfigError, DataError
from regard.cli._output import tell

if TYPE_CHECKING:
    from regard.data.records import Record


def check_name(path: Path) -> None:
    """Refuse a name that could not be read again, before anything is predicted."""
    if path.suffix != ".jsonl":
        raise ConfigError(
            f"predictions are JSON lines. Expected: --predictions FILE.jsonl. Received: {path}. To mend it: let the name end "
            "in .jsonl."
        )


def write_predictions(path: Path, task: str, predictions: Sequence[Any]) -> None:
    """Write a line for each prediction, in order."""
    from regard.training.checkpoints import write_text

    entries = [{"task": task, **prediction.as_json()} for prediction in predictions]
    write_text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    tell(f"wrote {path}")


def task_of(path: Path) -> str:
    """The task that the predictions of a file are of."""
    from regard.data.records import read_records

    return str(next(read_records(path, ("task",))).fields["task"])


def read_predictions(path: Path, task: Any, records: Sequence[Record]) -> list[Any]:
    """The predictions of a file, for these records in their order."""
    from regard.data.records import read_records

    entries = list(read_records(path, ("task",)))
    for entry in entries:
        if entry.fields["task"] != task.name:
            raise DataError(
                f"{entry.place}: the prediction is of another task. Expected: {task.name}. "
                f"Received: {entry.fields['task']}. To mend it: compare predictions of one task."
            )
    if len(entries) != len(records):
        raise DataError(
            f"{path}: the predictions are of other examples. Expected: {len(records):,}, one for each record of the data. "
            f"Received: {len(entries):,}. To mend it: name the data that they were made for."
        )
    return [task.restored(entry, record) for entry, record in zip(entries, records, strict=True)]
