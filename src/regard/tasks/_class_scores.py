"""How right classifications are, and how right their probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from regard.data.labels import label_numbers
from regard.metrics.labels import LabelScores, calibration_error, multilabel_scores
from regard.metrics.translation import Score
from regard.tasks._classification import Classification

Labels = Sequence[tuple[str, ...]]  # those of every record


def class_scores(
    predictions: Sequence[Classification],
    expected: Labels,
    places: Sequence[str],
    known: Sequence[str],
    each: bool,
) -> list[Score]:
    """Accuracy, macro-F1 and calibration error; with `each` F1 of every class, and where there may be several also micro-F1.

    Arguments:
        predictions: of one model.
        expected: the right labels.
        places: where these stand, for messages.
        known: every label that might be predicted or right.
        each: whether every class is scored by itself.
    """
    several = any(one.several for one in predictions)
    numbers = {label: number for number, label in enumerate(known)}
    rights = [label_numbers(labels, numbers, place) for labels, place in zip(expected, places, strict=True)]
    found = multilabel_scores([one.labels for one in predictions], expected, known)
    scores: list[Score] = [found.accuracy, found.macro_f1, _calibration(predictions, rights, known, several)]
    if not each:
        return scores
    taken = {} if several else _mistakes(predictions, expected)
    return [*scores, *([found.micro_f1] if several else []), *_every_class(found, taken)]


def _calibration(
    predictions: Sequence[Classification],
    rights: Sequence[Sequence[int]],
    known: Sequence[str],
    several: bool,
) -> Score:
    table = np.array([[one.probabilities.get(label, 0.0) for label in known] for one in predictions])
    if not several:
        return calibration_error(table, [right[0] for right in rights])
    # Every label of every example is a decision of two sides.
    sides = np.stack([1 - table, table], axis=-1).reshape(-1, 2)
    truth = np.zeros(table.shape, int)
    for row, right in zip(truth, rights, strict=True):
        row[right] = 1
    found = calibration_error(sides, truth.reshape(-1))
    return replace(found, signature=f"{found.signature}|decisions:label")


def _every_class(found: LabelScores, taken: dict[str, str]) -> list[Score]:
    """The name says what the number is, so that no class bears that of another score."""
    return [
        Score(
            f"f1 {label}",
            counts.f1,
            f"precision:{counts.precision:.1f}|recall:{counts.recall:.1f}|support:{counts.correct + counts.missed}"
            + taken.get(label, ""),
        )
        for label, counts in found.classes.items()
    ]


def _mistakes(predictions: Sequence[Classification], expected: Labels) -> dict[str, str]:
    """What examples of each class are most often taken for, if for another at all."""
    wrong = [(right[0], one.labels[0]) for one, right in zip(predictions, expected, strict=True)]
    counted = Counter(pair for pair in wrong if pair[0] != pair[1]).most_common()
    return {right: f"|taken-for:{guess} {count}" for (right, guess), count in reversed(counted)}
