"""Accuracy, F1 over classes and calibration of a classifier."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._errors import DataError, ShapeError
from regard.metrics.measurement import Measurement, averaged, divided, measured, paired
from regard.metrics.spans import Counts
from regard.metrics.translation import Score


@dataclass(frozen=True)
class LabelScores:
    """`accuracy`, `macro_f1` and `micro_f1`, and of every class that occurs what was right, in excess and missed."""

    accuracy: Measurement
    macro_f1: Measurement
    micro_f1: Measurement
    classes: dict[Any, Counts]


def label_scores(
    predicted: Sequence[Hashable], expected: Sequence[Hashable], labels: Sequence[Hashable] | None = None
) -> LabelScores:
    """Scores of one label for each example.

    Args:
        predicted: labels, of one type that sorts.
        expected: as many.
        labels: the classes that macro- and micro-F1 count, by default all. Two systems can only be compared with the same
            ones, whether they occur or not.

    Returns:
        The scores. Micro-F1 equals accuracy when every class counts.

    Raises:
        DataError: counts differ, or there are no examples.

    Source: F1 of a class is 2 tp / (predicted + expected); macro-F1 is the mean over those that are predicted or expected, as
    scikit-learn's `f1_score(average="macro")`. What occurs nowhere in a part of a file is no failure there.

    >>> scores = label_scores(["cat", "dog", "dog"], ["cat", "dog", "cat"])
    >>> print(round(scores.accuracy.value, 2), round(scores.macro_f1.value, 2))
    66.67 66.67
    """
    return multilabel_scores([[label] for label in predicted], [[label] for label in expected], labels)


def multilabel_scores(
    predicted: Sequence[Collection[Hashable]],
    expected: Sequence[Collection[Hashable]],
    labels: Sequence[Hashable] | None = None,
) -> LabelScores:
    """Scores of any number of labels for each example; accurate is an example whose labels are exactly right.

    Args:
        predicted: the labels of each example, none, one or several.
        expected: as many.
        labels: as for `label_scores`.

    Returns:
        The scores.

    Raises:
        DataError: counts differ, or there are no examples.

    >>> scores = multilabel_scores([{"red"}, {"red", "big"}], [{"red"}, {"big"}])
    >>> print(scores.accuracy.value, round(scores.micro_f1.value, 2))
    50.0 80.0
    """
    paired(predicted, expected, "expected labels")
    ours, theirs = [frozenset(one) for one in predicted], [frozenset(one) for one in expected]
    names: list[Any] = list(labels) if labels is not None else sorted(frozenset().union(*ours, *theirs))
    position = {name: i for i, name in enumerate(names)}
    rows = np.zeros((len(ours), 3, len(names)))
    for row, found, wanted in zip(rows, ours, theirs, strict=True):
        for kind, some in enumerate((found & wanted, found, wanted)):
            row[kind, [position[label] for label in some if label in position]] = 1.0
    # Columns of statistics only mean the same where the classes are the same.
    checksum = zlib.crc32(repr(names).encode())
    signature = f"classes:{len(names)}#{checksum:08x}|absent:left-out"
    statistics = rows.reshape(len(rows), 3 * len(names))
    accuracy = averaged("accuracy", "", [found == wanted for found, wanted in zip(ours, theirs, strict=True)])
    return LabelScores(
        accuracy,
        measured("macro-f1", signature, statistics, _macro),
        measured("micro-f1", signature, statistics, _micro),
        {
            name: Counts(right, found - right, wanted - right)
            for name, (right, found, wanted) in zip(
                names, rows.sum(axis=0).astype(int).T.tolist(), strict=True
            )
            if found or wanted
        },
    )


def calibration_error(probabilities: Any, expected: Sequence[int] | np.ndarray, bins: int = 15) -> Score:
    """Expected calibration error: Σ_bins n_bin / N · |accuracy_bin - confidence_bin|, in percent.

    A bin holds the confidences in (i / bins, (i + 1) / bins].

    Args:
        probabilities: (N, C), each row adding up to 1.
        expected: (N,), the right column of each row.
        bins: how many of equal width.

    Returns:
        The error, 0 to 100; less is better. Chance alone keeps accuracy and confidence of a bin apart, the more so the fewer examples
        it holds, and every gap counts as an error: of a few hundred examples it is too large, of drawn ones larger still. So it is no
        `Measurement`, whose parts and intervals would say what does not hold.

    Raises:
        ShapeError: the shapes do not fit, or a label is no column.
        DataError: there are no examples.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    >>> print(round(calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1]).value, 6))
    30.0
    """
    table, right = np.asarray(probabilities, dtype=np.float64), np.asarray(expected)
    if table.ndim != 2 or right.shape != table.shape[:1] or bins < 1:
        raise ShapeError(
            "probabilities and labels do not fit. Expected: (N, C) and (N,), and at least 1 bin. "
            f"Received: {table.shape} and {right.shape}, {bins} bins. To mend it: pass one row for each example."
        )
    if len(right) and not (right.min() >= 0 and right.max() < table.shape[1]):
        raise ShapeError(
            f"a label is no column. Expected: 0 to {table.shape[1] - 1}. Received: {right.min()} to {right.max()}. "
            "To mend it: number the labels as the columns are."
        )
    if not len(right):
        raise DataError(
            "there are no examples. Expected: at least one. Received: 0. To mend it: look at the file."
        )
    confidence = table.max(axis=1)
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    # The gap of a bin, times its examples: those that are right, less the sum of the confidences.
    gaps = np.bincount(bin_of, (table.argmax(axis=1) == right) - confidence)
    value = 100.0 * float(np.abs(gaps).sum()) / len(right)
    return Score("calibration-error", value, f"bins:{bins}", less_is_better=True)


def _table(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right, and predicted + expected, of each class."""
    table = sums.reshape(*sums.shape[:-1], 3, -1)
    return table[..., 0, :], table[..., 1, :] + table[..., 2, :]


def _macro(sums: np.ndarray) -> np.ndarray:
    """Over the classes that occur, in a resampled test set as in the whole."""
    right, occurrences = _table(sums)
    f1 = divided(200.0 * right, occurrences)
    return divided(f1.sum(axis=-1), (occurrences > 0).sum(axis=-1).astype(np.float64))


def _micro(sums: np.ndarray) -> np.ndarray:
    right, occurrences = _table(sums)
    return divided(200.0 * right.sum(axis=-1), occurrences.sum(axis=-1))
