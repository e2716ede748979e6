from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.decoding.calibration import COLDEST, HOTTEST, fit_temperatures, fit_threshold, probabilities


def one_hot(labels, count):
    return np.eye(count)[labels]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(true, several):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2 * true
    chances = probabilities(logits / true, several)
    if several:
        targets = (rng.random(chances.shape) < chances).astype(float)
    else:
        targets = one_hot((chances.cumsum(1) > rng.random((len(chances), 1))).argmax(1), 4)
    assert fit_temperatures(logits[None], targets, several) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("several", [False, True])
def test_the_temperature_is_the_best_of_many(several):
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(50, 3)) * 3, one_hot(rng.integers(3, size=50), 3)
    doubt = 1 / 52
    soft = targets * (1 - 2 * doubt) + doubt if several else targets * (1 - doubt) + (1 - targets) * doubt / 2

    def loss(temperature):
        chances = probabilities(logits / temperature, several)
        parts = soft * np.log(chances)
        return -(parts + (1 - soft) * np.log(1 - chances) if several else parts).sum()

    found = fit_temperatures(logits[None], targets, several)[0]
    others = np.geomspace(0.5, HOTTEST, 200)
    assert loss(found) <= min(map(loss, others)) + 1e-6


def test_where_all_are_right_the_temperature_stays_above_zero():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]] * 20)
    targets = one_hot([0, 1] * 20, 2)
    temperature = fit_temperatures(logits[None], targets)[0]
    assert COLDEST < temperature < 1
    # forty decisions, all right: the next one is right with a chance of 41 / 42
    assert probabilities(logits / temperature)[0, 0] == pytest.approx(41 / 42, abs=1e-6)


def test_of_nothing_the_temperature_is_one():
    assert fit_temperatures(np.zeros((2, 0, 3)), np.zeros((0, 3))).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("several", [False, True])
def test_the_temperatures_that_made_the_labels_are_found_together(several):
    rng = np.random.default_rng(2)
    opinions, true = rng.normal(size=(2, 40_000, 3)) * 2, np.array([0.7, 3.0])
    chances = probabilities(np.tensordot(1 / true, opinions, 1), several)
    if several:
        targets = (rng.random(chances.shape) < chances).astype(float)
    else:
        targets = one_hot((chances.cumsum(1) > rng.random((len(chances), 1))).argmax(1), 3)
    assert fit_temperatures(opinions, targets, several) == pytest.approx(true, rel=0.1)


def test_an_opinion_that_tells_nothing_hardly_counts():
    rng = np.random.default_rng(3)
    targets = one_hot(rng.integers(3, size=5000), 3)
    opinions = np.stack([targets + rng.normal(size=targets.shape), 5 * rng.normal(size=targets.shape)])
    told, noise = fit_temperatures(opinions, targets)
    assert told < 1.5
    assert noise > 40


def test_probabilities_are_those_of_the_formula_and_never_overflow():
    logits = np.array([[1.0, 2.0, -1.0], [800.0, -800.0, 0.0]])
    expected = np.exp(logits[0] / 2) / np.exp(logits[0] / 2).sum()
    np.testing.assert_allclose(probabilities(logits / 2)[0], expected)
    np.testing.assert_allclose(probabilities(logits / 2)[1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(probabilities(logits / 2, True)[0], 1 / (1 + np.exp(-logits[0] / 2)))
    np.testing.assert_allclose(probabilities(logits / 2, True)[1], [1, 0, 0.5], atol=1e-12)


def micro_f1(given, targets):
    return 2 * (given * targets).sum() / (given.sum() + targets.sum())


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 4))
def test_no_threshold_is_better(seed, rows, columns):
    rng = np.random.default_rng(seed)
    chances = rng.integers(0, 6, size=(rows, columns)) / 6
    targets = rng.integers(0, 2, size=(rows, columns))
    found = fit_threshold(chances, targets)
    if not targets.any():
        assert found == 0.5
        return
    best = max(micro_f1(chances >= limit, targets) for limit in np.linspace(0, 1, 200))
    assert micro_f1(chances >= found, targets) == pytest.approx(best)
