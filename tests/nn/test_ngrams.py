from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import ConfigError, Packed
from regard.nn import NgramBag
from regard.nn.ngrams import _pairs


def packed(texts: list[list[int]]) -> Packed:
    return Packed(
        torch.tensor([token for text in texts for token in text], dtype=torch.int32),
        np.cumsum([0, *map(len, texts)]),
    )


def filled(labels: int = 2) -> NgramBag:
    torch.manual_seed(0)
    bag = NgramBag(10, labels).double()
    torch.nn.init.normal_(bag.tokens)
    torch.nn.init.normal_(bag.pairs)
    return bag


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=5))
def test_scores_are_the_sums_of_a_texts_own_tokens_and_pairs(texts):
    bag = filled()
    expected = torch.zeros(len(texts), 2, dtype=torch.float64)
    for row, text in zip(expected, texts, strict=True):
        pairs = [packed([[one, other]]) for one, other in pairwise(text)]
        for token in text:
            row += bag.tokens.detach()[token]
        for pair in pairs:
            row += bag.pairs.detach()[_pairs(pair, len(bag.pairs))][0]
        row /= max(1, len(text) + len(pairs)) ** 0.5
    torch.testing.assert_close(bag(packed(texts)), expected)


def test_pairs_know_their_order_and_seldom_share_a_row():
    rows = _pairs(packed([[one, other] for one in range(60) for other in range(60)]), 1 << 17)
    assert len(rows) == 3600
    assert len(rows.unique()) > 3400


def test_it_learns_what_only_a_pair_tells():
    texts, labels = [[1, 2, 3, 2], [2, 1, 2, 3], [3, 2, 1, 2], [2, 3, 2, 1]], torch.tensor([0, 0, 1, 1])
    bag = NgramBag(4, 2)
    optimizer = torch.optim.Adam(bag.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(bag(packed(texts)), labels).backward()
        optimizer.step()
    assert (bag(packed(texts)).argmax(1) == labels).all()


def test_it_begins_at_zero_and_its_size_does_not_follow_the_labels():
    assert (NgramBag(5, 3)(packed([[1, 2], []])) == 0).all()
    assert NgramBag(5, 1000).pairs.numel() <= NgramBag(5, 2).pairs.numel()


def test_no_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        NgramBag(0, 2)
