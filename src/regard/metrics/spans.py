"""Precision, recall and F1 of semantic roles as srl-eval.pl counts them, the scorer of CoNLL-2005."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from regard._errors import DataError
from regard.metrics.measurement import Measurement, averaged, divided, measured, paired
from regard.metrics.propositions import Phrase, Proposition, read_props, tagged_phrases

# The predicate itself is given, not found: it is counted apart.
EXCLUDED = "V"
SIGNATURE = "scorer:conll2005|excluded:V"
PREDICATES = "predicates"  # what the rows of statistics are


@dataclass(frozen=True)
class Argument:
    """A role and the words it covers: one piece, or several where it is discontinuous (X ... C-X).

    >>> arguments(tagged_phrases(["B-A0", "B-V", "B-C-A0"]))[0]
    Argument(role='A0', extent=(0, 2), pieces=frozenset({...}))
    """

    role: str
    extent: tuple[int, int]
    pieces: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Counts:
    """How many arguments were right, in excess and missed; precision, recall and F1 are between 0 and 100.

    >>> counts = Counts(correct=3, excess=1, missed=3)
    >>> print(counts.precision, counts.recall, counts.f1)
    75.0 50.0 60.0
    """

    correct: int = 0
    excess: int = 0
    missed: int = 0

    @property
    def precision(self) -> float:
        """100 × correct / predicted."""
        return float(_precision(self._row()))

    @property
    def recall(self) -> float:
        """100 × correct / expected."""
        return float(_recall(self._row()))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return float(_f1(self._row()))

    def _row(self) -> np.ndarray:
        return np.array([self.correct, self.excess, self.missed], dtype=np.float64)


@dataclass(frozen=True)
class RoleScores:
    """`precision`, `recall` and `f1` of all roles but V, the share of `perfect` propositions, and the counts of `roles`.

    `roles` holds every role that occurs, references (R-A0) as roles of their own; `predicate` counts V.
    """

    precision: Measurement
    recall: Measurement
    f1: Measurement
    perfect: Measurement
    overall: Counts
    roles: dict[str, Counts] = field(default_factory=dict)
    predicate: Counts = Counts()


def role_scores(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> RoleScores:
    """Scores of BIO tag rows, one row for each predicate.

    An argument is right if role and words agree, all pieces of a discontinuous one together.

    Args:
        predicted: tags O, B-ROLE and I-ROLE. An I-ROLE that continues nothing begins a span.
        expected: rows of the same lengths.

    Returns:
        The scores; each example of their statistics is a predicate.

    Raises:
        DataError: counts or lengths differ, or a tag is none of BIO.

    Source: Carreras and Màrquez 2005, "Introduction to the CoNLL-2005 Shared Task"; srl-eval.pl.

    >>> expected = [["B-A0", "B-V", "B-A1", "I-A1"], ["O", "B-V", "B-A1", "B-C-A1"]]
    >>> predicted = [["B-A0", "B-V", "B-A1", "O"], ["O", "B-V", "B-A1", "B-C-A1"]]
    >>> scores = role_scores(predicted, expected)
    >>> print(f"{scores.f1.value:.2f}", scores.roles["A1"])
    66.67 Counts(correct=1, excess=1, missed=1)
    """
    paired(predicted, expected, "rows of tags")
    for row, (ours, theirs) in enumerate(zip(predicted, expected, strict=True)):
        if len(ours) != len(theirs):
            raise DataError(
                f"the tags of row {row} do not match. Expected: {len(theirs)} tags, one for each word. "
                f"Received: {len(ours)}. To mend it: tag words, not pieces of words."
            )
    pairs = zip(map(tagged_phrases, predicted), map(tagged_phrases, expected), strict=True)
    return _scores((arguments(ours), arguments(theirs)) for ours, theirs in pairs)


def column_scores(predicted: str, expected: str) -> RoleScores:
    r"""Scores of two texts in the columns of CoNLL-2005: target verbs, then one column of brackets for each verb.

    As srl-eval.pl does, a predicate that is missing or has another form counts all its arguments as missed, and a
    predicate that nobody expected is left out.

    Args:
        predicted: the text of a props file; sentences are separated by blank lines.
        expected: the gold props of the same sentences.

    Returns:
        The scores; each example of their statistics is an expected predicate.

    Raises:
        DataError: the sentences differ in number or length, or brackets do not match.

    Source: srl-eval.pl of CoNLL-2005.

    >>> print(column_scores("- (A0*)\nrun (V*)", "- (A0*)\nrun (V*)").f1.value)
    100.0
    """
    ours, theirs = read_props(predicted), read_props(expected)
    paired(ours, theirs, "sentences")
    pairs = []
    for number, (found, wanted) in enumerate(zip(ours, theirs, strict=True), 1):
        if found.words != wanted.words:
            raise DataError(
                f"sentence {number} has another length. Expected: {wanted.words} words. Received: {found.words}. "
                "To mend it: write one line for each word and a blank line after each sentence."
            )
        for position, gold in wanted.propositions.items():
            guess = found.propositions.get(position, Proposition(gold.verb, []))
            phrases = guess.phrases if guess.verb == gold.verb else []
            pairs.append((arguments(phrases), arguments(gold.phrases)))
    return _scores(pairs)


def arguments(phrases: Iterable[Phrase]) -> list[Argument]:
    """Phrases as arguments: C-X joins the latest X before it, and is an X of its own where there is none.

    >>> [argument.role for argument in arguments(tagged_phrases(["B-C-A1", "B-R-A0", "B-C-A1"]))]
    ['A1', 'R-A0']
    """
    found: list[Phrase] = []
    latest: dict[str, Phrase] = {}
    for phrase in copy.deepcopy(list(phrases)):
        role = phrase.role.removeprefix("C-")
        if role != phrase.role and role in latest:
            head = latest[role]
            head.pieces = head.pieces or [Phrase(role, head.first, head.last)]
            head.pieces.append(phrase)
            head.last = phrase.last
            continue
        phrase.role = role
        latest[role] = phrase
        found.append(phrase)
    # Only now: an argument that stands inside another may have been continued.
    return [Argument(one.role, _extent(one), frozenset(map(_extent, one.pieces))) for one in found]


def _extent(phrase: Phrase) -> tuple[int, int]:
    return phrase.first, phrase.last


def _compared(predicted: list[Argument], expected: list[Argument]) -> tuple[Counter[str], ...]:
    """Roles that are correct, in excess and missed; where expected arguments share an extent, the last one stands."""
    open_ = {argument.extent: argument for argument in expected}
    correct, excess = Counter[str](), Counter[str]()
    for argument in predicted:
        if open_.get(argument.extent) == argument:
            correct[argument.role] += 1
            del open_[argument.extent]
        else:
            excess[argument.role] += 1
    return correct, excess, Counter(argument.role for argument in open_.values())


def _scores(pairs: Iterable[tuple[list[Argument], list[Argument]]]) -> RoleScores:
    totals = Counter[str](), Counter[str](), Counter[str]()
    rows = []
    for predicted, expected in pairs:
        counts = _compared(predicted, expected)
        for total, count in zip(totals, counts, strict=True):
            total.update(count)
        rows.append([count.total() - count[EXCLUDED] for count in counts])
    statistics = np.array(rows, dtype=np.float64).reshape(-1, 3)
    roles = {role: Counts(*(total[role] for total in totals)) for role in sorted(set().union(*totals))}
    return RoleScores(
        measured("precision", SIGNATURE, statistics, _precision, rows=PREDICATES),
        measured("recall", SIGNATURE, statistics, _recall, rows=PREDICATES),
        measured("f1", SIGNATURE, statistics, _f1, rows=PREDICATES),
        replace(averaged("perfect", SIGNATURE, statistics[:, 1] + statistics[:, 2] == 0), rows=PREDICATES),
        Counts(*(int(total) for total in statistics.sum(axis=0))),
        {role: counts for role, counts in roles.items() if role != EXCLUDED},
        roles.get(EXCLUDED, Counts()),
    )


def _precision(sums: np.ndarray) -> np.ndarray:
    return divided(100.0 * sums[..., 0], sums[..., 0] + sums[..., 1])


def _recall(sums: np.ndarray) -> np.ndarray:
    return divided(100.0 * sums[..., 0], sums[..., 0] + sums[..., 2])


def _f1(sums: np.ndarray) -> np.ndarray:
    precision, recall = _precision(sums), _recall(sums)
    return divided(2 * precision * recall, precision + recall)
