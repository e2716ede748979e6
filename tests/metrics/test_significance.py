from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from regard._errors import ConfigError, DataError, ShapeError
from regard.metrics import significance
from regard.metrics.answers import answer_scores
from regard.metrics.captions import caption_bleu
from regard.metrics.labels import label_scores
from regard.metrics.language import perplexity
from regard.metrics.measurement import ratio
from regard.metrics.significance import bleu_measurement, chrf_measurement, compare
from regard.metrics.spans import role_scores
from regard.metrics.translation import bleu, chrf

WORDS = [
    "ein",
    "Hund",
    "läuft",
    "am",
    "Strand",
    "und",
    "die",
    "Katze",
    "schläft",
    "dort",
    "auf",
    "einem",
    "Stuhl",
]


def sentences(count, seed):
    """References, and two systems that drop words of them."""
    random = np.random.default_rng(seed)
    references = [" ".join(random.choice(WORDS, size=random.integers(5, 12))) for _ in range(count)]
    systems = [
        [" ".join(w for w in text.split() if random.random() > q) for text in references] for q in (0.2, 0.25)
    ]
    return references, *systems


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=8
    )
)
@settings(max_examples=25)
def test_randomization_against_every_exchange(pairs):
    first, second = np.array(pairs).T
    gaps = second - first
    every = [abs(np.dot(signs, gaps)) for signs in itertools.product((-1, 1), repeat=len(gaps))]
    exact = np.mean(np.array(every) >= abs(gaps.sum()) - 1e-9)
    found = compare(first, second, samples=10, trials=4000)
    assert found.difference == pytest.approx(100 * gaps.mean())
    assert found.p == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(("metric", "measurement"), [(BLEU, bleu_measurement), (CHRF, chrf_measurement)])
def test_randomization_as_sacrebleu(metric, measurement, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    references, first, second = sentences(60, 0)
    systems = [("first", first), ("second", second)]
    theirs = PairedTest(systems, {"it": metric()}, [references], "ar", n_samples=700)()[1]
    theirs = next(results for name, results in theirs.items() if name != "System")
    ours = compare(measurement(first, references), measurement(second, references), trials=700)
    assert (ours.first, ours.second) == (theirs[0].score, theirs[1].score)
    assert ours.p == theirs[1].p_value
    assert 0.01 < ours.p < 0.99


def test_measurements_of_translations_are_the_scores():
    references, first, _ = sentences(9, 1)
    many = [[text, "ein Hund"] if i % 2 else [text] for i, text in enumerate(references)]
    for lowercase in (False, True):
        ours = bleu_measurement(first, many, "de", lowercase), chrf_measurement(first, many, lowercase)
        scores = bleu(first, many, "de", lowercase), chrf(first, many, lowercase)
        for one, score in zip(ours, scores, strict=True):
            assert (one.name, one.value, one.signature) == (score.name, score.value, score.signature)


def in_every_family(seed):
    """Two systems, the second a little worse, under scores of several formulas."""
    random = np.random.default_rng(seed)
    gold = random.integers(3, size=30).tolist()
    labels = [[int((g + (random.random() < q)) % 3) for g in gold] for q in (0.2, 0.5)]
    tags = [[str(tag) for tag in random.choice(["O", "B-A0", "B-A1"], size=5)] for _ in range(30)]
    spans = [[[tag if random.random() > q else "O" for tag in row] for row in tags] for q in (0.1, 0.3)]
    references, *texts = sentences(30, seed)
    return [
        tuple(label_scores(one, gold, range(3)).macro_f1 for one in labels),
        tuple(role_scores(one, tags).f1 for one in spans),
        tuple(answer_scores(one, references).f1 for one in texts),
        tuple(caption_bleu(one, references) for one in texts),
    ]


@pytest.mark.parametrize("test", ["randomization", "bootstrap"])
def test_every_formula(test):
    for first, second in in_every_family(0):
        there = compare(first, second, test=test, samples=400, trials=400)
        back = compare(second, first, test=test, samples=400, trials=400)
        assert (
            there.difference == pytest.approx(second.value - first.value) == pytest.approx(-back.difference)
        )
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
        assert there.low < there.difference < there.high
        assert (there.p, there.wins) == pytest.approx((back.p, 1 - back.wins))
        same = compare(first, first, test=test, samples=50, trials=50)
        assert (same.difference, same.low, same.high, same.p, same.wins) == (0, 0, 0, 1, 0.5)


def test_the_samples_are_test_sets():
    first, second = in_every_family(1)[0]
    random = np.random.default_rng(7)
    drawn = [random.choice(30, size=30) for _ in range(400)]
    values = [
        float(second.formula(second.statistics[rows].sum(0)) - first.formula(first.statistics[rows].sum(0)))
        for rows in drawn
    ]
    found = compare(first, second, test="bootstrap", samples=400, seed=7, confidence=0.9)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    assert found.wins == pytest.approx(np.mean([(v > 1e-9) + 0.5 * (abs(v) <= 1e-9) for v in values]))
    extreme = np.sum(np.abs(values - np.mean(values)) >= abs(found.difference))
    assert found.p == pytest.approx((1 + extreme) / 401)


def test_memory_changes_nothing(monkeypatch):
    first, second = np.random.default_rng(0).random((2, 37))
    expected = compare(first, second)
    monkeypatch.setattr(significance, "CHUNK", 64)
    assert compare(first, second) == expected


@pytest.mark.parametrize("test", ["randomization", "bootstrap"])
def test_systems_that_are_equally_good_seldom_differ(test):
    random = np.random.default_rng(0)
    found = [
        compare(*(random.random((2, 40)) < 0.6).astype(float), test=test, samples=200, trials=200).p
        for _ in range(200)
    ]
    # 5 % are expected; 200 draws seldom pass twice that.
    assert np.mean(np.array(found) <= 0.05) <= 0.1
    better = compare(np.zeros(40), np.repeat([0.0, 1.0], 20), test=test)
    assert better.p < 0.01
    assert better.wins > 0.99


def test_arrays_with_a_formula():
    first, second = np.array([[1.0, 2.0], [1.0, 4.0]]), np.array([[2.0, 2.0], [1.0, 4.0]])
    found = compare(first, second, ratio, trials=100)
    assert (found.first, found.second, found.examples) == (2 / 6, 3 / 6, 2)


@pytest.mark.parametrize("test", ["randomization", "bootstrap"])
def test_one_example_says_nothing_of_others(test):
    found = compare([0.0], [1.0], test=test)
    assert np.isnan([found.low, found.high, found.wins]).all()
    assert found.p == 1
    assert str(found) == f"mean 0.0 -> 100.0, +100.0, p 1.0000 ({test}, 1 examples)"


def test_errors():
    with pytest.raises(DataError, match=r"f1 .* and exact"):
        compare(answer_scores(["a"], ["a"]).f1, answer_scores(["a"], ["a"]).exact)
    with pytest.raises(DataError, match=r"perplexity \(unit:token\|a\) and perplexity \(unit:token\|b\)"):
        compare(perplexity([1.0], [1], "a"), perplexity([1.0], [1], "b"))
    with pytest.raises(DataError, match="pass the same `labels`"):
        compare(label_scores(["a"], ["a"]).macro_f1, label_scores(["b"], ["b"]).macro_f1)
    with pytest.raises(DataError, match="Received: 2 and 1"):
        compare([1.0, 0.0], [1.0])
    with pytest.raises(ShapeError, match="without a formula"):
        compare(np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ShapeError, match=r"\(2, 2\) and \(2, 3\)"):
        compare(np.ones((2, 2)), np.ones((2, 3)), ratio)
    with pytest.raises(ConfigError, match="unknown test 't'"):
        compare([1.0], [1.0], test="t")
    for wrong in ({"confidence": 1.0}, {"samples": 0}, {"trials": 0}):
        with pytest.raises(ConfigError, match="out of range"):
            compare([1.0], [1.0], **wrong)
    with pytest.raises(DataError, match="no examples"):
        compare([], [])
