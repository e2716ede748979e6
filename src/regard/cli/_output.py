"""Where output goes: data to stdout, messages to stderr; of several workers only the first speaks, but each of its errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_several() -> bool:
    """Whether torchrun started this process and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def give(text: str) -> None:
    """A line of data."""
    if is_first():
        sys.stdout.write(text + "\n")


def give_json(entry: dict[str, Any]) -> None:
    """An object as one line of JSON."""
    give(json.dumps(entry, ensure_ascii=False))


def counted(examples: int, scores: Sequence[Any]) -> str:
    """How many examples there are, and how many of what scores have a row for, where that is something else."""
    others = {score.rows: len(score.statistics) for score in scores if hasattr(score, "statistics")}
    others.pop("examples", None)
    return ", ".join([f"{examples:,} examples", *(f"{count:,} {rows}" for rows, count in others.items())])


def tell(text: str) -> None:
    """A message for people."""
    if is_first():
        _write(text)


def tell_error(text: str) -> None:
    """What ended this process, whichever of several it is: the others may know nothing of it."""
    _write(text if is_first() else f"rank {os.environ['RANK']}: {text}")


def _write(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
