from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.decoding.bio import best_tags, span_probabilities


def is_valid(tags):
    """Plainly: an I needs its B or I before it."""
    return all(
        tag == 0 or tag % 2 == 1 or (t > 0 and tags[t - 1] in (tag, tag - 1)) for t, tag in enumerate(tags)
    )


def sequences(scores, offsets):
    for begin, end in itertools.pairwise(offsets):
        rows = scores[begin:end]
        tags = [row for row in itertools.product(range(scores.shape[1]), repeat=len(rows)) if is_valid(row)]
        yield begin, {row: sum(rows[t, tag] for t, tag in enumerate(row)) for row in tags}


def spans_of(tags):
    """First, last and role of every span of valid tags."""
    starts = [t for t, tag in enumerate(tags) if tag % 2 == 1]
    lasts = [
        next((t - 1 for t in range(start + 1, len(tags)) if tags[t] != tags[start] + 1), len(tags) - 1)
        for start in starts
    ]
    return {(start, last, tags[start] // 2) for start, last in zip(starts, lasts, strict=True)}


def drawn(lengths, roles, seed, forbidden=0.0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(sum(lengths), 1 + 2 * roles)) * 2
    scores[:, 1:][rng.random((len(scores), 2 * roles)) < forbidden] = -np.inf
    return scores, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


LENGTHS = st.lists(st.integers(0, 4), max_size=5)


@given(LENGTHS, st.integers(1, 2), st.integers(0, 99), st.sampled_from([0.0, 0.4]))
def test_the_best_tags_are_those_of_brute_force(lengths, roles, seed, forbidden):
    scores, offsets = drawn(lengths, roles, seed, forbidden)
    tags = best_tags(scores, offsets)
    assert tags.shape == (sum(lengths),)
    for begin, sums in sequences(scores, offsets):
        best = max(sums, key=sums.__getitem__)
        assert tuple(tags[begin : begin + len(best)]) == best


@given(LENGTHS, st.integers(1, 2), st.integers(0, 99), st.sampled_from([0.0, 0.4]))
def test_the_probability_of_a_span_is_that_of_brute_force(lengths, roles, seed, forbidden):
    scores, offsets = drawn(lengths, roles, seed, forbidden)
    spans, expected = [], []
    for begin, sums in sequences(scores, offsets):
        whole = sum(map(np.exp, sums.values()))
        for span in {span for tags in sums for span in spans_of(tags)}:
            spans.append((span[0] + begin, span[1] + begin, span[2]))
            expected.append(
                sum(np.exp(value) for tags, value in sums.items() if span in spans_of(tags)) / whole
            )
    found = span_probabilities(scores, offsets, spans)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_sequence_does_not_depend_on_its_batch():
    scores, offsets = drawn([7, 0, 3, 12, 1, 7], 5, seed=1)
    together = best_tags(scores, offsets)
    for begin, end in itertools.pairwise(offsets):
        alone = best_tags(scores[begin:end], np.array([0, end - begin]))
        assert together[begin:end].tolist() == alone.tolist()


def test_long_sequences_neither_overflow_nor_vanish():
    scores, offsets = drawn([4000], 3, seed=2)
    tags = best_tags(scores - 1000, offsets).tolist()
    assert is_valid(tags)
    spans = sorted(spans_of(tags))
    probabilities = span_probabilities(scores - 1000, offsets, spans)
    assert np.isfinite(probabilities).all()
    assert probabilities.min() > 0
    assert probabilities.max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_narrow_scores_serve(kind):
    scores = np.array([[0, 2, 0], [0, 0, 3], [1, 0, 0]], kind)
    assert best_tags(scores, np.array([0, 3])).tolist() == [1, 2, 0]


def test_nothing_is_nothing():
    assert best_tags(np.zeros((0, 3)), np.array([0])).tolist() == []
    assert span_probabilities(np.zeros((0, 3)), np.array([0]), []).tolist() == []
