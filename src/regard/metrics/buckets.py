"""Where a system is weak: examples cut by a number that each of them has, such as its length, and scored part by part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regard._errors import ConfigError
from regard.metrics.measurement import Measurement, measured

BUCKETS = 4
FEW = 50


@dataclass(frozen=True)
class Group:
    """What examples can be cut by.

    Args:
        unit: what the numbers count, for people.
        value: from an example to its number, or to one number for each row that the example adds to the scores, NaN for one that
            belongs to no bucket; or to a name: examples of one name are then a bucket.
        edges: ascending; each begins a bucket. Without them buckets have equal counts.
        measure: from all predictions to the scores that are cut; by default those of the task.
        scores: the names of those whose rows the numbers belong to; by default all that have as many rows as there are numbers.
        rows: what is counted in a bucket, in the plural.
        count: from all predictions to how many of these each row stands for; by default one.

    >>> Group("words", lambda text: len(text.split())).value("A dog runs.")
    3
    """

    unit: str
    value: Callable[[Any], float | Sequence[float] | str]
    edges: tuple[float, ...] = ()
    measure: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    scores: tuple[str, ...] | None = None
    rows: str = "examples"
    count: Callable[[Sequence[Any]], Sequence[int]] | None = None


@dataclass(frozen=True, eq=False)
class Bucket:
    """Examples of like value: the smallest and the largest of their values, and (n,) the rows of a score that are theirs.

    >>> print(cut([3, 1, 2], edges=[3])[0])
    1 to 2
    """

    low: float
    high: float
    rows: NDArray[np.int64]
    name: str | None = None
    """What the examples have in common where it is no number."""
    weight: int | None = None
    """What the rows stand for together, where each is more than one example."""

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.rows) if self.weight is None else self.weight

    @property
    def few(self) -> bool:
        """Whether a score of so few examples says little."""
        return self.count < FEW

    def __str__(self) -> str:
        if self.name is not None:
            return self.name
        ends = [f"{end:,.0f}" if end == round(end) else f"{end:.3g}" for end in (self.low, self.high)]
        return " to ".join(ends if self.low < self.high else ends[:1])


def cut(values: ArrayLike, edges: Sequence[float] = (), count: int = BUCKETS) -> list[Bucket]:
    """Buckets of rows by their values, in ascending order and none of them empty.

    Args:
        values: (n,) one number for each row; NaN is in no bucket.
        edges: ascending; each begins a bucket. Without them the buckets hold numbers of rows as equal as rows of one value,
            which stay together, allow.
        count: of buckets without edges, at most.

    Raises:
        ConfigError: `count` is below 1, or `edges` do not ascend.

    >>> [str(bucket) for bucket in cut([1, 1, 1, 2, 5, 9], count=2)]
    ['1', '2 to 9']
    >>> [len(bucket.rows) for bucket in cut([0, 12, 7, 300], edges=[1, 10, 100])]
    [1, 1, 1, 1]
    """
    if count < 1 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ConfigError(
            "the buckets are no buckets. Expected: at least one, or edges that ascend. "
            f"Received: count={count}, edges={list(edges)}. To mend it: leave both out for {BUCKETS} of equal counts."
        )
    numbers = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(numbers))
    begins = np.asarray(edges, dtype=np.float64) if len(edges) else _begins(numbers[known], count)
    places = np.searchsorted(begins, numbers[known], side="right")
    parts = [known[places == place] for place in range(len(begins) + 1)]
    return [
        Bucket(float(numbers[rows].min()), float(numbers[rows].max()), rows) for rows in parts if len(rows)
    ]


def named(names: Sequence[str]) -> list[Bucket]:
    """A bucket for each name that rows have, in the order of the names.

    >>> [(str(bucket), bucket.rows.tolist()) for bucket in named(["dog", "cat", "dog"])]
    [('cat', [1]), ('dog', [0, 2])]
    """
    distinct, places = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return [
        Bucket(number, number, np.flatnonzero(places == number), str(name))
        for number, name in enumerate(distinct)
    ]


def part(measurement: Measurement, rows: NDArray[np.int64]) -> Measurement:
    """The same score of some of the rows: counted as in the whole, with its tokenizer and its labels.

    >>> from regard.metrics.measurement import averaged
    >>> part(averaged("exact", "", [1, 0, 1, 1]), np.array([0, 1])).value
    50.0
    """
    one = measurement
    return measured(
        one.name,
        one.signature,
        one.statistics[rows],
        one.formula,
        rows=one.rows,
        less_is_better=one.less_is_better,
    )


def _begins(numbers: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The values that begin the second and later buckets: where a boundary between values is nearest to an equal share."""
    distinct, counts = np.unique(numbers, return_counts=True)
    before = np.cumsum(counts)[:-1]  # rows below distinct[1], distinct[2] ...
    if not len(before):
        return distinct[:0]
    shares = np.arange(1, count) * len(numbers) / count
    nearest = np.abs(before[None, :] - shares[:, None]).argmin(axis=1)
    return distinct[1 + np.unique(nearest)]
