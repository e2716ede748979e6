"""Whether one system is better than another, or was lucky with the test set: paired bootstrap, randomisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._errors import ConfigError, DataError, ShapeError
from regard.metrics.measurement import Formula, Measurement, measured, percentage
from regard.metrics.translation import References, _checked, _tokenizer

TESTS = ("randomization", "bootstrap")
# Rows drawn at a time. A multiple of 32, so that the generator gives the same numbers as in one draw.
CHUNK = 320
# Sums of the same numbers in another order are equal: a tie, not a win.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `difference` is second - first; `low` and `high` bound it; `p` belongs to `test`.

    `wins` is the share of bootstrap samples in which the second scores higher, ties counting half (Koehn 2004). `examples` is how
    many were compared, of what `rows` names. Of one alone p is 1, and `low`, `high` and `wins` are NaN.
    """

    name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    wins: float
    test: str
    examples: int
    rows: str = "examples"
    less_is_better: bool = False

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return (
            f"{self.name} {self.first:.1f} -> {self.second:.1f}, {self.difference:+.1f}{interval}, "
            f"p {self.p:.4f} ({self.test}, {self.examples} {self.rows})"
        )


def compare(
    first: Measurement | Any,
    second: Measurement | Any,
    formula: Formula | None = None,
    test: str = "randomization",
    confidence: float = 0.95,
    samples: int = 1000,
    trials: int = 10_000,
    seed: int = 12345,
) -> Comparison:
    """Compares two systems on the same examples.

    The interval holds the middle `confidence` of the differences on `samples` test sets drawn from the examples with
    replacement (percentiles of the paired bootstrap). p, two-sided, is (1 + c) / (1 + n): with "randomization" c of
    n = `trials` random exchanges of the two systems' outputs, each example by itself, differ at least as much as the
    systems do; with "bootstrap" c of n = `samples` differences lie at least that far from their mean. One example says
    nothing of others: there is no interval, and p is 1.

    Args:
        first: a measurement, or an array of statistics (N, K) or (N,).
        second: the same of the other system, for the same examples in the same order.
        formula: for arrays: from sums (..., K) to scores (...). Without it, (N,) values between 0 and 1 are
            averaged and given in percent.
        test: "randomization" or "bootstrap".
        confidence: of the interval, between 0 and 1.
        samples: bootstrap samples.
        trials: random exchanges.
        seed: of NumPy's default generator; the same seed gives the same numbers.

    Returns:
        The comparison.

    Raises:
        DataError: the measurements are of different scores, or of different numbers of examples.
        ShapeError: the statistics do not fit each other or the formula.
        ConfigError: an unknown test, or a number out of range.

    Source: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"; Noreen 1989; Riezler and
    Maxwell 2005, who find that randomisation sees fewer differences where there are none. sacrebleu draws the same
    samples from the same seed, but counts a difference that is equal as smaller, and folds those of the bootstrap
    before it centers them: its p is too small for ties, and with the bootstrap about half of this one or less.

    >>> right, wrong = np.ones(20), np.array([1.0, 0.0] * 10)
    >>> print(compare(wrong, right))
    mean 50.0 -> 100.0, +50.0 [+30.0, +70.0], p 0.0021 (randomization, 20 examples)
    """
    _in_range(test, confidence, samples, trials)
    one, other = _as_measurements(first, second, formula)
    a, b, score = one.statistics, other.statistics, one.formula
    difference = other.value - one.value
    facts: dict[str, Any] = {
        "name": one.name,
        "first": one.value,
        "second": other.value,
        "difference": difference,
        "test": test,
        "examples": len(a),
        "rows": one.rows,
        "less_is_better": one.less_is_better,
    }
    if len(a) < 2:
        return Comparison(**facts, low=math.nan, high=math.nan, p=1.0, wins=math.nan)
    drawn = np.concatenate([score(w @ b) - score(w @ a) for w in _bootstrap(len(a), samples, seed)])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    null = drawn - drawn.mean() if test == "bootstrap" else _exchanged(a, b, score, trials, seed)
    extreme = int(np.sum(np.abs(null) >= abs(difference) - ROUNDING))
    ties = np.abs(drawn) <= ROUNDING
    wins = np.mean((drawn > ROUNDING) + 0.5 * ties)
    p = (1 + extreme) / (1 + len(null))
    return Comparison(**facts, low=float(low), high=float(high), p=p, wins=float(wins))


def bleu_measurement(
    hypotheses: Sequence[str], references: References, language: str | None = None, lowercase: bool = False
) -> Measurement:
    """`translation.bleu` with each example's statistics, for `compare`.

    >>> bleu_measurement(["A dog runs fast."], ["A dog runs fast."]).value
    100.0...
    """
    from sacrebleu.metrics.bleu import BLEU

    lists = _checked(hypotheses, references)
    tokenizer = _tokenizer(language, [text for texts in lists for text in texts])
    return _sacrebleu("bleu", BLEU(lowercase=lowercase, tokenize=tokenizer, force=True), hypotheses, lists)


def chrf_measurement(
    hypotheses: Sequence[str], references: References, lowercase: bool = False
) -> Measurement:
    """`translation.chrf` with each example's statistics, for `compare`.

    >>> chrf_measurement(["A dog runs fast."], ["A dog runs fast."]).value
    100.0
    """
    from sacrebleu.metrics.chrf import CHRF

    return _sacrebleu("chrf", CHRF(lowercase=lowercase), hypotheses, _checked(hypotheses, references))


def _sacrebleu(name: str, metric: Any, hypotheses: Sequence[str], lists: list[list[str]]) -> Measurement:
    streams = [[texts[i] if i < len(texts) else None for texts in lists] for i in range(max(map(len, lists)))]
    # What sacrebleu's own significance tests call; corpus_score gives no statistics away.
    statistics = metric._extract_corpus_statistics(hypotheses, streams)
    return measured(name, str(metric.get_signature()), statistics, _row_by_row(metric))


def _row_by_row(metric: Any) -> Formula:
    def formula(sums: np.ndarray) -> np.ndarray:
        rows = sums.reshape(-1, sums.shape[-1])
        values = [metric._compute_score_from_stats(row.tolist()).score for row in rows]
        return np.array(values).reshape(sums.shape[:-1])

    return formula


def _in_range(test: str, confidence: float, samples: int, trials: int) -> None:
    if test not in TESTS:
        raise ConfigError(
            f"unknown test {test!r}. Expected: one of {', '.join(TESTS)}. Received: {test!r}. To mend it: take "
            "'randomization' unless you must repeat a bootstrap."
        )
    if not 0 < confidence < 1 or min(samples, trials) < 1:
        raise ConfigError(
            "a number is out of range. Expected: 0 < confidence < 1, samples and trials of at least 1. "
            f"Received: confidence={confidence}, samples={samples}, trials={trials}. To mend it: leave them out."
        )


def _as_measurements(first: Any, second: Any, formula: Formula | None) -> tuple[Measurement, Measurement]:
    one, other = (_as_measurement(system, formula) for system in (first, second))
    if (one.name, one.signature) != (other.name, other.signature):
        raise DataError(
            "two different scores cannot be compared. Expected: the same name and signature. "
            f"Received: {one.name} ({one.signature}) and {other.name} ({other.signature}). To mend it: score both "
            "with the same options; for labels, pass the same `labels`."
        )
    if len(one.statistics) != len(other.statistics):
        raise DataError(
            "the systems were scored on different examples. Expected: as many of the second as of the first, in the "
            f"same order. Received: {len(one.statistics)} and {len(other.statistics)}. To mend it: score both on one file."
        )
    if one.statistics.shape != other.statistics.shape:
        raise ShapeError(
            "the statistics do not fit each other. Expected: as many columns. "
            f"Received: {one.statistics.shape} and {other.statistics.shape}. To mend it: for labels, pass the same `labels`."
        )
    return one, other


def _as_measurement(system: Any, formula: Formula | None) -> Measurement:
    if isinstance(system, Measurement):
        return system
    array = np.asarray(system, dtype=np.float64)
    if array.ndim == 1 and formula is None:
        return measured("mean", "", np.stack([array, np.ones_like(array)], axis=1), percentage)
    if array.ndim != 2 or formula is None:
        raise ShapeError(
            "statistics are a table with a formula. Expected: a Measurement, (N,) values, or (N, K) statistics and a "
            f"formula. Received: {array.shape}{'' if formula else ' without a formula'}. To mend it: pass `formula`."
        )
    return measured("score", "", array, formula)


def _draws(rows: int, draw: Callable[[int], np.ndarray]) -> Iterator[np.ndarray]:
    for begin in range(0, rows, CHUNK):
        yield draw(min(CHUNK, rows - begin))


def _bootstrap(examples: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """(rows, N): how often each example stands in each sample."""
    generator = np.random.default_rng(seed)
    for drawn in _draws(
        samples, lambda rows: generator.choice(examples, size=(rows, examples), replace=True)
    ):
        flat = drawn + examples * np.arange(len(drawn))[:, None]
        yield np.bincount(flat.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _exchanged(a: np.ndarray, b: np.ndarray, score: Formula, trials: int, seed: int) -> np.ndarray:
    """The differences after exchanging each example's outputs with probability one half."""
    generator = np.random.default_rng(seed)
    both, gap = (a + b).sum(axis=0), a - b
    base = b.sum(axis=0)
    differences = []
    for kept in _draws(trials, lambda rows: generator.integers(2, size=(rows, len(a)), dtype=bool)):
        ours = base + kept.astype(np.float64) @ gap
        differences.append(score(both - ours) - score(ours))
    return np.concatenate(differences)
