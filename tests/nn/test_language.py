from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regard
from regard._errors import ShapeError
from regard.data.packing import pack_ids
from regard.nn import LanguageModel, PrefixCache, SelfAttention
from regard.nn.language import branch

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(20, 16, 2, 24, 2, context=16).eval()


def tokens(lengths, seed=0):
    drawn = np.random.default_rng(seed)
    return [drawn.integers(0, 20, size).tolist() for size in lengths]


@torch.no_grad()
def test_a_token_depends_on_those_before_it_alone(model):
    one, two = tokens([5]), tokens([5])
    two[0][3] = (two[0][3] + 1) % 20
    a, b = model(pack_ids(one)), model(pack_ids(two))
    assert torch.equal(a[:3], b[:3])
    assert not torch.allclose(a[3:], b[3:])


@torch.no_grad()
@given(prefixes=LENGTHS, rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=5))
def test_what_follows_a_prefix_is_what_follows_it_in_one_text(model, prefixes, rows):
    begins = tokens(prefixes)
    reads = np.array([number % len(begins) for number, _ in rows], np.int64)
    ends = tokens([size for _, size in rows], seed=1)
    states, caches = model.read(pack_ids(begins), room=0)
    assert torch.allclose(states, model(pack_ids(begins)), atol=1e-5)
    branch(caches, reads)
    places = [len(begins[read]) + t for read, end in zip(reads, ends, strict=True) for t in range(len(end))]
    found = model.go_on(pack_ids(ends), torch.tensor(places, dtype=torch.int64), caches)
    wholes = [begins[read] + end for read, end in zip(reads, ends, strict=True)]
    expected = [
        model(pack_ids([whole]))[len(whole) - len(end) :] for whole, end in zip(wholes, ends, strict=True)
    ]
    assert torch.allclose(found, torch.cat([torch.zeros(0, 16), *expected]), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("room", [1, 4, 40])
def test_token_by_token_is_all_at_once(model, room):
    begins, end = tokens([3, 1]), tokens([4, 4, 4], seed=1)
    reads = np.array([1, 0, 1])
    _, caches = model.read(pack_ids(begins), room)
    branch(caches, reads)
    held = np.array([len(begins[read]) for read in reads])
    for t in range(4):
        step = pack_ids([[one[t]] for one in end])
        found = model.go_on(step, torch.from_numpy(held + t), caches)
        for row, read in enumerate(reads):
            whole = model(pack_ids([begins[read] + end[row][: t + 1]]))
            assert torch.allclose(found[row], whole[-1], atol=1e-5)


@torch.no_grad()
def test_sequences_of_one_length_go_on_themselves(model):
    begins, end = tokens([3, 3]), tokens([2, 2], seed=1)
    states, caches = model.read(pack_ids(begins), 2, shared=False)
    assert torch.allclose(states, model(pack_ids(begins)), atol=1e-5)
    for t in range(2):
        found = model.go_on(pack_ids([[one[t]] for one in end]), torch.full((2,), 3 + t), caches)
        for row in range(2):
            assert torch.allclose(
                found[row], model(pack_ids([begins[row] + end[row][: t + 1]]))[-1], atol=1e-5
            )
    assert caches[0].own._keys.shape[1] == 5


@torch.no_grad()
def test_rows_that_stay_go_on_with_their_own(model):
    begins, end = tokens([2]), tokens([2, 2, 2], seed=1)
    _, caches = model.read(pack_ids(begins), room=8)
    branch(caches, np.zeros(3, np.int64))
    model.go_on(pack_ids([one[:1] for one in end]), torch.full((3,), 2), caches)
    for cache in caches:
        cache.own.keep(torch.tensor([2, 0]))
    found = model.go_on(pack_ids([end[2][1:], end[0][1:]]), torch.full((2,), 3), caches)
    for row, number in enumerate((2, 0)):
        assert torch.allclose(found[row], model(pack_ids([begins[0] + end[number]]))[-1], atol=1e-5)


def test_room_is_made_once():
    layer, cache = SelfAttention(8, heads=2), PrefixCache(room=5)
    with torch.no_grad():
        layer(regard.Packed(torch.randn(3, 8), [0, 3]), mask=regard.Causal(), cache=cache)
        cache.branch(torch.tensor([0, 0]))
        held = []
        for _ in range(5):
            layer(regard.Packed(torch.randn(2, 8), [0, 1, 2]), mask=regard.Causal(), cache=cache)
            held.append(cache.own._keys.data_ptr())
    assert len(set(held)) == 1
    assert cache.own._keys.shape[1] == 5
    assert cache.entry[0].shape[0] == 3  # the prefix is there once, for both


def test_a_prefix_is_packed():
    with pytest.raises(ShapeError, match="Packed"):
        SelfAttention(8, heads=2)(torch.randn(1, 3, 8), cache=PrefixCache(room=1))
