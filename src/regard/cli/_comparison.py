"""What `regard compare` says of two systems' results: each score, parts of the examples, and those that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regard.cli._buckets import Cutting
from regard.cli._output import counted
from regard.cli._pairs import differ, interval, matched, plain

if TYPE_CHECKING:
    from regard.data.records import Record
    from regard.metrics.measurement import Measurement
    from regard.metrics.significance import Comparison

BOUNDED = ("first", "second", "difference", "low", "high")  # what is said of a part


@dataclass(frozen=True)
class Results:
    """What a system predicted, its scores, and the score of each example by itself."""

    predictions: list[Any]
    scores: list[Any]
    each: list[float]


class Report:
    """What is said of two results for the same records."""

    def __init__(
        self,
        records: Sequence[Record],
        cutting: Cutting,
        first: Results,
        second: Results,
        *,
        examples: int,
        digits: int = 1,
        each: str | None = None,
    ) -> None:
        self.records, self.cutting, self.results, self.digits = records, cutting, (first, second), digits
        self.each = each or first.scores[0].name
        pairs, self.apart = matched(first.scores, second.scores)
        self.scores = [one for one, _ in pairs]
        self.found = [differ(*pair, len(records)) for pair in pairs]
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
            {**plain(found), "signature": score.signature}
            for found, score in zip(self.found, self.scores, strict=True)
        ]
        return {
            "count": len(self.records),
            "scores": scores,
            "not_compared": self.apart,
            "by": self.cutting.as_json(self.table, _of_part),
            "changed": {
                "score": self.each,
                **self._tally(),
                "most": [self._example(row) for row in self.shown],
            },
        }

    def __str__(self) -> str:
        tally = "{better:,} examples better, {worse:,} worse, {same:,} the same".format(**self._tally())
        lines = [
            *self._score_lines(),
            self.cutting.as_text(self.table, self._interval, 22),
            "",
            f"by the {self.each} of each, {tally}",
        ]
        return "\n".join([*lines, *(self._example_text(row) for row in self.shown)])

    def _score_lines(self) -> list[str]:
        from regard.metrics.buckets import FEW

        digits, width = self.digits, max([8, *(len(found.name) + 1 for found in self.found)])
        room = max([20, *(len(self._interval(found)) + 2 for found in self.found)])
        lines = []
        for found, score in zip(self.found, self.scores, strict=True):
            p = f"p {found.p:.4f}" if found.test != "none" else ""
            values = f"{found.first:5.{digits}f} -> {found.second:5.{digits}f}   {self._interval(found):<{room}}{p:<8}"
            less = "   less is better" if found.less_is_better else ""
            lines.append(f"{found.name:<{width}}{values}   {score.signature}{less}".rstrip())
        for name, (one, other) in self.apart.items():
            lacking = "second" if other is None else "first"
            alike = f"counted in two ways: {one} and {other}"
            why = f"the {lacking} has none" if None in (one, other) else alike
            lines.append(f"{name} is not compared, {why}")
        how = "second - first with its 95 % interval by paired bootstrap, p by randomization"
        lines.append(f"{counted(len(self.records), self.scores)}; {how}")
        if any(found.examples < FEW for found in self.found):
            lines.append(f"few: scores and intervals of fewer than {FEW} say little")
        return lines

    def _interval(self, found: Comparison) -> str:
        return interval(found, self.digits)

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
        from regard.data.shown import shorten_line, shown

        record = self.records[row]
        written = [
            (f"{name} {one.each[row]:.1f}", shorten_line(line))
            for name, one in zip(("first", "second"), self.results, strict=True)
            for line in str(one.predictions[row]).splitlines() or [""]
        ]
        lines = [f"  {name:<12} {text}" for name, text in [*shown(record.fields), *written]]
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


def _of_rows(first: Measurement, second: Measurement, rows: Any) -> Comparison:
    """The difference in some rows. Its p is not shown, and so the quicker test: of many small ones some would succeed."""
    from regard.metrics.buckets import part
    from regard.metrics.significance import compare as compared

    return compared(part(first, rows), part(second, rows), test="bootstrap")


def _of_part(found: Comparison) -> dict[str, Any]:
    values = plain(found)
    return {name: values[name] for name in BOUNDED}
