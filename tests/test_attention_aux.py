"""What the operator gives beside its result, and that asking for it changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given

import cases
from cases import BRING, RNG, draw, dtype_of
from regard import Alibi, Aux, Causal, Lengths, Packed, Window, attention, merge
from regard._errors import RegardError, ShapeError
from regard._plan import remembered_plan
from regard.backends.torch import tiling

pytestmark = pytest.mark.usefixtures("way")
every_framework = pytest.mark.parametrize("framework", list(BRING))


@every_framework
def test_rows_are_the_weights_of_chosen_queries(framework):
    bring = BRING[framework]
    arrays = draw(5, 7)
    options = {"mask": Causal(), "softcap": 2.0, "sinks": bring(np.ones(4))}
    offsets = {"cu_seqlens_q": np.array([0, 3, 5]), "cu_seqlens_k": np.array([0, 5, 7])}
    rows = [4, 0, 0, 3]
    _, aux = attention(
        *map(bring, arrays), **options, **offsets, dropout_p=0.5, seed=1, return_aux=Aux(rows=rows)
    )
    assert aux.lse is None
    weights = np.asarray(aux.rows)
    assert weights.shape == (4, 4, 5)
    out = np.asarray(attention(*map(bring, arrays), **options, **offsets))
    value = np.repeat(arrays[2], 2, axis=1)
    for place, row in enumerate(rows):
        keys = value[:5] if row < 3 else np.concatenate([value[5:], np.zeros((3, 4, 5))])
        np.testing.assert_allclose(np.einsum("hs,shd->hd", weights[place], keys), out[row], atol=1e-13)
    assert (weights[0, :, 2:] == 0).all()


@every_framework
def test_rows_are_as_wide_as_the_longest_key_sequence(framework):
    arrays = [BRING[framework](array) for array in draw(3, 5)]
    offsets = {"cu_seqlens_q": np.array([0, 1, 3]), "cu_seqlens_k": np.array([0, 1, 5])}
    _, aux = attention(*arrays, **offsets, return_aux=Aux(rows=[0]))
    assert tuple(aux.rows.shape) == (1, 4, 4)
    assert (np.asarray(aux.rows)[..., 1:] == 0).all()
    assert tuple(attention(*arrays, **offsets, return_aux=Aux(rows=[]))[1].rows.shape) == (0, 4, 4)


@every_framework
@pytest.mark.parametrize("rows", [[5], [-1], [[0]]])
def test_rows_that_are_no_queries_are_refused(framework, rows):
    arrays = [BRING[framework](array) for array in draw(5, 5)]
    with pytest.raises(ShapeError, match="must list flat query indices from 0 to 4"):
        attention(*arrays, return_aux=Aux(rows=rows))


@every_framework
def test_rows_of_padded_queries_that_take_no_part_are_zero(framework):
    arrays = [BRING[framework](array) for array in draw(3, 4, leading=(2,))]
    _, aux = attention(*arrays, mask=Lengths(q=[1, 3], k=[4, 0]), return_aux=Aux(lse=True, rows=range(6)))
    rows = np.asarray(aux.rows)
    np.testing.assert_allclose(rows[0].sum(-1), 1, atol=1e-14)
    assert (rows[1:] == 0).all()
    lse = np.asarray(aux.lse)
    assert lse.shape == (2, 3, 4)
    assert (lse[0, 1:] == -np.inf).all()
    assert (lse[1] == -np.inf).all()


def test_asking_for_more_changes_nothing():
    arrays = [torch.tensor(array) for array in draw(5, 5)]
    plain = attention(*arrays, mask=Causal())
    out, aux = attention(*arrays, mask=Causal(), return_aux=Aux())
    assert (aux.lse, aux.rows) == (None, None)
    assert torch.equal(out, plain)
    assert torch.equal(attention(*arrays, mask=Causal(), return_aux=Aux(lse=True, rows=[0]))[0], plain)


def test_the_lse_leaves_the_sinks_out():
    arrays = draw(3, 3)
    for bring in BRING.values():
        _, with_sinks = attention(*map(bring, arrays), sinks=bring(np.ones(4)), return_aux=Aux(lse=True))
        _, without = attention(*map(bring, arrays), return_aux=Aux(lse=True))
        np.testing.assert_array_equal(np.asarray(with_sinks.lse), np.asarray(without.lse))


@every_framework
def test_parts_of_the_keys_merge_to_the_whole(framework):
    query, key, value = map(BRING[framework], draw(5, 9))
    parts = []
    for begin, end in ((0, 2), (2, 2), (2, 9)):
        options = {"mask": Causal(), "query_start": 4 - begin}
        out, aux = attention(query, key[begin:end], value[begin:end], **options, return_aux=Aux(lse=True))
        parts.append((out, aux.lse))
    out, lse = merge(*parts)
    whole, aux = attention(query, key, value, mask=Causal(), return_aux=Aux(lse=True))
    np.testing.assert_allclose(np.asarray(out), np.asarray(whole), atol=1e-13)
    np.testing.assert_allclose(np.asarray(lse), np.asarray(aux.lse), atol=1e-13)


# The largest weights, and what each key receives.


def largest(weights, allowed, count):
    """The `count` largest allowed weights (H, S) of one query, number by number."""
    keys, found = np.full((len(weights), count), -1), np.zeros((len(weights), count))
    for head in range(len(weights)):
        order = sorted(np.flatnonzero(allowed[head]), key=lambda key: (-weights[head, key], key))[:count]
        keys[head, : len(order)], found[head, : len(order)] = order, weights[head, order]
    return keys, found


def seen(framework, arrays, aux, **options):
    bring = BRING[framework]
    _, found = attention(*map(bring, arrays), **options, return_aux=aux)
    return found


@every_framework
@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("mask", [None, Causal(), Causal() & Window(2), Lengths(q=[2, 0, 5], k=[1, 2, 4])])
def test_the_largest_weights_and_the_sums_by_key(framework, count, mask):
    """Key heads serve two query heads, key sequences are shared and empty, a query may see nothing."""
    arrays = draw(8, 6)
    cu_q, cu_k, reads = np.array([0, 2, 3, 8]), np.array([0, 4, 4, 6]), [2, 0, 0]
    if isinstance(mask, Lengths):
        reads = [0, 2, 0]
    sinks = RNG.normal(size=4)
    layout = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "key_sequence": reads, "mask": mask}
    _, aux = attention(*arrays, **layout, sinks=sinks, return_aux=Aux(rows=range(8)))
    options = layout | {"sinks": BRING[framework](sinks), "dropout_p": 0.5, "seed": 1}
    found = seen(framework, arrays, Aux(topk=count, key_sums=True), **options)
    assert (found.lse, found.rows) == (None, None)
    sums = np.zeros((6, 4))
    for n, read in enumerate(reads):
        length = cu_k[read + 1] - cu_k[read]
        for row in range(cu_q[n], cu_q[n + 1]):
            weights = aux.rows[row, :, :length]
            sums[cu_k[read] : cu_k[read + 1]] += weights.T
            keys, expected = largest(weights, weights > 0, count)
            np.testing.assert_array_equal(np.asarray(found.topk.keys[row]), keys)
            np.testing.assert_allclose(np.asarray(found.topk.weights[row]), expected, atol=1e-14)
    np.testing.assert_allclose(np.asarray(found.key_sums), sums, atol=1e-13)


@given(cases.cases(longest=9))
def test_the_backends_agree_on_what_is_looked_at(case):
    """Over many tiles as over one."""
    options, aux = cases.packed_options(case), Aux(topk=3, key_sums=True, rows=range(int(case.cu_q[-1])))
    arrays = [case.arrays[name] for name in ("query", "key", "value")]
    expected = attention(*arrays, **options, return_aux=aux, backend="reference")[1]
    if "sinks" in options:
        options["sinks"] = torch.tensor(options["sinks"])
    remembered_plan.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for size, number in (("QUERY_BLOCK", 4), ("KEY_CHUNK", 4), ("SCORES_PER_GROUP", 40)):
            patch.setattr(tiling, size, number)
        found = attention(*map(torch.tensor, arrays), **options, return_aux=aux)[1]
    remembered_plan.cache_clear()
    np.testing.assert_array_equal(found.topk.keys.numpy(), expected.topk.keys)
    for name in ("rows", "key_sums"):
        np.testing.assert_allclose(getattr(found, name).numpy(), getattr(expected, name), atol=1e-12)
    np.testing.assert_allclose(found.topk.weights.numpy(), expected.topk.weights, atol=1e-12)
    # Every weight that is given away is received.
    np.testing.assert_allclose(expected.key_sums.sum(0), expected.rows.sum((0, 2)), atol=1e-12)


@every_framework
def test_ties_go_to_the_smaller_key_in_every_chunk(framework, monkeypatch):
    remembered_plan.cache_clear()
    monkeypatch.setattr(tiling, "KEY_CHUNK", 4)
    query, key, value = np.zeros((3, 1, 2)), np.zeros((11, 1, 2)), np.zeros((11, 1, 2))
    top = seen(framework, (query, key, value), Aux(topk=6)).topk
    remembered_plan.cache_clear()
    assert np.asarray(top.keys)[:, 0].tolist() == [[0, 1, 2, 3, 4, 5]] * 3
    np.testing.assert_allclose(np.asarray(top.weights), 1 / 11)


@every_framework
def test_allowed_keys_are_named_even_where_their_weight_vanishes(framework):
    query, key, value = np.ones((1, 1, 1)), np.array([-1e6, -2e6, 0, 7]).reshape(4, 1, 1), np.ones((4, 1, 1))
    top = seen(framework, (query, key, value), Aux(topk=4), mask=Lengths(k=[3])).topk
    assert np.asarray(top.keys).tolist() == [[[2, 0, 1, -1]]]
    assert np.asarray(top.weights).tolist() == [[[1, 0, 0, 0]]]


@every_framework
def test_the_forms_of_what_is_looked_at(framework):
    """Padded arrays whose keys broadcast: a key's sum is over all readers, and stands where the key stands."""
    query, _, _ = draw(3, 0, leading=(2, 5))
    _, key, value = draw(0, 4, leading=(5,))
    aux = Aux(topk=2, key_sums=True)
    found = seen(framework, (query, key, value), aux, bias=Alibi.for_heads(4), mask=Causal())
    assert tuple(found.topk.keys.shape) == tuple(found.topk.weights.shape) == (2, 5, 3, 4, 2)
    assert tuple(found.key_sums.shape) == (5, 4, 4)
    expected = np.zeros((5, 4, 4))
    for a, b in np.ndindex(2, 5):
        arrays = query[a, b], key[b], value[b]
        alone = seen("numpy", arrays, Aux(topk=2, key_sums=True), bias=Alibi.for_heads(4), mask=Causal())
        expected[b] += alone.key_sums
        np.testing.assert_array_equal(np.asarray(found.topk.keys)[a, b], alone.topk.keys)
    np.testing.assert_allclose(np.asarray(found.key_sums), expected, atol=1e-13)
    packed = Packed(BRING[framework](query[0, 0]), [0, 1, 3])
    other = Packed(BRING[framework](key[0]), [0, 4, 4])
    _, found = attention(packed, other, Packed(other.values, [0, 4, 4]), return_aux=aux)
    assert tuple(found.topk.keys.shape) == (3, 4, 2)
    assert tuple(found.key_sums.shape) == (4, 4)
    assert (np.asarray(found.topk.keys)[1:] == -1).all()


@every_framework
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_are_wide_and_keys_are_integers(framework, dtype):
    arrays = [array.astype(dtype) for array in draw(3, 4)]
    found = seen(framework, arrays, Aux(topk=2, key_sums=True))
    kinds = [dtype_of(a) for a in (*found.topk, found.key_sums)]
    wide = "float64" if dtype == "float64" else "float32"
    assert kinds == ["int64", wide, wide]


@every_framework
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_masked_is_not_looked_at(framework, poison):
    query, key, value = draw(4, 6)
    aux = Aux(topk=3, key_sums=True)
    clean = seen(framework, (query, key, value), aux, mask=Lengths(q=[3], k=[4]))
    for array, end in ((query, 3), (key, 4), (value, 4)):
        array[end:] = poison
    dirty = seen(framework, (query, key, value), aux, mask=Lengths(q=[3], k=[4]))
    for one, other in zip((*clean.topk, clean.key_sums), (*dirty.topk, dirty.key_sums), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert (np.asarray(dirty.key_sums)[4:] == 0).all()
    assert (np.asarray(dirty.topk.keys)[3] == -1).all()


def test_looking_records_no_gradient():
    arrays = [torch.tensor(array, requires_grad=True) for array in draw(3, 4)]
    _, aux = attention(*arrays, return_aux=Aux(lse=True, rows=[0], topk=2, key_sums=True))
    assert aux.lse.requires_grad
    assert not any(tensor.requires_grad for tensor in (aux.rows, *aux.topk, aux.key_sums))


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "two"])
def test_counts_that_are_none_are_refused(count):
    with pytest.raises(
        RegardError, match=r"Aux\(topk=...\) must be an integer of at least 1, or None. Received"
    ):
        Aux(topk=count)
