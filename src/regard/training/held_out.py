"""Which training records are held out for the dev score, where there is no dev data."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from regard._errors import DataError
from regard.data.records import Record, Source

MOST = 500  # groups that are held out, or a twentieth of the data where that is less


def spacing(groups: int, train: Source) -> int:
    """Of how many groups of records one is held out.

    Raises:
        DataError: there are not two of them.
    """
    if groups < 2:
        raise too_little(train, f"{groups}")
    return max(2, groups // min(MOST, max(1, groups // 20)))


def too_little(train: Source, received: str) -> DataError:
    """An error that says that nothing can be held out."""
    return DataError(
        f"{train}: too little to hold a part out for the dev score. Expected: two records or more, of questions on two passages, of "
        f"captions of two pictures, of classes two different examples of one class, of text a part without characters that only it has. Received: "
        f"{received}. To mend it: give more data, or dev data of its own with --dev; a text of rare characters, --units bytes."
    )


def group_of(task: Any, record: Record) -> int | None:
    """A number that records have in common of which some must not be held out without the others; None: each is one by itself."""
    # In place of what they share, such as a long text: all groups stand in memory, and two that have one number do no harm.
    return hash(task.held_together(record)) if hasattr(task, "held_together") else None


def told_apart(task: Any, records: Iterable[Record], every: int) -> Iterator[tuple[Record, bool]]:
    """Every record, and whether it is held out, as one of `every` groups is; the same whenever it is asked.

    Records whose `task.held_together(record)` is equal are a group; elsewhere each is one by itself. A record that asks for something
    which training does not have yet by `task.asks_for(record)`, such as its class, is never held out, with its group or without: the
    next that can be is.
    """
    found: dict[int, bool] = {}
    known = set[Hashable]()
    groups = due = 0
    for record in records:
        group = group_of(task, record)
        needs = set(task.asks_for(record)) if hasattr(task, "asks_for") else set[Hashable]()
        if group in found:
            held = found[group] and needs <= known
        else:
            due += groups % every == 0
            groups += 1
            held = bool(due) and needs <= known
            due -= held
            if group is not None:
                found[group] = held
        known |= set() if held else needs
        yield record, held
