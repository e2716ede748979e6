from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regard.decoding import Hypothesis
from regard.decoding.length import PENALTIES, fit_penalty


@given(st.integers(0, 10**6))
def test_no_other_penalty_is_worth_more(seed):
    rng = np.random.default_rng(seed)
    found = [
        [
            Hypothesis((5,) * int(rng.integers(0, 9)), -float(rng.exponential(4)))
            for _ in range(rng.integers(0, 4))
        ]
        for _ in range(6)
    ]
    worth = [rng.random(len(some)) for some in found]

    def total(penalty):
        best = [max(range(len(some)), key=lambda i: some[i].score(penalty), default=None) for some in found]
        return sum(each[i] for each, i in zip(worth, best, strict=True) if i is not None)

    chosen = fit_penalty(found, worth)
    assert chosen in PENALTIES
    assert total(chosen) >= max(map(total, PENALTIES)) - 1e-12


def test_without_a_difference_it_is_one():
    assert fit_penalty([], []) == 1.0
    assert fit_penalty([[], [Hypothesis((5,), -1.0)]], [[], [0.3]]) == 1.0
