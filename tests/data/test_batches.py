from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.batches import PackedBatches
from regard.data.permutation import derived, hashed, permuted, uniform

LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60).map(np.array)
OPTIONS = st.fixed_dictionaries(
    {
        "tokens_per_batch": st.integers(1, 200),
        "seed": st.integers(-(2**40), 2**40),
        "sort": st.booleans(),
        "pool": st.integers(1, 80),
        "noise": st.sampled_from([0.0, 3.5]),
    }
)


def epoch(batches: PackedBatches) -> list[np.ndarray]:
    number, found = batches.epoch, []
    while batches.epoch == number:
        found.append(next(batches))
    return found


@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permutation_is_one(count: int, key: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(count), count, key)), np.arange(count))


def test_permutation_of_a_huge_range_is_computed_on_the_spot() -> None:
    first = permuted(np.arange(1000), 10**12, 5)
    assert len(set(first.tolist())) == 1000
    assert 0.45e12 < first.mean() < 0.55e12
    assert np.array_equal(permuted([7], 10**12, 5), first[7:8])


def test_permutations_of_different_keys_are_unlike() -> None:
    positions = np.arange(1000)
    one, two = permuted(positions, 1000, 1), permuted(positions, 1000, 2)
    for a, b in ((positions, one), (one, two)):
        assert (a == b).sum() < 10
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15


def test_hash_vectors() -> None:
    # SplitMix64 from the state 0: its published first outputs.
    assert hashed(0, np.array([1, 2])).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert derived(1, 2) != derived(2, 1) != derived(1)
    draws = uniform(3, np.arange(10_000))
    assert 0 <= draws.min() < draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.02


@given(lengths=LENGTHS, options=OPTIONS)
def test_an_epoch_has_every_index_once_within_the_budget(
    lengths: np.ndarray, options: dict[str, int]
) -> None:
    batches = PackedBatches(lengths, **options)
    for _ in range(2):
        found = epoch(batches)
        assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
        for batch in found:
            assert len(batch) == 1 or lengths[batch].sum() <= options["tokens_per_batch"]


@given(lengths=LENGTHS, options=OPTIONS, before=st.integers(0, 80))
def test_resume_is_identical(lengths: np.ndarray, options: dict[str, int], before: int) -> None:
    batches = PackedBatches(lengths, **options)
    for _ in range(before):
        next(batches)
    state = json.loads(json.dumps(batches.state_dict()))
    again = PackedBatches(lengths, **options)
    again.load_state_dict(state)
    assert again.state_dict() == state
    for _ in range(40):
        assert np.array_equal(next(batches), next(again))


@given(lengths=LENGTHS, options=OPTIONS, world=st.integers(2, 5))
def test_workers_share_the_same_global_batch(
    lengths: np.ndarray, options: dict[str, int], world: int
) -> None:
    alone = PackedBatches(lengths, **options)
    workers = [PackedBatches(lengths, **options, rank=rank, world=world) for rank in range(world)]
    for _ in range(10):
        batch, shares = next(alone), [next(worker) for worker in workers]
        assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
        tokens = [int(lengths[share].sum()) for share in shares]
        assert max(tokens) - min(tokens) <= lengths[batch].sum(axis=1).max()
        assert all(worker.state_dict() == alone.state_dict() for worker in workers)


def real_lengths(count: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    target = rng.poisson(12, count) + 1
    return np.stack([target + rng.integers(-2, 3, count).clip(1 - target), target], axis=1).astype(np.int32)


def test_batches_are_alike_in_length_and_full() -> None:
    lengths = real_lengths()
    spread = {}
    for name, options in {"sorted": {}, "noisy": {"noise": 8.0}, "random": {"sort": False}}.items():
        found = epoch(PackedBatches(lengths, 2048, 0, **options))
        spread[name] = np.mean([lengths[batch][:, 1].std() for batch in found])
        tokens = np.array([lengths[batch].sum() for batch in found])
        assert len(found) <= 1.02 * lengths.sum() / 2048
        assert tokens.min() > 0.6 * 2048
    assert spread["sorted"] < 0.3 < spread["noisy"] < spread["random"]


def test_epochs_and_seeds_differ() -> None:
    lengths = real_lengths(500)
    batches = PackedBatches(lengths, 512, 0)
    first, second, other = epoch(batches), epoch(batches), epoch(PackedBatches(lengths, 512, 1))
    for one, two in ((first, second), (first, other)):
        common = {frozenset(batch.tolist()) for batch in one} & {frozenset(batch.tolist()) for batch in two}
        assert len(common) < len(one) / 5  # the very longest and shortest meet again
    order = [lengths[batch].mean() for batch in first]
    assert order != sorted(order)


def test_one_dimensional_lengths() -> None:
    assert sorted(np.concatenate(epoch(PackedBatches([3, 1, 2], 3, 0))).tolist()) == [0, 1, 2]


def test_errors() -> None:
    for lengths in ([], [[1.5]], [[-1, 2]], [[[1]]]):
        with pytest.raises(DataError, match="lengths that cannot be batched"):
            PackedBatches(lengths, 10, 0)
    for options in ({"tokens_per_batch": 0}, {"pool": 0}, {"world": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            PackedBatches([1], **{"tokens_per_batch": 10, "seed": 0, **options})
    for options in ({"rank": 2, "world": 2}, {"noise": -1.0}):
        with pytest.raises(ConfigError, match="out of range"):
            PackedBatches([1], 10, 0, **options)


def test_a_state_of_other_batches_is_refused() -> None:
    batches = PackedBatches([3, 4, 5], 5, 0)
    state = batches.state_dict()
    with pytest.raises(CheckpointError, match="seed 0 there, 1 here"):
        PackedBatches([3, 4, 5], 5, 1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="tokens 12 there, 13 here"):
        PackedBatches([3, 4, 6], 5, 0).load_state_dict(state)
    for damaged in ({}, {**state, "batch": None}, {**state, "of": {}}):
        with pytest.raises(CheckpointError, match="damaged"):
            batches.load_state_dict(damaged)
    for place in ({"batch": 99}, {"pool": 7}, {"epoch": -1}):
        with pytest.raises(CheckpointError, match="does not exist"):
            batches.load_state_dict({**state, **place})


@given(lengths=LENGTHS, options=OPTIONS, variants=st.integers(1, 4))
def test_every_epoch_has_one_form_of_each_example_and_they_take_turns(lengths, options, variants):
    """The forms of example i are at i, i + n, i + 2 n, ...; budgets are kept by the form that is taken."""
    rows = np.concatenate([lengths + number for number in range(variants)])
    batches = PackedBatches(rows, variants=variants, **options)
    seen = []
    for _ in range(variants):
        found = epoch(batches)
        taken = np.concatenate(found)
        assert sorted((taken % len(lengths)).tolist()) == list(range(len(lengths)))
        for batch in found:
            assert len(batch) == 1 or rows[batch].sum() <= options["tokens_per_batch"]
        seen += taken.tolist()
    assert sorted(seen) == list(range(len(rows)))


def test_forms_are_resumed_and_mixed() -> None:
    lengths = np.full((400, 1), 3)
    batches = PackedBatches(lengths, 30, seed=1, variants=4)
    for _ in range(17):
        next(batches)
    again = PackedBatches(lengths, 30, seed=1, variants=4)
    again.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    for _ in range(30):
        assert next(again).tolist() == next(batches).tolist()
    first = np.concatenate(epoch(PackedBatches(lengths, 30, seed=1, variants=4)))
    assert np.bincount(first // 100).min() > 10  # an epoch has forms of all kinds
    with pytest.raises(CheckpointError, match="variants"):
        PackedBatches(lengths, 30, seed=1, variants=2).load_state_dict(batches.state_dict())


def test_forms_that_are_no_whole_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="a multiple of variants=3"):
        PackedBatches(np.ones((4, 1), int), 8, seed=1, variants=3)
