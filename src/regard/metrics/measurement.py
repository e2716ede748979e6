"""A score that keeps what each example added to it, so that two systems can be compared (see `significance`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._errors import DataError
from regard.metrics.translation import Score

# (..., K) sums over examples -> (...) values of the score.
Formula = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Measurement(Score):
    """A `Score` with its statistics: value = formula(statistics.sum(axis=0)).

    Args:
        statistics: (N, K) float64, one row for each example; rows of a resampled test set are added up.
        formula: from sums (..., K) to values (...).
        rows: what the rows are, in the plural.

    >>> exact = averaged("exact", "case:mixed", [1, 0, 1, 1])
    >>> print(exact, exact.statistics.shape)
    exact 75.0 (case:mixed) (4, 2)
    """

    statistics: np.ndarray
    formula: Formula
    rows: str = "examples"


def measured(
    name: str,
    signature: str,
    statistics: Any,
    formula: Formula,
    *,
    rows: str = "examples",
    less_is_better: bool = False,
) -> Measurement:
    """The measurement whose value `formula` gives for the sum of all rows of `statistics` (N, K).

    Raises:
        DataError: there is no example.

    >>> print(measured("words", "per:line", [[6, 2], [4, 2]], ratio).value)
    2.5
    """
    table = np.asarray(statistics, dtype=np.float64)
    if len(table) == 0:
        raise DataError(
            "there are no examples to score. Expected: at least one. Received: 0. To mend it: look whether the file "
            "was read, and whether a filter left nothing."
        )
    value = float(formula(table.sum(axis=0)))
    return Measurement(name, value, signature, table, formula, rows, less_is_better=less_is_better)


def by_example(measurement: Measurement) -> list[float]:
    """What the score would be of each row alone.

    >>> by_example(averaged("exact", "", [1, 0]))
    [100.0, 0.0]
    """
    values: list[float] = measurement.formula(measurement.statistics).tolist()
    return values


def averaged(name: str, signature: str, values: Sequence[float] | np.ndarray) -> Measurement:
    """100 × the mean of one value between 0 and 1 for each example.

    >>> averaged("f1", "", [0.5, 1.0]).value
    75.0
    """
    column = np.asarray(values, dtype=np.float64)
    return measured(name, signature, np.stack([column, np.ones_like(column)], axis=1), percentage)


def ratio(sums: np.ndarray) -> np.ndarray:
    """First column over second, 0 where the second is 0.

    >>> ratio(np.array([[1.0, 4.0], [0.0, 0.0]]))
    array([0.25, 0.  ])
    """
    return divided(sums[..., 0], sums[..., 1])


def percentage(sums: np.ndarray) -> np.ndarray:
    """100 × first column over second, 0 where the second is 0.

    >>> percentage(np.array([1.0, 4.0]))
    array(25.)
    """
    return np.asarray(100.0 * sums[..., 0] / np.where(sums[..., 1] == 0, 1.0, sums[..., 1]))


def divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, 0 where the denominator is 0: what every scorer here means by 0 of 0.

    >>> divided(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    array([0.5, 0. ])
    """
    zero = denominator == 0
    return np.where(zero, 0.0, numerator / np.where(zero, 1.0, denominator))


def overlap_f1(common: int, predicted: int, expected: int) -> float:
    """Harmonic mean of precision common / predicted and recall common / expected, in the order scorers compute it.

    >>> overlap_f1(1, 2, 1)
    0.6666666666666666
    """
    if common == 0:
        return 0.0
    precision, recall = common / predicted, common / expected
    return 2 * precision * recall / (precision + recall)


def paired(predictions: Sized, references: Sized, what: str = "references") -> None:
    """Refuse a single text and counts that differ.

    Raises:
        DataError: `predictions` or `references` is a string, or their lengths differ.

    >>> paired(["a", "b"], ["a", "c"])
    """
    if isinstance(predictions, str) or isinstance(references, str):
        raise DataError(
            f"a single text cannot be scored as a list. Expected: a list of predictions and a list of {what}. "
            "Received: a string. To mend it: put it in a list."
        )
    if len(predictions) != len(references):
        raise DataError(
            f"predictions and {what} do not match. Expected: one entry of {what} for each prediction. "
            f"Received: {len(predictions)} predictions, {len(references)} {what}. To mend it: score predictions "
            "for exactly the examples of the file."
        )


def several(references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Each example's references as a list.

    Raises:
        DataError: an example has none.

    >>> several(["a", ["b", "c"]])
    [['a'], ['b', 'c']]
    """
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    if [] in lists:
        raise DataError(
            f"example {lists.index([])} has no reference. Expected: at least one for each example. Received: none. "
            "To mend it: leave out what has no reference."
        )
    return lists
