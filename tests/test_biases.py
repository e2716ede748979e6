"""Biases by distance against dense biases written out in the test, and what the constructors refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cases
from cases import BRING, RNG, draw
from regard import (
    Alibi,
    Aux,
    Causal,
    DenseBias,
    Lengths,
    Packed,
    RelativeBias,
    Window,
    attention,
    explain,
)
from regard._biases import DistanceBias
from regard._errors import ShapeError
from regard._plan import remembered_plan

pytestmark = pytest.mark.usefixtures("way")
every_framework = pytest.mark.parametrize("framework", list(BRING))


def formula(query, key, value, bias, allowed=True, sinks=None):
    """The contract's first line for one sequence, dense: bias (H, T, S)."""
    group = query.shape[1] // key.shape[1]
    key, value = (np.repeat(array, group, axis=1) for array in (key, value))
    logits = np.einsum("thd,shd->hts", query, key) / math.sqrt(query.shape[2]) + bias
    powers = np.where(allowed, np.exp(logits), 0)
    total = powers.sum(-1, keepdims=True) + (0 if sinks is None else np.exp(sinks)[:, None, None])
    return np.einsum("hts,shd->thd", powers / np.where(total == 0, 1, total), value)


def distances(rows, keys, start=None):
    return np.arange(rows)[:, None] + (keys - rows if start is None else start) - np.arange(keys)


def t5_buckets(relative, bidirectional, buckets, longest):
    """T5's rule in PyTorch, as Raffel et al. compute it: in float32, from key - position."""
    relative, found = torch.as_tensor(relative), 0
    if bidirectional:
        buckets //= 2
        found = (relative > 0).long() * buckets
        away = relative.abs()
    else:
        away = -torch.minimum(relative, torch.zeros_like(relative))
    exact = buckets // 2
    wide = torch.log(away.float() / exact) / math.log(longest / exact) * (buckets - exact)
    wide = torch.minimum(exact + wide.long(), torch.full_like(away, buckets - 1))
    return (found + torch.where(away < exact, away, wide)).numpy()


def relative_table(table, distance, bidirectional=True, longest=128):
    """(H, ...) of a table (B, H)."""
    return np.moveaxis(table[t5_buckets(-distance, bidirectional, len(table), longest)], -1, 0)


# Against the formula.


@every_framework
@pytest.mark.parametrize(("rows", "keys", "start"), [(4, 6, None), (6, 4, None), (5, 5, -3), (3, 4, 10**9)])
@pytest.mark.parametrize("mask", [None, Causal(), Window(2, 1)])
def test_alibi_is_the_distance_times_the_slope(framework, rows, keys, start, mask):
    query, key, value = draw(rows, keys)
    slopes = RNG.normal(size=4) if start is None or start < 10 else np.array([0.1, 0.5, 1, 2]) * 1e-9
    away, bring = distances(rows, keys, start), BRING[framework]
    allowed = {None: away < math.inf, Causal(): away >= 0, Window(2, 1): (away <= 2) & (away >= -1)}[mask]
    options = {"mask": mask, "query_start": start}
    out = attention(*map(bring, (query, key, value)), bias=Alibi(bring(slopes)), **options)
    expected = formula(query, key, value, -slopes[:, None, None] * abs(away), allowed)
    np.testing.assert_allclose(np.asarray(out), expected, atol=1e-13)


@every_framework
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_relative_bias_is_the_tables_row(framework, bidirectional):
    query, key, value = draw(9, 14)
    table, sinks, bring = RNG.normal(size=(8, 4)), RNG.normal(size=4), BRING[framework]
    away = distances(9, 14)
    bias = RelativeBias(bring(table), bidirectional, max_distance=11)
    out = attention(*map(bring, (query, key, value)), bias=bias, sinks=bring(sinks))
    added = relative_table(table, away, bidirectional, 11)
    np.testing.assert_allclose(np.asarray(out), formula(query, key, value, added, sinks=sinks), atol=1e-13)


@every_framework
def test_packed_sequences_have_their_own_distances(framework):
    """Lengths of 0 and 1, keys that are shared, starts of their own, padded or packed."""
    q_lengths, k_lengths, reads, start = [3, 0, 1, 5], [4, 0, 2], [0, 1, 2, 0], [7, -9, 0, -2]
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(lengths)]) for lengths in (q_lengths, k_lengths))
    query, key, value = draw(9, 6)
    bring = BRING[framework]
    table = RNG.normal(size=(8, 4))
    biases = [
        (Alibi(bring(table[0])), lambda away: -table[0][:, None, None] * abs(away)),
        (RelativeBias(bring(table)), lambda away: relative_table(table, away)),
    ]
    for bias, added in biases:
        out = attention(
            Packed(bring(query), cu_q), Packed(bring(key), cu_k), Packed(bring(value), cu_k),
            bias=bias, key_sequence=reads, query_start=start, mask=Window(8, 3),
        )  # fmt: skip
        for n, read in enumerate(reads):
            rows, keys = slice(*cu_q[n : n + 2]), slice(*cu_k[read : read + 2])
            away = distances(q_lengths[n], k_lengths[read], start[n])
            allowed = (away <= 8) & (away >= -3)
            expected = formula(query[rows], key[keys], value[keys], added(away), allowed)
            np.testing.assert_allclose(np.asarray(out.values)[rows], expected, atol=1e-13)


@every_framework
@pytest.mark.parametrize(("rows", "keys"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty_calls(framework, rows, keys):
    arrays = [BRING[framework](array) for array in draw(rows, keys, leading=(2,))]
    for bias in (Alibi.for_heads(4), RelativeBias(np.ones((4, 4)))):
        out, aux = attention(*arrays, bias=bias, return_aux=Aux(rows=range(2 * rows), topk=2, key_sums=True))
        assert tuple(out.shape) == (2, rows, 4, 5)
        assert tuple(aux.key_sums.shape) == (2, keys, 4)


@every_framework
def test_padded_lengths_set_the_distances(framework):
    """The last valid query meets the last valid key, whatever stands in the padding."""
    query, key, value = draw(5, 7, leading=(2,))
    slopes, lengths = np.array([0.1, 0.5, 1.0, 2.0]), [(2, 6), (5, 1)]
    mask = Lengths(q=[2, 5], k=[6, 1])
    out = attention(*map(BRING[framework], (query, key, value)), bias=Alibi(slopes), mask=mask)
    for n, (rows, keys) in enumerate(lengths):
        arrays = query[n, :rows], key[n, :keys], value[n, :keys]
        added = -slopes[:, None, None] * abs(distances(rows, keys))
        np.testing.assert_allclose(np.asarray(out)[n, :rows], formula(*arrays, added), atol=1e-13)


def test_a_table_that_holds_minus_infinity_masks():
    query, key, value = draw(4, 4)
    table = np.zeros((4, 4))
    table[2:] = -math.inf  # keys behind the query
    for bring in BRING.values():
        out = attention(*map(bring, (query, key, value)), bias=RelativeBias(bring(table), max_distance=4))
        np.testing.assert_allclose(np.asarray(out), attention(query, key, value, mask=Causal()), atol=1e-14)


# Slopes and buckets.


def test_the_papers_slopes():
    np.testing.assert_array_equal(Alibi.for_heads(8).slopes, [2.0**-n for n in range(1, 9)])
    np.testing.assert_allclose(Alibi.for_heads(16).slopes, [2 ** (-n / 2) for n in range(1, 17)])
    np.testing.assert_array_equal(Alibi.for_heads(1).slopes, [2**-8])

    def paper(heads):
        def powers(count):
            start = 2 ** (-(2 ** -(math.log2(count) - 3)))
            return [start * start**n for n in range(count)]

        if math.log2(heads).is_integer():
            return powers(heads)
        below = 2 ** math.floor(math.log2(heads))
        return powers(below) + paper(2 * below)[0::2][: heads - below]

    for heads in range(1, 70):
        np.testing.assert_allclose(Alibi.for_heads(heads).slopes, paper(heads), rtol=1e-12)


def buckets_of(distance, **options):
    buckets = options.pop("buckets", 32)
    return RelativeBias(np.arange(float(buckets))[:, None], **options).values(np.asarray(distance))[0]


def test_t5s_buckets_as_recorded():
    """First distance of each bucket with T5's own 32 buckets up to distance 128."""
    first = [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]
    for distance in range(1000):
        bucket = max(n for n, edge in enumerate(first) if edge <= distance)
        assert buckets_of([distance]) == bucket
        assert buckets_of([-distance]) == (bucket + 16 if distance else 0)
    first = [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    for distance in range(1000):
        bucket = max(n for n, edge in enumerate(first) if edge <= distance)
        assert buckets_of([distance], bidirectional=False) == bucket
        assert buckets_of([-distance], bidirectional=False) == 0


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("buckets", "longest"), [(32, 128), (4, 3), (6, 5), (8, 20), (12, 50), (64, 256), (320, 800)]
)
def test_buckets_are_t5s(bidirectional, buckets, longest):
    if not bidirectional and longest <= buckets // 2:
        longest = buckets
    distance = np.concatenate([[-(10**12), -(2**31)], np.arange(-3000, 3001), [2**31, 10**12]])
    found = buckets_of(distance, buckets=buckets, bidirectional=bidirectional, max_distance=longest)
    np.testing.assert_array_equal(found, t5_buckets(-distance, bidirectional, buckets, longest))


# Distances of a call.

spans = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(-9, 9)), min_size=1, max_size=4)


@given(spans)
def test_the_distances_of_a_plan_are_those_that_pairs_have(spans):
    q_lengths, k_lengths, start = map(np.array, zip(*spans, strict=True))
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(lengths)]) for lengths in (q_lengths, k_lengths))
    arrays = np.zeros((cu_q[-1], 1, 1)), np.zeros((cu_k[-1], 1, 1)), np.zeros((cu_k[-1], 1, 1))
    layout = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k}
    plan = cases.call_of(*arrays, bias=Alibi.for_heads(1), query_start=start, **layout).plan
    met = {int(d) for q, k, s in spans for d in distances(q, k, s).flat}
    assert plan.distances == (range(min(met), max(met) + 1) if met else range(0))


@every_framework
def test_sequences_far_apart_cost_what_they_span_up_to_a_limit(framework):
    query, key, value = map(BRING[framework], draw(4, 4))
    options = {"bias": Alibi(np.ones(4)), "cu_seqlens_q": np.array([0, 2, 4])}
    out = attention(query, key, value, query_start=[0, 10**5], **options)
    alone = attention(query[2:], key[2:], value[2:], query_start=10**5, bias=options["bias"])
    np.testing.assert_allclose(np.asarray(out[2:]), np.asarray(alone), atol=1e-13)
    for call in (attention, explain):
        with pytest.raises(
            ShapeError, match="too far apart for a bias by distance: the call meets 1000000003 distances"
        ):
            call(query, key, value, query_start=[0, 10**9], **options)


def test_a_plan_is_remembered_whatever_the_numbers_of_its_bias():
    remembered_plan.cache_clear()
    arrays = draw(4, 4)
    first = cases.call_of(*arrays, bias=Alibi(np.ones(4)), mask=Causal()).plan
    assert cases.call_of(*arrays, bias=RelativeBias(np.ones((4, 4))), mask=Causal()).plan is first
    for bias in (None, DenseBias(np.ones((4, 4)))):
        assert cases.call_of(*arrays, bias=bias, mask=Causal()).plan is not first
    outs = [attention(*arrays, bias=Alibi(np.full(4, slope)), mask=Causal()) for slope in (0.0, 1.0)]
    assert not np.allclose(*outs)


# Dtypes and gradients.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bias_dtype", ["float16", "float32", "float64"])
@every_framework
def test_a_bias_may_have_a_dtype_of_its_own(framework, dtype, bias_dtype):
    arrays = [BRING[framework](array.astype(dtype)) for array in draw(6, 9)]
    table = RNG.normal(size=(4, 4)).astype(bias_dtype)
    exact = [np.asarray(array).astype(np.float64) for array in arrays]
    for kind in (Alibi, RelativeBias):
        numbers = table[0] if kind is Alibi else table
        out = attention(*arrays, bias=kind(BRING[framework](numbers)))
        assert out.dtype == arrays[0].dtype
        expected = attention(*exact, bias=kind(numbers.astype(np.float64)))
        tolerance = 1e-13 if dtype == bias_dtype == "float64" else 4e-3 if dtype == "float16" else 2e-6
        np.testing.assert_allclose(np.asarray(out), expected, atol=tolerance)


def test_long_distances_survive_slopes_of_low_precision():
    """Distance 2049 is no float16."""
    x = np.zeros((1, 1, 1))
    _, aux = attention(
        x, x, x, bias=Alibi(np.array([2**-4], np.float16)), query_start=2049, return_aux=Aux(lse=True)
    )
    assert aux.lse == -2049 / 16
    values = Alibi(torch.tensor([2**-4], dtype=torch.bfloat16)).values(np.array([2049]))
    assert values.item() == -2049 / 16


def test_a_bias_of_numpy_stands_beside_arrays_of_any_framework():
    arrays, slopes = draw(4, 5), np.ones(4)
    for bring in BRING.values():
        out = attention(*map(bring, arrays), bias=Alibi(slopes))
        np.testing.assert_allclose(np.asarray(out), attention(*arrays, bias=Alibi(np.ones(4))), atol=1e-14)


def test_gradients_reach_parameters_in_their_own_dtype():
    query, key, value = (torch.tensor(array) for array in draw(5, 6))
    slopes = torch.rand(4, requires_grad=True)
    table = torch.rand(8, 4, dtype=torch.bfloat16, requires_grad=True)
    for parameter, kind in ((slopes, Alibi), (table, RelativeBias)):
        attention(query, key, value, bias=kind(parameter)).square().sum().backward()
        assert parameter.grad.dtype == parameter.dtype
        assert (parameter.grad != 0).any()


# What is refused.

WRONG = {
    "slopes' kind": (lambda: Alibi(np.ones(4, int)), "Alibi needs a floating-point array, got int64; convert the slopes"),
    "a list": (lambda: Alibi([1.0]), "Alibi needs a floating-point array, got list"),
    "slopes' shape": (lambda: Alibi(np.ones((4, 1))), r"Alibi needs slopes of shape \(heads,\), got \(4, 1\)"),
    "no heads": (lambda: Alibi.for_heads(0), "at least one head, got 0"),
    "table's kind": (lambda: RelativeBias(np.ones((4, 4), bool)), "RelativeBias needs a floating-point array, got bool"),
    "table's shape": (lambda: RelativeBias(np.ones(4)), r"a table of shape \(buckets, heads\), got \(4,\)"),
    "odd": (lambda: RelativeBias(np.ones((5, 4))), "an even number of buckets, at least 4, with bidirectional=True, got 5"),
    "few": (lambda: RelativeBias(np.ones((2, 4))), "got 2 in a table of shape"),
    "few of one way": (lambda: RelativeBias(np.ones((1, 4)), bidirectional=False), "at least 2 buckets with bidirectional=False, got 1"),
    "near": (lambda: RelativeBias(np.ones((32, 4)), max_distance=8), "max_distance above 8, .* of its 32 buckets .* got 8; raise it"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_constructors_say_what_is_wrong(name):
    make, message = WRONG[name]
    with pytest.raises(ShapeError, match=message):
        make()


def test_odd_buckets_serve_one_direction():
    found = buckets_of([0, 1, 2, 3, 4, 900], buckets=5, bidirectional=False, max_distance=4)
    assert found.tolist() == [0, 1, 2, 3, 4, 4]


@every_framework
def test_numbers_for_other_heads_are_refused(framework):
    arrays = [BRING[framework](array) for array in draw(3, 3)]
    for bias in (Alibi(np.ones(2)), RelativeBias(np.ones((4, 2)))):
        message = (
            f"{type(bias).__name__} needs numbers for each of the 4 query heads, got 2; make it for 4 heads"
        )
        for call in (attention, explain):
            with pytest.raises(ShapeError, match=message):
                call(*arrays, bias=bias)


def test_they_say_what_they_hold():
    assert repr(Alibi(np.ones(3))) == "Alibi(float64 slopes of 3 heads)"
    assert repr(RelativeBias(torch.ones(4, 2))) == (
        "RelativeBias(torch.float32 (4, 2), bidirectional=True, max_distance=128)"
    )
    assert repr(DenseBias(np.ones((4, 2)))) == "DenseBias(float64 (4, 2))"


def test_a_bias_of_ones_own_by_distance():
    class Periodic(DistanceBias):
        heads = 4

        def values(self, distances):
            return np.broadcast_to(np.cos(distances), (4, len(distances)))

    query, key, value = draw(4, 6)
    expected = formula(query, key, value, np.cos(distances(4, 6)))
    np.testing.assert_allclose(attention(query, key, value, bias=Periodic()), expected, atol=1e-13)
