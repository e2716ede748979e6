"""How right labellings are: the arguments of gold predicates, and the predicates that a model finds by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from regard.data.lines import data_error
from regard.data.records import Record
from regard.metrics.measurement import Measurement, measured, percentage
from regard.metrics.propositions import tagged_phrases
from regard.metrics.spans import EXCLUDED, RoleScores, role_scores
from regard.tasks._labelling import Labelling


def argument_scores(predictions: Sequence[Labelling], records: Sequence[Record]) -> RoleScores:
    """Scores of the gold predicates' rows; one that a prediction leaves out has no arguments."""
    require_predicates(
        records,
        "no sentence has a predicate whose arguments could be scored",
        "mark predicates with their roles",
    )
    ours = []
    for one, record in zip(predictions, records, strict=True):
        rows = {proposition.predicate: proposition.roles for proposition in one.propositions}
        nothing = ("O",) * len(one.sentence.words)
        ours += [rows.get(predicate, nothing) for predicate in record.fields["predicates"]]
    return role_scores(ours, [row for record in records for row in record.fields["roles"]])


def finding_scores(predictions: Sequence[Labelling], records: Sequence[Record]) -> list[Measurement]:
    """F1 of predicates: 2 * right / (found + expected); nothing where some predictions do not tell what was found."""
    rows = []
    for one, record in zip(predictions, records, strict=True):
        if one.found is None:
            return []
        ours, gold = set(one.found), set(record.fields["predicates"])
        rows.append([2 * len(ours & gold), len(ours) + len(gold)])
    return [measured("predicates", "f1 of the predicates that the model finds", rows, percentage)]


def argument_distances(record: Record) -> list[float]:
    """For each predicate the words from it to the nearest word of its farthest argument; NaN without arguments."""
    return [
        max(
            (max(one.first - place, place - one.last) for one in tagged_phrases(row) if one.role != EXCLUDED),
            default=math.nan,
        )
        for place, row in zip(record.fields["predicates"], record.fields["roles"], strict=True)
    ]


def require_predicates(records: Sequence[Record], problem: str, mend: str) -> None:
    """DataError where no record has a predicate."""
    if not any(record.fields["predicates"] for record in records):
        raise data_error(
            records[0].file if records else "the data",
            problem,
            expected="one with its roles, at least",
            received=f"none in {len(records):,} sentences",
            mend=mend,
        )
