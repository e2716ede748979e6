"""`--by NAME`: scores of parts of the examples, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from regard._errors import ConfigError, nearest
from regard.cli._options import needed

if TYPE_CHECKING:
    from regard.data.records import Record

Table = dict[str, list[Any]]
"""For each score its entries, one for each bucket; None where there was nothing to score."""


class Cutting:
    """Examples cut into buckets by a number that the task can tell of each."""

    def __init__(self, task: Any, name: str, records: Sequence[Record]) -> None:
        import numpy as np

        from regard.metrics.buckets import cut, named

        groups = needed(task, "groups", "--by")
        if name not in groups:
            raise ConfigError(
                f"{task.name} cannot be cut by {name!r}{nearest(name, groups)}. "
                f"Expected: --by {' or '.join(groups)}. Received: {name!r}. To mend it: choose one of them."
            )
        self.name = name
        self.group = groups[name]
        found = [self.group.value(record) for record in records]
        names = [one for one in found if isinstance(one, str)]
        if names:
            self.rows, self.buckets = len(names), named(names)
            return
        given = [np.atleast_1d(np.asarray(one, float)) for one in found]
        values = np.concatenate(given) if given else np.zeros(0)
        self.rows = len(values)
        self.buckets = cut(values, self.group.edges)

    def weigh(self, predictions: Sequence[Any]) -> None:
        """Count what the rows stand for, where a row is more than one example."""
        import numpy as np

        if self.group.count is not None:
            weights = np.asarray(self.group.count(predictions), np.int64)
            self.buckets = [replace(one, weight=int(weights[one.rows].sum())) for one in self.buckets]

    def fits(self, score: Any) -> bool:
        """Whether the values belong to the rows of a score, which so can be cut."""
        if self.group.scores is not None and score.name not in self.group.scores:
            return False
        return hasattr(score, "statistics") and len(score.statistics) == self.rows

    def as_json(self, table: Table, plain: Callable[[Any], Any]) -> dict[str, Any]:
        """A table in plain values."""
        buckets = [
            {
                **({"from": bucket.low, "to": bucket.high} if bucket.name is None else {"name": bucket.name}),
                "count": bucket.count,
                "few": bucket.few,
                "scores": {name: _unless_none(entries[number], plain) for name, entries in table.items()},
            }
            for number, bucket in enumerate(self.buckets)
        ]
        return {"name": self.name, "unit": self.group.unit, "rows": self.group.rows, "buckets": buckets}

    def as_text(self, table: Table, shown: Callable[[Any], str], width: int) -> str:
        """A table for people: a line for each bucket, each entry `width` wide or as the widest or its name needs."""
        cells = {
            name: [_unless_none(entry, shown) or "-" for entry in entries] for name, entries in table.items()
        }
        width = max([width, *(len(text) + 2 for name in cells for text in (name, *cells[name]))])
        counted = self.group.rows
        room = max(9, len(counted) + 1)
        lines = ["", f"{self.name:<16}{counted:>{room}}{''.join(f'{name:>{width}}' for name in table)}"]
        for number, bucket in enumerate(self.buckets):
            row = "".join(f"{texts[number]:>{width}}" for texts in cells.values())
            few = "   few" if bucket.few else ""
            lines.append(f"{bucket!s:<16}{bucket.count:>{room},}{row}{few}")
        lines.append(f"{self.name}: {self.group.unit}")
        if any(bucket.few for bucket in self.buckets):
            from regard.metrics.buckets import FEW

            lines.append(f"few: fewer than {FEW} {counted}, whose score says little")
        return "\n".join(lines)


def _unless_none(entry: Any, plain: Callable[[Any], Any]) -> Any:
    return None if entry is None else plain(entry)
