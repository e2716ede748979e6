"""Accuracy, F1 over classes and calibration of a classifier."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._errors import DataError, ShapeError
from regard.metrics.measurement import Measurement, averaged, divided, measured, paired


@dataclass(frozen=True)
class LabelScores:
    """`accuracy`, and the `macro_f1` and `micro_f1` of all `classes`; `class_f1` has each by itself, 0 to 100."""

    accuracy: Measurement
    macro_f1: Measurement
    micro_f1: Measurement
    class_f1: dict[Any, float]


def label_scores(
    predicted: Sequence[Hashable], expected: Sequence[Hashable], labels: Sequence[Hashable] | None = None
) -> LabelScores:
    """Scores of one label for each example.

    Args:
        predicted: labels, of one type that sorts.
        expected: as many.
        labels: the classes that macro- and micro-F1 count; one that occurs nowhere counts 0. Two systems can only be
            compared with the same ones. When not given, every class that is predicted or expected.

    Returns:
        The scores. Micro-F1 equals accuracy when every class counts.

    Raises:
        DataError: counts differ, or there are no examples.

    Source: F1 of a class is 2 tp / (predicted + expected), 0 of 0 being 0; macro-F1 is their mean, as scikit-learn's
    `f1_score(average="macro", zero_division=0)`.

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
    signature = f"classes:{len(names)}#{checksum:08x}|absent:{'left-out' if labels is None else 'zero'}"
    statistics = rows.reshape(len(rows), 3 * len(names))
    macro = _macro_given if labels is not None else _macro_occurring
    accuracy = averaged("accuracy", "", [found == wanted for found, wanted in zip(ours, theirs, strict=True)])
    f1 = _class_f1(statistics.sum(axis=0))
    return LabelScores(
        accuracy,
        measured("macro-f1", signature, statistics, macro),
        measured("micro-f1", signature, statistics, _micro),
        {name: float(value) for name, value in zip(names, f1, strict=True)},
    )


def calibration_error(
    probabilities: Any, expected: Sequence[int] | np.ndarray, bins: int = 15
) -> Measurement:
    """Expected calibration error: Σ_bins n_bin / N · |accuracy_bin - confidence_bin|, in percent.

    A bin holds the confidences in (i / bins, (i + 1) / bins].

    Args:
        probabilities: (N, C), each row adding up to 1.
        expected: (N,), the right column of each row.
        bins: how many of equal width.

    Returns:
        The error, 0 to 100; less is better. A few hundred examples in few bins measure it only roughly.

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
    rows = np.zeros((len(right), bins, 3))
    correct = table.argmax(axis=1) == right
    rows[np.arange(len(right)), bin_of] = np.stack([correct, confidence, np.ones(len(right))], axis=1)
    return measured("calibration-error", f"bins:{bins}", rows.reshape(len(rows), -1), _calibration)


def _table(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right, and predicted + expected, of each class."""
    table = sums.reshape(*sums.shape[:-1], 3, -1)
    return table[..., 0, :], table[..., 1, :] + table[..., 2, :]


def _class_f1(sums: np.ndarray) -> np.ndarray:
    right, occurrences = _table(sums)
    return divided(200.0 * right, occurrences)


def _macro_given(sums: np.ndarray) -> np.ndarray:
    f1 = _class_f1(sums)
    return divided(f1.sum(axis=-1), np.full(f1.shape[:-1], float(f1.shape[-1])))


def _macro_occurring(sums: np.ndarray) -> np.ndarray:
    """Over the classes that occur, in a resampled test set as in the whole."""
    return divided(_class_f1(sums).sum(axis=-1), (_table(sums)[1] > 0).sum(axis=-1).astype(np.float64))


def _micro(sums: np.ndarray) -> np.ndarray:
    right, occurrences = _table(sums)
    return divided(200.0 * right.sum(axis=-1), occurrences.sum(axis=-1))


def _calibration(sums: np.ndarray) -> np.ndarray:
    table = sums.reshape(*sums.shape[:-1], -1, 3)
    gaps = np.abs(table[..., 0] - table[..., 1]).sum(axis=-1)
    return divided(100.0 * gaps, table[..., 2].sum(axis=-1))
