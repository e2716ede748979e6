from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from regard._errors import DataError, ShapeError
from regard.metrics.buckets import part
from regard.metrics.labels import calibration_error, label_scores, multilabel_scores
from regard.metrics.measurement import Measurement

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20)
sets = st.lists(
    st.tuples(st.frozensets(st.integers(0, 4)), st.frozensets(st.integers(0, 4))), min_size=1, max_size=12
)


def plain_f1(predicted, expected, labels):
    """F1 of each class by counting."""
    values = []
    for label in labels:
        right = sum(label in one and label in other for one, other in zip(predicted, expected, strict=True))
        total = sum(label in one for one in predicted) + sum(label in one for one in expected)
        values.append(2 * right / total if total else 0.0)
    return values


@given(sets)
def test_any_labels(examples):
    predicted, expected = map(list, zip(*examples, strict=True))
    occurring = sorted(set().union(*predicted, *expected))
    scores = multilabel_scores(predicted, expected)
    f1 = plain_f1(predicted, expected, occurring)
    assert scores.macro_f1.value == pytest.approx(100 * np.mean(f1) if f1 else 0)
    assert list(scores.classes) == occurring
    assert np.allclose([counts.f1 for counts in scores.classes.values()], 100 * np.array(f1))
    assert scores.accuracy.value == pytest.approx(100 * np.mean([a == b for a, b in examples]))
    given_labels = multilabel_scores(predicted, expected, range(7))
    assert given_labels.macro_f1.value == pytest.approx(scores.macro_f1.value)
    assert given_labels.classes == scores.classes
    swapped = multilabel_scores(expected, predicted)
    assert swapped.macro_f1.value == pytest.approx(scores.macro_f1.value)
    backwards = multilabel_scores(predicted[::-1], expected[::-1])
    assert backwards.macro_f1.value == scores.macro_f1.value


@given(pairs)
def test_single_labels(examples):
    predicted, expected = map(list, zip(*examples, strict=True))
    scores = label_scores(predicted, expected)
    assert scores.micro_f1.value == pytest.approx(scores.accuracy.value)
    assert label_scores(expected, expected).macro_f1.value == pytest.approx(100)


@given(pairs, sets)
@settings(max_examples=20)
def test_as_scikit_learn(examples, many):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    predicted, expected = map(list, zip(*examples, strict=True))
    scores = label_scores(predicted, expected)
    for average, value in (("macro", scores.macro_f1.value), ("micro", scores.micro_f1.value)):
        assert value == pytest.approx(100 * metrics.f1_score(expected, predicted, average=average), rel=1e-13)
    assert scores.accuracy.value == pytest.approx(
        100 * metrics.accuracy_score(expected, predicted), rel=1e-13
    )
    ours, theirs = (
        np.array([[i in one for i in range(5)] for one in side]) for side in zip(*many, strict=True)
    )
    scores = multilabel_scores(*zip(*many, strict=True), labels=range(5))
    for average, value in (("macro", scores.macro_f1.value), ("micro", scores.micro_f1.value)):
        # A table has a column for every class; nan leaves out those that occur nowhere.
        absent = np.nan if (theirs | ours).any() and average == "macro" else 0.0
        theirs_f1 = metrics.f1_score(theirs, ours, average=average, zero_division=absent)
        assert value == pytest.approx(100 * theirs_f1, rel=1e-13)
    assert scores.accuracy.value == pytest.approx(100 * metrics.accuracy_score(theirs, ours), rel=1e-13)


def test_labels_that_occur_nowhere():
    assert label_scores(["a"], ["a"]).macro_f1.value == 100
    assert label_scores(["a"], ["a"], ["a", "b"]).macro_f1.value == 100
    assert label_scores(["a", "b"], ["a", "c"]).macro_f1.value == pytest.approx(100 / 3)
    assert label_scores(["x", "a"], ["x", "a"], ["a"]).macro_f1.value == 100
    assert multilabel_scores([[]], [[]]).macro_f1.value == 0
    names = {
        label_scores(["a"], ["a"], labels).macro_f1.signature for labels in (None, ["a"], ["b"], ["a", "b"])
    }
    assert len(names) == 3  # those that occur by themselves, or named


@given(pairs)
@settings(max_examples=20)
def test_every_class_as_scikit_learn(examples):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    predicted, expected = map(list, zip(*examples, strict=True))
    classes = label_scores(predicted, expected, range(9)).classes
    theirs = metrics.precision_recall_fscore_support(expected, predicted, zero_division=0)
    ours = [
        (counts.precision / 100, counts.recall / 100, counts.f1 / 100, counts.correct + counts.missed)
        for counts in classes.values()
    ]
    assert np.allclose(np.array(ours).T, np.array(theirs))


def test_a_part_without_a_class_is_scored_by_those_that_it_has():
    scores = label_scores(["a", "b", "c"], ["a", "b", "b"])
    assert part(scores.macro_f1, np.array([0, 1])).value == 100


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_calibration_by_a_loop_over_bins(examples, classes, bins, seed):
    random = np.random.default_rng(seed)
    table = random.dirichlet(np.ones(classes), size=examples)
    expected = random.integers(classes, size=examples)
    confidence, right = table.max(1), table.argmax(1) == expected
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        # The sum of a row may pass 1 by rounding.
        inside = (confidence > low) & (confidence <= high if high < 1 else True)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(table, expected, bins).value == pytest.approx(100 * total, abs=1e-9)


def test_calibration_by_hand():
    assert calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]).value == 0
    assert calibration_error([[1.0, 0.0], [0.0, 1.0]], [1, 0]).value == 100
    table = [[0.75, 0.25]] * 4
    assert calibration_error(table, [0, 0, 0, 1]).value == 0
    assert calibration_error(table, [0, 0, 0, 0], bins=1).value == 25


def test_calibration_has_no_rows_to_draw_anew():
    """A classifier that is right as often as it says is far from 0 on few examples: by chance, and so are parts and resampled ones."""
    random = np.random.default_rng(0)
    errors = {}
    for count in (100, 10_000):
        sure = random.uniform(0.5, 1, count)
        found = calibration_error(np.stack([sure, 1 - sure], 1), (random.random(count) > sure).astype(int))
        errors[count] = found.value
        assert found.less_is_better
        assert not isinstance(found, Measurement)
    assert errors[100] > 2 * errors[10_000]


def test_errors():
    with pytest.raises(DataError, match="2 predictions, 1 expected labels"):
        label_scores(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no examples"):
        label_scores([], [])
    with pytest.raises(ShapeError, match=r"\(2, 2\) and \(3,\)"):
        calibration_error([[0.5, 0.5]] * 2, [0, 1, 0])
    with pytest.raises(ShapeError, match=r"0 to 1\. Received: 0 to 2"):
        calibration_error([[0.5, 0.5]] * 2, [0, 2])
    with pytest.raises(DataError, match="no examples"):
        calibration_error(np.zeros((0, 2)), [])
