"""What was measured, one line each, and how sure it is.

Shape letters: S seeds, N examples, K columns of statistics, B bootstrap samples, T draws of Student's t for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from regard.metrics.measurement import Formula, percentage
from regard.metrics.significance import bleu_measurement

FILE = "points.jsonl"
OTHERS = 50  # draws of what other seeds could have given, for each sample of examples


@dataclass(frozen=True)
class Point:
    """One trained model on one bucket: a row of statistics for each example; `score` says what they add up to."""

    experiment: str
    kind: str
    seed: int
    bucket: int
    rows: list[list[float]]
    score: str = "accuracy"
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A value between the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def add(folder: Path, points: Sequence[Point]) -> None:
    """Append points to the folder's file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a", encoding="utf8") as file:
        file.writelines(json.dumps(asdict(point)) + "\n" for point in points)


def read(folder: Path) -> list[Point]:
    """All points; of those measured twice the last."""
    path = folder / FILE
    lines = path.read_text(encoding="utf8").splitlines() if path.exists() else []
    points = [Point(**json.loads(line)) for line in lines]
    return list({(p.experiment, p.kind, p.seed, p.bucket): p for p in points}.values())


def formula_of(score: str) -> Formula:
    """From sums (..., K) of statistics to values (...)."""
    return _bleu() if score == "bleu" else percentage


def estimate(points: Sequence[Point], samples: int = 2000) -> Estimate:
    """The mean over seeds; the interval is that of drawing examples anew, and of seeds as Student's t has it."""
    return _estimate(_drawn(points, samples, 1), _values(_stacked(points), points[0].score).mean(), 0)


def difference(first: Sequence[Point], second: Sequence[Point], samples: int = 2000) -> Estimate:
    """Second minus first, on the same examples in every draw, each side with seeds of its own."""
    drawn = _drawn(second, samples, 2) - _drawn(first, samples, 1)
    one, other = (_values(_stacked(points), points[0].score).mean() for points in (first, second))
    return _estimate(drawn, other - one, -100)


def _drawn(points: Sequence[Point], samples: int, side: int) -> np.ndarray:
    """(B, T) values; the examples that are drawn depend on nothing but their number, what stands for other seeds also on the side.

    Drawing the few seeds themselves anew would understate how far they lie apart: the mean of S of them strays from that of all
    by its standard error times Student's t with S - 1 degrees of freedom. For a difference both sides stray on their own, as
    Behrens and Fisher have it.
    """
    rows_SNK, score = _stacked(points), points[0].score
    seeds, count, _ = rows_SNK.shape
    weights_BN = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=samples)
    values_BS = formula_of(score)(weights_BN.astype(np.float64) @ rows_SNK).T
    values_B1 = values_BS.mean(axis=1, keepdims=True)
    if seeds == 1:
        return values_B1
    error = _values(rows_SNK, score).std(ddof=1) / np.sqrt(seeds)
    return values_B1 + error * np.random.default_rng(side).standard_t(seeds - 1, size=(samples, OTHERS))


def _values(rows_SNK: np.ndarray, score: str) -> np.ndarray:
    """(S,), of every seed on all examples."""
    return formula_of(score)(rows_SNK.sum(axis=1))


def _stacked(points: Sequence[Point]) -> np.ndarray:
    if len({len(point.rows) for point in points}) != 1:
        counts = sorted({len(point.rows) for point in points})
        message = f"seeds of one bucket must be measured on the same examples; received {counts} of them"
        raise ValueError(message)
    return np.array([point.rows for point in points], dtype=np.float64)


def _estimate(drawn: np.ndarray, value: float, least: float) -> Estimate:
    """What cannot be, below `least` or above 100, is in no interval."""
    low, high = np.quantile(drawn, [0.025, 0.975]).clip(least, 100)
    return Estimate(float(value), float(low), float(high))


@cache
def _bleu() -> Formula:
    return bleu_measurement(["a"], ["a"]).formula
