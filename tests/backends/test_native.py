"""What the kernel must do beyond the contract's numbers: every border of its blocks, every size, and the precision."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import ragged
from cases import RNG
from ragged import assert_as_exact_as_the_formula, assert_close, computed, packed
from regard import (
    Alibi,
    Causal,
    Dense,
    DenseBias,
    Documents,
    Global,
    Lengths,
    Prefix,
    RelativeBias,
    Window,
)
from regard._dropout import keep
from regard.backends import native, reference

pytestmark = pytest.mark.usefixtures("instruction_set")

# Blocks hold 128 keys, panels 4 to 64 queries.
BORDERS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257]


expected = functools.cache(ragged.formulas)


def check(make, *arguments):
    """float64 to rounding, float32 as exact as the formula."""
    truth, plain = expected(make, *arguments)
    assert_close(computed(native, make(np.float64, *arguments)), truth, 1e-11)
    assert_as_exact_as_the_formula(computed(native, make(np.float32, *arguments)), plain, truth)


# Lengths and sizes.


def at_borders(dtype, shift, mask):
    return packed(BORDERS, np.roll(BORDERS, shift).tolist(), mask=mask, dtype=dtype, layout=(2, 1, 5, 9))


@pytest.mark.parametrize("mask", [None, Causal(), Window(20, 3)], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 7, -3])
def test_lengths_around_the_borders_of_blocks(shift, mask):
    check(at_borders, shift, mask)


def of_heads(dtype, heads, kv_heads, rows):
    layout = (heads, kv_heads, 4, 4)
    return packed([rows, 1, 3], [130, 1, 7], mask=Causal(), layout=layout, dtype=dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 1), (6, 2), (8, 8), (32, 1), (71, 1)])
@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_groups_of_heads_share_panels(heads, kv_heads, rows):
    check(of_heads, heads, kv_heads, rows)


def of_sizes(dtype, size, out_size, capped):
    options = {"softcap": 3.0} if capped else {}
    return packed(
        [70, 1, 5], [140, 9, 0], layout=(2, 2, size, out_size), mask=Causal(), dtype=dtype, **options
    )


SIZES = [1, 3, 16, 17, 33, 64, 80, 96, 128, 256]


@pytest.mark.parametrize("size", SIZES)
def test_head_sizes(size):
    check(of_sizes, size, size, False)


@pytest.mark.parametrize(
    ("size", "out_size"), [(1, 256), (256, 1), (17, 64), (64, 17), (80, 33), (0, 3), (3, 0), (0, 0)]
)
def test_head_sizes_of_keys_and_values_differ(size, out_size):
    check(of_sizes, size, out_size, True)


# Masks.

MASKS = {
    "prefix or causal": Prefix(37) | Causal(),
    "prefixes": Prefix([5, 200, 0, 3]) | Causal(),
    "window and global": Window(9) | Global([0, 1, 2, 50, 51, 140, 299]),
    "causal window or global": Causal() & (Window(20) | Global([3])),
    "many boxes": Window(2) | Global(range(0, 290, 4)),
    "many boxes, closed": ~Global(range(0, 290, 4)),
    "dilated by 2": Causal() & Window(math.inf, dilation=2),
    "dilated by 3": Window(30, 21, dilation=3),
    "dilated by 7": Causal() & Window(100, dilation=7),
    "dilated beyond the length": Window(math.inf, dilation=1000),
    "dilated twice": Window(60, dilation=2) & Window(90, dilation=3),
    "dilated or not": Window(60, dilation=2) | Window(3),
    "documents": Documents(RNG.integers(0, 3, 431), RNG.integers(0, 3, 520)),
    "documents in runs": Documents(np.repeat(np.arange(44), 10)[:431], np.repeat(np.arange(26), 20)) & Causal(),
    "documents, dilated": Documents(np.repeat(np.arange(9), 50)[:431], np.repeat(np.arange(11), 50)[:520])
    & Window(math.inf, dilation=2),
    "bits": Dense(RNG.random((300, 310)) < 0.5),
    "bits and causal": Dense(RNG.random((4, 300, 310)) < 0.5) & Causal(),
    "bits of each head": Dense(RNG.random((4, 4, 300, 310)) < 0.3),
    "bits of each head or causal": Dense(RNG.random((4, 300, 310)) < 0.3) | Causal(),
    "bits by key": Dense(RNG.random((4, 1, 1, 310)) < 0.3),
    "bits by query": Dense(RNG.random((4, 300, 1)) < 0.3),
    "fewer bits than pairs": Dense(RNG.random((4, 100, 130)) < 0.5),
    "not bits": ~Dense(RNG.random((4, 300, 310)) < 0.5),
    "bits and bits": Dense(RNG.random((300, 310)) < 0.5) & Dense(RNG.random((4, 1, 310)) < 0.5),
    "bits, dilated": Dense(RNG.random((4, 300, 310)) < 0.5) & Window(math.inf, dilation=3),
    "bits of every pair": Dense(np.ones((1, 1, 1, 1), bool)),
    "bits of no pair": Dense(np.zeros((1, 1), bool)),
    "nowhere": Causal() & ~Causal(),
    "lengths": Lengths(q=[3, 129, 1, 0], k=[300, 0, 1, 60]) & Causal(),
}  # fmt: skip


def masked(dtype, name):
    options = {"dropout_p": 0.3, "seed": 5} if "dilated" in name or "bits" in name else {}
    return packed([300, 129, 1, 1], [300, 150, 10, 60], mask=MASKS[name], dtype=dtype, **options)


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_form(name):
    check(masked, name)


@pytest.mark.parametrize("name", MASKS)
def test_what_is_looked_at_under_masks_of_every_form(name):
    call = masked(np.float64, name)
    aux = ragged.Aux(topk=5, key_sums=True, rows=[0, 299, 300, 430, 17, 17])
    found, truth = (ragged.looked_at(room, call, aux) for room in (native, reference))
    np.testing.assert_array_equal(found.topk.keys, truth.topk.keys)
    for received, exact in (
        (found.topk.weights, truth.topk.weights),
        (found.rows, truth.rows),
        (found.key_sums, truth.key_sums),
    ):
        np.testing.assert_allclose(received, exact, atol=1e-12)


# Biases, sinks, shared keys.

BIASES = {
    "one number": DenseBias(RNG.normal(size=(1, 1))),
    "by pair": DenseBias(RNG.normal(size=(300, 310))),
    "by head": DenseBias(RNG.normal(size=(4, 1, 1))),
    "by head and key": DenseBias(RNG.normal(size=(4, 1, 310))),
    "by head and query": DenseBias(RNG.normal(size=(4, 300, 1))),
    "by sequence": DenseBias(RNG.normal(size=(4, 1, 1, 1))),
    "by sequence and key": DenseBias(RNG.normal(size=(4, 1, 1, 310))),
    "by all": DenseBias(RNG.normal(size=(4, 4, 300, 310))),
    "smaller than the call": DenseBias(RNG.normal(size=(4, 4, 140, 133))),
    "that masks": DenseBias(np.where(RNG.random((4, 300, 310)) < 0.5, -np.inf, 0.5)),
    "slopes": Alibi.for_heads(4),
    "table": RelativeBias(RNG.normal(size=(8, 4)), max_distance=50),
}


def biased(dtype, name, mask, shared):
    options = {"bias": BIASES[name], "mask": mask, "sinks": [0.5, -1.0, 3.0, -np.inf]}
    if shared:
        return packed([300, 129, 1, 1], [310, 60], key_sequence=[0, 1, 0, 0], dtype=dtype, **options)
    return packed([300, 129, 1, 1], [300, 150, 0, 60], dtype=dtype, dropout_p=0.2, seed=7, **options)


@pytest.mark.parametrize("shared", [False, True], ids=["own keys", "shared keys"])
@pytest.mark.parametrize("mask", [None, Causal() & Window(70), Window(90, dilation=2)], ids=str)
@pytest.mark.parametrize("name", BIASES)
def test_biases_and_their_gradients(name, mask, shared):
    """In float64 alone where the sums are long: the formula's own error in float32 depends on the order of its sums."""
    truth = expected(biased, name, mask, shared)[0]
    assert_close(computed(native, biased(np.float64, name, mask, shared)), truth, 1e-10)


def shared_keys(dtype, mask, sinks):
    lengths = [5, 1, 64, 0, 200, 3, 17]
    return packed(
        lengths, [400, 1, 130], key_sequence=[0, 0, 2, 1, 0, 1, 2], mask=mask, query_start=[0, 399, 60, 3, 199, -1, 200],
        sinks=sinks, dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("mask", [None, Causal(), Causal() & Window(50, dilation=4)], ids=str)
@pytest.mark.parametrize("sinks", [None, (0.0, 2.0, -3.0, 50.0)])
def test_sequences_that_share_keys_of_several_blocks(mask, sinks):
    check(shared_keys, mask, sinks)


@pytest.mark.parametrize("cut", [100, 129, 300])
def test_shared_keys_of_different_lengths(cut):
    """Several queries read prefixes of the same keys: `Lengths` shortens each one's."""
    mask = Causal() & Lengths(k=[300, cut, 0, 1])
    options = {"key_sequence": [0, 0, 0, 0], "mask": mask, "query_start": 40}
    call = packed([200, 150, 3, 130], [300], **options)
    assert_close(computed(native, call), computed(reference, call), 1e-11)


# Decoding: few queries, many keys, cut into parts whose results are joined.


def decoding(dtype, rows, layout, mask, sinks=None):
    return packed([rows], [100_000], layout=layout, mask=mask, sinks=sinks, dtype=dtype)


@pytest.mark.parametrize(
    ("rows", "layout", "mask"),
    [
        (1, (1, 1, 8, 8), None),
        (1, (4, 1, 16, 3), None),
        (2, (2, 2, 4, 5), Causal()),
        (1, (2, 1, 4, 4), Causal() & Window(70_001)),
        (3, (1, 1, 4, 4), Window(math.inf, dilation=3)),
        (1, (1, 1, 4, 4), Global([7, 99_999]) & Causal()),
    ],
    ids=str,
)
def test_one_query_over_a_hundred_thousand_keys(rows, layout, mask):
    check(decoding, rows, layout, mask)


def test_parts_that_nobody_sees_are_joined_without_a_trace():
    call = decoding(np.float32, 1, (2, 1, 4, 4), Window(5), (1.0, -np.inf))
    call.value[:-6] = np.nan
    call.key[:-6] = np.inf
    exact = packed([1], [6], layout=(2, 1, 4, 4), sinks=(1.0, -np.inf))
    for name in ("query", "key", "value"):
        getattr(exact, name)[:] = getattr(call, name)[-6:]
    for received, truth in zip(
        native.forward(*ragged.inputs(call), None),
        reference.forward(*ragged.inputs(exact), None),
        strict=True,
    ):
        np.testing.assert_allclose(received, truth, atol=1e-6)


# Dropout.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("start", [None, -3, 2**33 + 5])
def test_dropout_draws_the_published_numbers(dtype, dilation, start):
    """With values that name their keys the output shows which pairs stay."""
    seed, p, rows, keys = -(2**62) + 12345, 0.4, 37, 70
    mask = Window(math.inf, dilation=dilation) if dilation > 1 else None
    query, key = np.zeros((2 * rows, 4, 2), dtype), np.zeros((2 * keys, 2, 2), dtype)
    value = np.tile(np.eye(keys, dtype=dtype)[:, None], (2, 2, 1))
    packing = {"cu_seqlens_q": np.array([0, rows, 2 * rows]), "cu_seqlens_k": np.array([0, keys, 2 * keys])}
    options = {"mask": mask, "dropout_p": p, "seed": seed, "query_start": start}
    call = ragged.cases.call_of(query, key, value, **packing, **options)
    out, _ = native.forward(*ragged.inputs(call), seed)
    for sequence in range(2):
        position = np.arange(rows)[None, :, None] + (keys - rows if start is None else start)
        place = (np.array([sequence]), np.arange(4)[:, None, None], position, np.arange(keys))
        kept = keep(seed, *place, p) & ((position - np.arange(keys)) % dilation == 0)
        some = out[sequence * rows : (sequence + 1) * rows].swapaxes(0, 1)
        np.testing.assert_array_equal(some > 0, kept)


# Scores of every size.


def scaled(dtype, **options):
    return packed([40, 200], mask=Causal(), dtype=dtype, **options)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 10.0, 1e3, 1e5])
def test_scores_of_every_magnitude(scale):
    make = functools.partial(scaled, scale=scale)
    truth, plain = expected(make)
    assert_as_exact_as_the_formula(computed(native, make(np.float32)), plain, truth)


@pytest.mark.parametrize("scale", [1e4, 1e30, 1e37])
def test_large_scores_stay_finite(scale):
    found = computed(native, scaled(np.float32, scale=scale))
    assert all(np.isfinite(array).all() for array in found.values())


@pytest.mark.parametrize("softcap", [0.1, 1.0, 50.0, 1e6])
def test_soft_caps_of_every_size(softcap):
    check(functools.partial(scaled, softcap=softcap, scale=4.0))


@pytest.mark.parametrize("least", [-1e9, np.finfo(np.float32).min])
def test_a_bias_that_is_merely_large_masks_nothing(least):
    for bias in (
        np.full((9, 200), least, np.float32),
        np.where(np.arange(200) < 100, least, 0).astype("f4")[None],
    ):
        call = packed([9], [200], dtype=np.float32, bias=DenseBias(bias))
        found, truth = computed(native, call), computed(reference, call)
        assert_close(
            {"out": found["out"], "lse": found["lse"]}, {"out": truth["out"], "lse": truth["lse"]}, 2e-6
        )
