from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regard._errors import ConfigError
from regard.data.permutation import uniform
from regard.decoding.sampling import draw, probabilities

SCORES = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 3), st.integers(1, 7)), elements=st.floats(-20, 20, width=16)
)


def defined(row, temperature, top_k, top_p):
    """The definition, token by token."""
    if temperature == 0:
        temperature, top_k = 1.0, 1
    p = np.exp((row - row.max()) / temperature)
    p /= p.sum()
    ranked = sorted(range(len(p)), key=lambda token: (-p[token], token))[:top_k]
    whole = 1.0 if top_k is None else sum(p[token] for token in ranked)
    kept, held = [], 0.0
    for token in ranked:
        if top_p is not None and held >= top_p:
            break
        kept.append(token)
        held += p[token] / whole
    out = np.zeros(len(p))
    out[kept] = p[kept] / p[kept].sum()
    return out


@given(
    scores=SCORES,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 2, 100]),
    top_p=st.sampled_from([None, 0.2, 0.77, 1.0]),
)
@example(scores=np.array([[1.0, 12.0, 12.0]]), temperature=0.3, top_k=None, top_p=1.0)
@example(scores=np.array([[0.0, 1.0, 12.0]]), temperature=0.3, top_k=None, top_p=1.0)
def test_probabilities_are_as_defined(scores, temperature, top_k, top_p):
    found = probabilities(scores, temperature=temperature, top_k=top_k, top_p=top_p)
    assert found.shape == scores.shape
    for mine, row in zip(found, scores, strict=True):
        np.testing.assert_allclose(mine, defined(row, temperature, top_k, top_p), rtol=1e-12, atol=1e-300)


def test_equally_likely_tokens_are_taken_in_order():
    assert probabilities(np.zeros((1, 4)), top_k=2).tolist() == [[0.5, 0.5, 0, 0]]
    assert probabilities(np.zeros((1, 4)), temperature=0).tolist() == [[1, 0, 0, 0]]


def test_top_p_keeps_the_token_that_reaches_it():
    shares = np.log([[0.5, 0.3, 0.15, 0.05]])
    assert np.count_nonzero(probabilities(shares, top_p=0.5)) == 1
    assert np.count_nonzero(probabilities(shares, top_p=0.51)) == 2
    assert np.count_nonzero(probabilities(shares, top_p=1e-9)) == 1


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"temperature": np.nan}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.1}]
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match="Received"):
        probabilities(np.zeros((1, 2)), **options)


def test_draws_follow_the_distribution():
    """Chi-square with 6 degrees of freedom: 22.46 is passed once in a thousand times, and this seed is fixed."""
    shares = np.array([0.4, 0.0, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02])
    count = 20_000
    tokens = draw(np.tile(shares, (count, 1)), uniform(11, np.arange(count)))
    seen = np.bincount(tokens, minlength=len(shares))
    assert seen[1] == 0
    some = shares > 0
    expected = count * shares[some]
    assert ((seen[some] - expected) ** 2 / expected).sum() < 22.46


@given(
    shares=hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 1)).filter(lambda a: (a.sum(1) > 0).all()),
    u=st.floats(0, 1, exclude_max=True),
)
def test_nothing_without_a_share_is_drawn(shares, u):
    tokens = draw(shares, np.full(4, u))
    assert (shares[np.arange(4), tokens] > 0).all()


def test_the_ends_of_the_unit_interval():
    shares = np.array([[0.0, 0.1, 0.9, 0.0]] * 2)
    assert draw(shares, np.array([0.0, np.nextafter(1, 0)])).tolist() == [1, 2]
