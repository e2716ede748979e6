"""The tiled formulation over tiles of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import cases
from regard import Causal, Prefix, Window, attention
from regard.backends.torch import tiles
from ways import small_tiles

pytestmark = pytest.mark.usefixtures("plain")

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


def assert_same(received, expected):
    for name, array in expected.items():
        if name in received and array is not None:
            np.testing.assert_allclose(
                np.asarray(received[name]), array, atol=1e-11, rtol=1e-11, err_msg=name
            )


@settings(max_examples=40)
@given(cases.cases(longest=19))
def test_any_tiling_gives_the_same(case):
    expected = cases.expected(case)
    for sizes in ((4, 8, 64), (4, 4, 1), (8, 4, 10**6)):
        with small_tiles(*sizes):
            tensors = cases.Tensors(case)
            assert_same(tensors.packed(), expected)
            assert_same(tensors.padded(math.nan), expected)


@pytest.mark.parametrize(
    "mask", [None, Causal(), Window(300, 5), Causal() & Window(511, dilation=3), Prefix(513) | Causal()]
)
@pytest.mark.parametrize(("rows", "keys"), [(255, 513), (257, 512), (1, 1025), (513, 3)])
def test_the_real_boundaries_of_tiles(mask, rows, keys):
    query, key, value = random(rows, 1, 2), random(keys, 1, 2), random(keys, 1, 2)
    options = {"mask": mask, "dropout_p": 0.2, "seed": 4}
    expected = attention(query.numpy(), key.numpy(), value.numpy(), **options)
    np.testing.assert_allclose(attention(query, key, value, **options).numpy(), expected, atol=1e-13)


def test_many_ragged_sequences_at_once():
    """Tens of groups, of which the later chunks have fewer blocks."""
    lengths = np.random.default_rng(0).integers(0, 90, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    query, key, value = (random(int(offsets[-1]), 2, 3) for _ in range(3))
    options = {"mask": Causal(), "cu_seqlens_q": offsets, "dropout_p": 0.3, "seed": 1}
    expected = attention(query.numpy(), key.numpy(), value.numpy(), **options)
    np.testing.assert_allclose(attention(query, key, value, **options).numpy(), expected, atol=1e-13)
    with small_tiles(16, 32, 10_000):
        np.testing.assert_allclose(attention(query, key, value, **options).numpy(), expected, atol=1e-13)


def test_tiles_that_the_mask_closes_are_not_computed(monkeypatch):
    """A window of 10 over 4096 keys costs about a chunk for each block, not eight."""
    computed = []
    make = tiles._tile

    def counting(*arguments):
        made = make(*arguments)
        computed.append(made.keys.index.numel() * made.at.row.shape[2])
        return made

    monkeypatch.setattr(tiles, "_tile", counting)
    x = random(4096, 1, 2)
    attention(x, x, x, mask=Window(10))
    assert sum(computed) < 4096 * 700
    computed.clear()
    attention(x, x, x, mask=Causal())
    assert sum(computed) < 0.65 * 4096**2


@pytest.mark.parametrize("chunk", [1, 5])
def test_padding_of_the_cut_is_never_read(chunk, poisoned_memory):
    """Rows that do not exist hold whatever stood in memory."""
    lengths = np.array([3, 0, 9, 1, chunk])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    query, key, value = (random(int(offsets[-1]), 2, 2).requires_grad_() for _ in range(3))
    with small_tiles(4, 4, 40):
        out = attention(query, key, value, mask=Causal(), cu_seqlens_q=offsets)
        grads = torch.autograd.grad(out.sum(), (query, key, value))
    assert all(tensor.isfinite().all() for tensor in (out, *grads))
