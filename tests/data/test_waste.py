"""The cost of padding, against batches that are filled and padded one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import ConfigError, DataError
from regard.data.waste import ORDERS, POOL, waste

LENGTHS = st.integers(1, 3).flatmap(
    lambda fields: st.lists(
        st.tuples(*[st.integers(0, 9) | st.integers(0, 60)] * fields), min_size=1, max_size=40
    )
)
SIZES = st.sampled_from(["tokens", "sentences"]).flatmap(
    lambda kind: st.builds(lambda size: {kind: size}, st.integers(1, 70))
)


def ordered(examples, order, tokens, sentences, seed):
    shuffled = [examples[number] for number in np.random.default_rng(seed).permutation(len(examples))]
    if order == "sorted":
        return sorted(shuffled, key=lambda example: example[::-1])
    if order == "pools":
        mean = max(1, sum(example[-1] for example in examples) / len(examples))
        size = POOL * sentences if sentences else max(1, int(POOL * tokens / mean))
        pools = [shuffled[begin : begin + size] for begin in range(0, len(shuffled), size)]
        return [example for pool in pools for example in sorted(pool, key=lambda example: example[0])]
    return shuffled


def filled(examples, order, tokens, sentences):
    batches, batch = [], []
    for example in examples:
        longer = [*batch, example]
        columns = list(zip(*longer, strict=True))
        most = max(sum(column) if order == "packed" else len(longer) * max(column) for column in columns)
        if batch and (len(batch) == sentences if sentences else most > tokens):
            batches.append(batch)
            longer = [example]
        batch = longer
    return [*batches, batch]


def pairs_of(example):
    *others, last = example
    return sum(length**2 for length in example) + sum(length * last for length in others)


def expected(examples, order, *, tokens=None, sentences=None, seed=0):
    batches = filled(ordered(examples, order, tokens, sentences, seed), order, tokens, sentences)
    real, computed, pairs = [], [], []
    for batch in batches:
        longest = tuple(max(column) for column in zip(*batch, strict=True))
        padded = batch if order == "packed" else [longest] * len(batch)
        real.append(sum(map(sum, batch)))
        computed.append(sum(map(sum, padded)))
        pairs.append(sum(map(pairs_of, padded)))
    own_pairs = sum(map(pairs_of, examples))
    return {
        "order": order,
        "batches": len(batches),
        "padding": 1 - sum(real) / sum(computed) if sum(computed) else 0,
        "activations": sum(computed) / max(1, sum(real)),
        "pairs": sum(pairs) / max(1, own_pairs),
        "largest": max(computed),
    }


@pytest.mark.parametrize("order", ORDERS)
@given(examples=LENGTHS, size=SIZES, seed=st.integers(0, 5))
def test_every_batch_counts(order, examples, size, seed):
    found = vars(waste(np.array(examples), order, seed=seed, **size))
    assert found == pytest.approx(expected(examples, order, seed=seed, **size))


def test_pools_are_of_fifty_batches():
    lengths = np.arange(1, 201)  # two pools of fifty batches of two
    mixed, whole = (waste(lengths, order, sentences=2) for order in ("pools", "sorted"))
    assert mixed.batches == whole.batches == 100
    assert mixed.padding > whole.padding == pytest.approx(100 / (200 * 201 / 2 + 100))


def test_packing_wastes_nothing_and_needs_the_fewest_batches():
    lengths = np.random.default_rng(0).integers(1, 40, (500, 2))
    found = {order: waste(lengths, order, tokens=200) for order in ORDERS}
    assert found["packed"].padding == 0
    assert found["packed"].activations == found["packed"].pairs == 1
    assert min(found.values(), key=lambda one: one.batches).order == "packed"
    assert found["random"].padding > found["pools"].padding > found["sorted"].padding > 0


def test_an_example_that_is_too_long_is_a_batch_by_itself():
    found = waste([[1], [50], [1]], "sorted", tokens=10)
    assert (found.batches, found.largest, found.padding) == (2, 50, 0)


@pytest.mark.parametrize("options", [{}, {"tokens": 1, "sentences": 1}, {"tokens": 0}, {"sentences": -1}])
def test_there_is_one_size(options):
    with pytest.raises(
        ConfigError, match=r"batches have one size\. Expected: tokens or sentences, at least 1"
    ):
        waste([1], "packed", **options)


def test_an_unknown_order_names_the_nearest():
    with pytest.raises(ConfigError, match="there is no order 'sortd'; did you mean 'sorted'"):
        waste([1], "sortd", tokens=1)


def test_lengths_must_be_counts():
    with pytest.raises(DataError, match="cannot be batched"):
        waste([], "packed", tokens=1)
    with pytest.raises(DataError, match="cannot be batched"):
        waste([[-1]], "packed", tokens=1)
