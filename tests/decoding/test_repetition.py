from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.decoding import Candidates, search
from regard.decoding.repetition import NoRepeats

BOS, EOS, TOKENS = 0, 1, 6


class Chain:
    """The same log-probabilities of what follows a token, whatever stands before it."""

    refills = False

    def __init__(self, table, sources=1):
        self.table, self.sources = table, sources

    def begin(self, sources):
        pass

    def step(self, tokens, sources, parents, count, end):
        log_p = self.table[tokens]
        ids = np.argsort(-log_p, axis=1, kind="stable")[:, :count]
        return Candidates(ids, np.take_along_axis(log_p, ids, 1), log_p[:, end])


def tables(seed):
    p = np.random.default_rng(seed).dirichlet(np.full(TOKENS, 0.3), size=TOKENS)
    p[:, BOS] = 0
    with np.errstate(divide="ignore"):
        return np.log(p / p.sum(1, keepdims=True))


def cut(tokens, begins):
    words = []
    for token in tokens:
        if not words or begins[token]:
            words.append([])
        words[-1].append(token)
    return [tuple(word) for word in words]


def repeats(words, order):
    rows = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
    return len(set(rows)) < len(rows)


def forbidden(tokens, token, begins, order):
    """Whether the token begins a word behind `order - 1` words as one behind the same words has begun, or a row a fourth time."""
    for period in (1, 2, 3, 4):
        row = tokens[len(tokens) - period :]
        if len(tokens) >= 3 * period and row[0] == token and tokens[len(tokens) - 3 * period :] == 3 * row:
            return True
    words = cut(tokens, begins)
    head = words[len(words) - order + 1 :]
    if not begins[token] or len(head) < order - 1:
        return False
    return any(
        words[i : i + order - 1] == head and words[i + order - 1][0] == token
        for i in range(len(words) - order + 1)
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.integers(2, 4), words=st.booleans())
def test_greedy_search_takes_the_best_that_is_allowed(seed, order, words):
    table = tables(seed)
    begins = np.array([True, True, True, True, False, False]) if words else None
    stepper = NoRepeats(Chain(table), begins, order)
    (found,) = search(stepper, [25], beam=1, bos=BOS, eos=EOS)
    starts = np.ones(TOKENS, bool) if begins is None else begins
    text, last = [], BOS
    for _ in range(24):
        allowed = [
            t for t in np.argsort(-table[last], kind="stable") if not forbidden(text, t, starts, order)
        ]
        if allowed[0] == EOS or table[last, allowed[0]] == -np.inf:
            break
        text.append(int(allowed[0]))
        last = text[-1]
    if found:
        assert list(found[0].tokens) == text
    if begins is None:
        assert not repeats([(t,) for t in text], order)


@pytest.mark.parametrize("beam", [2, 5])
def test_no_hypothesis_of_a_beam_repeats_itself(beam):
    for seed in range(20):
        found = search(NoRepeats(Chain(tables(seed))), [20, 30], beam=beam, bos=BOS, eos=EOS)
        for hypotheses in found:
            assert hypotheses
            assert not any(repeats([(t,) for t in one.tokens], 3) for one in hypotheses)


def test_without_a_repetition_nothing_changes():
    table = np.full((TOKENS, TOKENS), -np.inf)
    table[0, 2], table[2, 3], table[3, 4], table[4, 1] = 0, -0.5, -0.1, -0.2
    plain, guarded = (
        search(one, [9], beam=3, bos=BOS, eos=EOS)[0] for one in (Chain(table), NoRepeats(Chain(table)))
    )
    assert [one.tokens for one in plain] == [one.tokens for one in guarded] == [(2, 3, 4)]
    assert guarded[0].log_probability == pytest.approx(-0.8)
