"""The operator's contract, line by line, on NumPy and PyTorch. The oracle is the reference in float64."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

import cases
from regard import Aux, Causal, Dense, DenseBias, Documents, Global, Lengths, Packed, Prefix, Window, attention, merge
from regard._errors import BackendError, RegardError, ShapeError
from regard._plan import remembered_plan
from regard.backends.torch import tiling

RNG = np.random.default_rng(0)
BRING = {"numpy": np.asarray, "torch": torch.as_tensor}
every_framework = pytest.mark.parametrize("framework", list(BRING))


def draw(rows, keys, heads=4, kv_heads=2, size=3, out_size=5, leading=()):
    shapes = (rows, heads, size), (keys, kv_heads, size), (keys, kv_heads, out_size)
    return [RNG.normal(size=(*leading, *shape)) for shape in shapes]


def run(framework, query, key, value, **options):
    """The call in a framework, on NumPy arrays, as NumPy."""
    bring = BRING[framework]
    given_arrays = {name: bring(options.pop(name)) for name in ("sinks", "bias") if name in options}
    result = attention(bring(query), bring(key), bring(value), **given_arrays, **options)
    assert isinstance(result, torch.Tensor if framework == "torch" else np.ndarray)
    return np.asarray(result)


def assert_same(received, expected, tolerance=1e-12):
    for name, array in expected.items():
        if name in received and array is not None:
            np.testing.assert_allclose(np.asarray(received[name]), array, atol=tolerance, rtol=tolerance, err_msg=name)


# Packed = padded with Lengths = one sequence at a time.


@given(cases.cases())
def test_numpy_padded_and_single_equal_packed(case):
    expected = cases.expected(case)
    forms = [cases.numpy_padded(case)]
    if not case.options["dropout_p"]:
        forms.append(cases.numpy_singly(case))
    for found in forms:
        assert_same(found, {name: expected[name] for name in ("out", "lse")})


@given(cases.cases())
def test_torch_equals_the_reference_in_every_form_with_gradients(case):
    expected = cases.expected(case)
    tensors = cases.Tensors(case)
    assert_same(tensors.packed(), expected)
    for poison in (math.nan, math.inf):
        assert_same(tensors.padded(poison), expected)
    if not case.options["dropout_p"]:
        assert_same(tensors.singly(), expected)


@every_framework
def test_masks_packing_causality_windows_and_lengths_intersect(framework):
    query, key, value = draw(6, 7)
    parts = Causal(), Window(2), Prefix(3), Lengths(k=[3, 3]), Documents(np.array([0, 0, 1, 0, 1, 1]), np.array([0, 1] * 3 + [0]))
    cu_q, cu_k = np.array([0, 2, 6]), np.array([0, 3, 7])
    allowed = np.zeros((6, 7), bool)
    for n in range(2):
        for t in range(cu_q[n], cu_q[n + 1]):
            for s in range(cu_k[n], min(cu_k[n] + 3, cu_k[n + 1])):
                position, where = 1 + t - cu_q[n], s - cu_k[n]
                near = where <= position and position - where <= 2 and where < 3
                allowed[t, s] = near and parts[-1].queries[t] == parts[-1].keys[s]
    mask = parts[0]
    for part in parts[1:]:
        mask = mask & part
    out = run(framework, query, key, value, mask=mask, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, query_start=1)
    np.testing.assert_allclose(out, run(framework, query, key, value, mask=allowed) if framework == "numpy" else
                               run("numpy", query, key, value, mask=allowed), atol=1e-13)


@every_framework
def test_broadcast_of_leading_dimensions(framework):
    query, _, _ = draw(3, 0, leading=(2, 1))
    _, key, value = draw(0, 4, leading=(5,))
    out = run(framework, query, key, value, mask=Causal())
    assert out.shape == (2, 5, 3, 4, 5)
    for a, b in np.ndindex(2, 5):
        np.testing.assert_allclose(out[a, b], run("numpy", query[a, 0], key[b], value[b], mask=Causal()), atol=1e-13)


@every_framework
@pytest.mark.parametrize("shape", [(3, 4), (4, 1, 4), (1, 1, 1), (2, 1, 3, 4), (5, 4, 3, 1), (2, 5, 1, 3, 4), (4,)])
def test_arrays_as_mask_and_bias_broadcast(framework, shape):
    query, key, value = draw(3, 4, leading=(2, 5))
    allowed, bias = RNG.random(shape) < 0.7, RNG.normal(size=shape)
    if shape == (2, 1, 3, 4):  # leading dimensions align from the right: (2, 1) heads do not fit (2, 5)
        with pytest.raises(ShapeError):
            run(framework, query, key, value, bias=bias)
        return
    mask = BRING[framework](allowed)
    out = run(framework, query, key, value, mask=mask, bias=bias)
    everywhere = np.broadcast_to(np.where(allowed, bias, -np.inf), (2, 5, 4, 3, 4))
    for a, b in np.ndindex(2, 5):
        expected = attention(query[a, b], key[a, b], value[a, b], bias=everywhere[a, b])
        np.testing.assert_allclose(out[a, b], expected, atol=1e-13)


@every_framework
@pytest.mark.parametrize("leading", [(0,), (2, 0)])
def test_no_sequences_at_all(framework, leading):
    query, key, value = draw(3, 4, leading=leading)
    assert run(framework, query, key, value, mask=Causal()).shape == (*leading, 3, 4, 5)
    query, key, value = draw(0, 0)
    out = run(framework, query, key, value, cu_seqlens_q=np.array([0]))
    assert out.shape == (0, 4, 5)


@every_framework
@pytest.mark.parametrize(("rows", "keys"), [(0, 3), (3, 0), (0, 0), (1, 1), (1, 3), (3, 1)])
def test_lengths_may_be_anything(framework, rows, keys):
    query, key, value = draw(rows, keys, leading=(2,))
    out = run(framework, query, key, value)
    assert out.shape == (2, rows, 4, 5)
    if not keys:
        assert (out == 0).all()


# Queries that see nothing; poison.


@every_framework
@pytest.mark.parametrize("sinks", [None, [0.0, 1.0, -2.0, 9.0], [-np.inf] * 4])
def test_a_query_that_sees_nothing_gives_zero(framework, sinks):
    query, key, value = draw(4, 2)
    options = {} if sinks is None else {"sinks": np.array(sinks)}
    out = run(framework, query, key, value, mask=Causal(), **options)
    assert (out[:2] == 0).all()
    assert np.isfinite(out).all()
    bring = BRING[framework]
    options = {name: bring(array) for name, array in options.items()}
    _, aux = attention(*map(bring, (query, key, value)), mask=Causal(), **options, return_aux=Aux(lse=True))
    assert (np.asarray(aux.lse)[:2] == -np.inf).all()
    assert np.isfinite(np.asarray(aux.lse)[2:]).all()


@pytest.mark.parametrize("sinks", [None, [0.0, 1.0, -2.0, 9.0], [-math.inf, 0.0, 0.0, -math.inf]])
@pytest.mark.parametrize("poison", [0.0, math.nan, math.inf])
def test_a_query_that_sees_nothing_has_zero_gradients(sinks, poison):
    query, key, value = (torch.tensor(array, requires_grad=True) for array in draw(4, 2))
    leaves = [query, key, value]
    if sinks is not None:
        sinks = torch.tensor(sinks, dtype=torch.float64, requires_grad=True)
        leaves.append(sinks)
    out, aux = attention(query, key, value, mask=Causal(), sinks=sinks, return_aux=Aux(lse=True))
    ups = torch.ones_like(out), torch.ones_like(aux.lse)
    clean = torch.autograd.grad([out, aux.lse], leaves, ups, retain_graph=True)
    assert (clean[0][:2] == 0).all()
    assert all(grad.isfinite().all() for grad in clean)
    for up in ups:
        up[:2] = poison
    for expected, received in zip(clean, torch.autograd.grad([out, aux.lse], leaves, ups), strict=True):
        torch.testing.assert_close(received, expected, rtol=0, atol=0)


def seen_by_somebody(case):
    """Which key tokens take part in a weight, and which queries see anything."""
    options = cases.packed_options(case) | {"dropout_p": 0.0, "seed": None, "softcap": None}
    if "bias" in options:
        options["bias"] = DenseBias(options["bias"])
    arrays = [case.arrays[name] for name in ("query", "key", "value")]
    _, aux = attention(*arrays, **options, return_aux=Aux(lse=True, rows=np.arange(case.cu_q[-1])))
    seen = np.zeros(case.cu_k[-1], bool)
    for n, read in enumerate(case.reads):
        rows = aux.rows[case.cu_q[n] : case.cu_q[n + 1]].any((0, 1))
        begin, end = case.cu_k[read], case.cu_k[read + 1]
        seen[begin:end] |= rows[: end - begin]
    return seen, (aux.lse > -np.inf).any(1)


@given(cases.cases(dropout=False))
def test_what_is_masked_has_no_influence(case):
    """The keys that nobody sees and the queries that see nobody are poisoned; nothing changes, to the last bit."""
    seen, seeing = seen_by_somebody(case)
    clean = cases.expected(case)
    for poison in (math.nan, math.inf, -math.inf):
        dirty = dict(case.arrays)
        for name, sound in (("query", seeing), ("grad_out", seeing), ("grad_lse", seeing), ("key", seen), ("value", seen)):
            shape = (-1, *(1,) * (dirty[name].ndim - 1))
            dirty[name] = np.where(sound.reshape(shape), dirty[name], poison)
        poisoned = cases.Case(
            case.q_lengths, case.k_lengths, case.reads, dirty, case.mask, case.query_start, case.options
        )
        assert_same(cases.expected(poisoned), clean, 0)
        assert_same(cases.Tensors(poisoned).packed(), clean)


@pytest.mark.parametrize("part", ["query", "key", "value", "grad_out"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_foreign_sequences_have_no_influence_in_torch(part, poison):
    arrays = dict(zip(("query", "key", "value"), draw(9, 9), strict=True)) | {"grad_out": RNG.normal(size=(9, 4, 5))}
    offsets = np.array([0, 4, 5, 9])

    def everything(arrays):
        leaves = [torch.tensor(arrays[name], requires_grad=True) for name in ("query", "key", "value")]
        out = attention(*leaves, mask=Causal(), cu_seqlens_q=offsets)
        grads = torch.autograd.grad(out, leaves, torch.tensor(arrays["grad_out"]))
        return [tensor[5:] for tensor in (out, *grads)]

    dirty = arrays[part].copy()
    dirty[:5] = poison
    for expected, received in zip(everything(arrays), everything(arrays | {part: dirty}), strict=True):
        torch.testing.assert_close(received, expected, rtol=0, atol=0)


@every_framework
def test_allowed_nan_and_infinity_are_not_hidden(framework):
    query, key, value = draw(2, 3)
    value[1, 0, 0], value[2, 1, 1] = np.nan, np.inf
    out = run(framework, query, key, value)
    assert np.isnan(out[:, :2, 0]).all()
    assert (out[:, 2:, 1] == np.inf).all()
    np.testing.assert_allclose(out[:, :, 2:], run("numpy", query, key, value)[:, :, 2:], atol=1e-13)


@every_framework
def test_a_bias_of_minus_infinity_masks(framework):
    query, key, value = draw(3, 4)
    allowed = RNG.random((4, 3, 4)) < 0.5
    bias = np.where(allowed, 0.0, -np.inf)
    masked = run(framework, query, key, value, mask=BRING[framework](allowed))
    np.testing.assert_allclose(run(framework, query, key, value, bias=bias), masked, atol=1e-14)


# Positions, sharing, dropout.


@every_framework
def test_the_last_query_meets_the_last_key_unless_query_start_says_otherwise(framework):
    query, key, value = draw(3, 5)
    default = run(framework, query, key, value, mask=Causal())
    np.testing.assert_array_equal(default, run(framework, query, key, value, mask=Causal(), query_start=2))
    first = run(framework, query, key, value, mask=Causal(), query_start=0)
    np.testing.assert_allclose(first[0], np.repeat(value[0], 2, 0), atol=1e-14)
    packed = run(
        framework, query, key, value, mask=Causal(), query_start=[1, 0],
        cu_seqlens_q=np.array([0, 1, 3]), cu_seqlens_k=np.array([0, 3, 5]),
    )  # fmt: skip
    np.testing.assert_allclose(packed[:1], run("numpy", query[:1], key[:2], value[:2]), atol=1e-14)
    np.testing.assert_allclose(packed[1], np.repeat(value[3], 2, 0), atol=1e-14)


@every_framework
def test_several_queries_share_one_key_sequence(framework):
    query, key, value = draw(6, 5)
    offsets = {"cu_seqlens_q": np.array([0, 1, 3, 6]), "cu_seqlens_k": np.array([0, 3, 5])}
    for mask in (None, Causal()):
        out = run(framework, query, key, value, mask=mask, key_sequence=[1, 0, 1], **offsets)
        for n, span in enumerate([slice(3, 5), slice(0, 3), slice(3, 5)]):
            rows = slice(*offsets["cu_seqlens_q"][n : n + 2])
            np.testing.assert_allclose(out[rows], run("numpy", query[rows], key[span], value[span], mask=mask), atol=1e-13)


@pytest.mark.parametrize("mask", [None, Causal() & Window(3)])
def test_dropout_is_one_function_everywhere(mask):
    query, key, value = draw(9, 11)
    options = {"mask": mask, "dropout_p": 0.5, "seed": 2**40 + 3}
    packed = {"cu_seqlens_q": np.array([0, 4, 9]), "cu_seqlens_k": np.array([0, 5, 11])}
    expected = run("numpy", query, key, value, **options, **packed)
    np.testing.assert_allclose(run("torch", query, key, value, **options, **packed), expected, atol=1e-13)
    np.testing.assert_array_equal(run("numpy", query, key, value, **options, **packed), expected)
    other = run("numpy", query, key, value, **(options | {"seed": 1}), **packed)
    assert not np.allclose(other, expected)
    for seed in (np.array(2**40 + 3), torch.tensor(2**40 + 3)):
        np.testing.assert_array_equal(run("numpy", query, key, value, **(options | {"seed": seed}), **packed), expected)


def test_dropout_keeps_the_mean():
    query, key, value = np.zeros((200, 4, 2)), np.zeros((200, 4, 2)), np.ones((200, 4, 1))
    out = run("torch", query, key, value, dropout_p=0.25, seed=0)
    assert abs(out.mean() - 1) < 5 * (0.25 / 0.75 / 160_000) ** 0.5
    assert out.std() > 0.01


# Precision, strides, forms.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_output_keeps_the_dtype_with_at_most_twice_the_error_of_the_formula(dtype):
    exact = [torch.tensor(array) for array in draw(60, 70, size=16, out_size=16)]
    query, key, value = (tensor.to(dtype) for tensor in exact)
    exact = [tensor.double() for tensor in (query, key, value)]
    up = torch.randn(60, 4, 16, dtype=torch.float64)

    def formula(query, key, value):
        key, value = (tensor.repeat_interleave(2, 1) for tensor in (key, value))
        scores = torch.einsum("thd,shd->hts", query * 16**-0.5, key)
        allowed = torch.ones(60, 70, dtype=torch.bool).tril(10)
        return torch.einsum("hts,shd->thd", torch.softmax(scores.masked_fill(~allowed, -math.inf), -1), value)

    def everything(function, arrays, up):
        leaves = [array.detach().requires_grad_() for array in arrays]
        out = function(*leaves)
        assert out.dtype == arrays[0].dtype
        grads = torch.autograd.grad(out, leaves, up)
        assert all(grad.dtype == leaf.dtype for grad, leaf in zip(grads, leaves, strict=True))
        return [tensor.detach().double() for tensor in (out, *grads)]

    truth = everything(formula, exact, up)
    plain = everything(formula, (query, key, value), up.to(dtype))
    ours = everything(lambda *arrays: attention(*arrays, mask=Causal()), (query, key, value), up.to(dtype))
    for name, true, theirs, received in zip(("out", "query", "key", "value"), truth, plain, ours, strict=True):
        floor = torch.finfo(dtype).eps * true.abs().max()  # one unit in the last place of the output
        assert (received - true).abs().max() <= max(2 * (theirs - true).abs().max(), floor), name


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numpy_keeps_the_dtype(dtype):
    exact = draw(20, 20)
    low = [array.astype(dtype) for array in exact]
    out = attention(*low, mask=Causal())
    assert out.dtype == dtype
    truth = attention(*(array.astype(np.float64) for array in low), mask=Causal())
    assert abs(out - truth).max() <= 2 * np.finfo(dtype).eps


@pytest.mark.parametrize(("dtype", "wide"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_the_lse_is_wide(dtype, wide):
    arrays = [array.astype(dtype) for array in draw(2, 3)]
    for bring in BRING.values():
        _, aux = attention(*map(bring, arrays), return_aux=Aux(lse=True))
        assert str(aux.lse.dtype).removeprefix("torch.") == wide
        assert aux.lse.shape == (2, 4)


@every_framework
def test_strides_do_not_matter_and_arrays_are_left_alone(framework, poisoned_memory):
    plain = draw(6, 7, out_size=4, leading=(2,))
    bring = BRING[framework]
    strided = []
    for array in plain:
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan)
        wide[..., ::2] = array
        turned = np.ascontiguousarray(wide.transpose(3, 1, 0, 2))
        strided.append(bring(turned).transpose(2, 1, 3, 0)[..., ::2] if framework == "numpy" else
                       bring(turned).permute(2, 1, 3, 0)[..., ::2])
    before = [np.asarray(array).copy() for array in strided]
    out = np.asarray(attention(*strided, mask=Causal()))
    np.testing.assert_allclose(out, run("numpy", *plain, mask=Causal()), atol=1e-13)
    for array, copy in zip(strided, before, strict=True):
        np.testing.assert_array_equal(np.asarray(array), copy)


def test_read_only_and_expanded_arrays():
    query, key, value = draw(3, 4)
    for array in (query, key, value):
        array.flags.writeable = False
    stretched = [np.broadcast_to(array, (2, *array.shape)) for array in (query, key, value)]
    np.testing.assert_array_equal(attention(*stretched)[1], attention(query, key, value))
    query, key, value = (torch.tensor(array, requires_grad=True) for array in draw(3, 4))
    out = attention(query.expand(2, -1, -1, -1), key.expand(2, -1, -1, -1), value.expand(2, -1, -1, -1))
    alone = attention(query, key, value)
    doubled, once = (torch.autograd.grad(o.sum(), (query, key, value)) for o in (out, alone))
    for twice, single in zip(doubled, once, strict=True):
        torch.testing.assert_close(twice, 2 * single)


@every_framework
def test_packed_in_packed_out(framework):
    bring = BRING[framework]
    query, key, value = map(bring, draw(5, 6))
    cu_q, cu_k = np.array([0, 2, 5]), np.array([0, 4, 6])
    out = attention(Packed(query, cu_q), Packed(key, cu_k), Packed(value, cu_k), mask=Causal())
    assert isinstance(out, Packed)
    np.testing.assert_array_equal(out.offsets, cu_q)
    plain = attention(query, key, value, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, mask=Causal())
    np.testing.assert_array_equal(np.asarray(out.values), np.asarray(plain))
    for offsets in (cu_q.astype(np.int32), cu_q.tolist(), torch.tensor(cu_q)):
        again = attention(query, key, value, cu_seqlens_q=offsets, cu_seqlens_k=cu_k, mask=Causal())
        np.testing.assert_array_equal(np.asarray(again), np.asarray(plain))


# Aux and merge.


@every_framework
def test_rows_are_the_weights_of_chosen_queries(framework):
    bring = BRING[framework]
    arrays = draw(5, 7)
    options = {"mask": Causal(), "softcap": 2.0, "sinks": bring(np.ones(4))}
    offsets = {"cu_seqlens_q": np.array([0, 3, 5]), "cu_seqlens_k": np.array([0, 5, 7])}
    rows = [4, 0, 0, 3]
    _, aux = attention(*map(bring, arrays), **options, **offsets, dropout_p=0.5, seed=1, return_aux=Aux(rows=rows))
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


# Memory and imports.


@pytest.fixture(autouse=True)
def fresh_plans():
    """A plan that is remembered holds its tiles too, which some tests cut otherwise."""
    remembered_plan.cache_clear()
    yield
    remembered_plan.cache_clear()


def _resident(field):
    text = Path("/proc/self/status").read_text(encoding="utf8")
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(100), Causal() | Global([0, 5])], ids=["causal", "window", "global"])
def test_memory_of_torch_grows_with_the_length_and_not_its_square(mask, monkeypatch):
    """One head's scores alone would take 256 MiB, their gradients as much again; the budget of a tile bounds them."""
    monkeypatch.setattr(tiling, "SCORES_PER_GROUP", 1 << 19)
    query, key, value = (torch.randn(8192, 1, 8, requires_grad=True) for _ in range(3))
    attention(query[:600], key[:600], value[:600], mask=mask).sum().backward()  # what is loaded once
    Path("/proc/self/clear_refs").write_text("5", encoding="utf8")
    before = _resident("VmRSS")
    attention(query, key, value, mask=mask).sum().backward()
    assert _resident("VmHWM") - before < 64


def test_memory_of_numpy_grows_with_the_length_and_not_its_square():
    arrays = [RNG.normal(size=(8192, 1, 4)).astype(np.float32) for _ in range(3)]
    tracemalloc.start()
    try:
        attention(*arrays, mask=Causal())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_numpy_attention_imports_no_framework():
    code = (
        "import sys, numpy as np, regard\n"
        "x = np.ones((2, 3, 1, 4))\n"
        "assert type(regard.attention(x, x, x, mask=regard.Causal())) is np.ndarray\n"
        "assert not {'torch', 'tensorflow', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# Errors.

Q, K, V = np.ones((5, 2, 3)), np.ones((6, 2, 3)), np.ones((6, 2, 4))
CU = np.array([0, 5])
WRONG = {
    "integers": (dict(query=np.ones((5, 2, 3), int)), RegardError, "query must hold floating-point numbers. Received int64; convert"),
    "booleans": (dict(value=np.ones((6, 2, 4), bool)), RegardError, "value must hold floating-point numbers"),
    "dtypes": (dict(query=Q.astype("f4")), RegardError, "must share one dtype. Received float32, float64 and float64"),
    "frameworks": (dict(query=torch.tensor(Q)), RegardError, "different frameworks; expected one, received numpy and torch"),
    "no array": (dict(query=[[1.0]]), RegardError, "cannot attend over list; expected NumPy arrays, PyTorch tensors"),
    "dimensions": (dict(query=np.ones((5, 3))), ShapeError, r"query must have shape \(..., length, heads, size\).*Received shape \(5, 3\)"),
    "head size": (dict(query=np.ones((5, 2, 4))), ShapeError, r"agree in head size. Received 4 \(query \(5, 2, 4\)\) and 3"),
    "key and value": (dict(value=np.ones((5, 2, 4))), ShapeError, r"key and value must agree .* Received \(6, 2, 3\) and \(5, 2, 4\)"),
    "heads": (dict(query=np.ones((5, 3, 3))), ShapeError, "multiple of the key heads. Received 3 query heads and 2 key heads"),
    "leading": (dict(query=np.ones((2, 5, 2, 3)), key=np.ones((3, 6, 2, 3)), value=np.ones((3, 6, 2, 4))), ShapeError, "must broadcast"),
    "sinks": (dict(sinks=np.ones(3)), ShapeError, r"sinks must have shape \(H,\) = \(2,\). Received \(3,\)"),
    "no seed": (dict(dropout_p=0.1), RegardError, "dropout needs a seed. Received dropout_p=0.1"),
    "share": (dict(dropout_p=1.0, seed=0), RegardError, "dropout_p must be at least 0 and below 1. Received 1.0"),
    "negative share": (dict(dropout_p=-0.1, seed=0), RegardError, "dropout_p must be at least 0 and below 1"),
    "softcap": (dict(softcap=0.0), RegardError, "softcap must be positive, or None for no cap. Received 0.0"),
    "float mask": (dict(mask=np.ones((5, 6))), RegardError, "mask must be a Mask or a boolean array.*as bias"),
    "sequences of a mask": (dict(mask=np.ones((2, 1, 5, 6), bool)), ShapeError, r"broadcast to \(\) sequences"),
    "sequences of a bias": (dict(bias=DenseBias(np.ones((2, 1, 5, 6)))), ShapeError, "DenseBias needs 1 or 1 sequences, got 2"),
    "heads of a bias": (dict(bias=np.ones((3, 5, 6))), ShapeError, "DenseBias needs 1 or 2 heads, got 3"),
    "heads of a mask": (dict(mask=Dense(np.ones((3, 5, 6), bool))), ShapeError, "Dense needs 1 or 2 heads, got 3"),
    "keys' offsets alone": (dict(cu_seqlens_k=np.array([0, 6])), RegardError, "cu_seqlens_k was given without cu_seqlens_q"),
    "key_sequence alone": (dict(key_sequence=[0]), RegardError, "key_sequence was given without cu_seqlens_q"),
    "total": (dict(cu_seqlens_q=CU), ShapeError, r"cu_seqlens_q \(cu_seqlens_k was not given\) must start at 0 and end .* 6. Received"),
    "first": (dict(cu_seqlens_q=[1, 5], cu_seqlens_k=[0, 6]), ShapeError, "cu_seqlens_q must start at 0 .* first entry of 1"),
    "falling": (dict(cu_seqlens_q=[0, 4, 3, 5], cu_seqlens_k=[0, 1, 2, 6]), ShapeError, "must never fall. Received 4 before 3"),
    "offsets' kind": (dict(cu_seqlens_q=[0.0, 5.0]), RegardError, "cu_seqlens_q must hold integers"),
    "offsets' shape": (dict(cu_seqlens_q=[[0, 5]], cu_seqlens_k=[0, 6]), ShapeError, "cu_seqlens_q must be one-dimensional"),
    "counts": (dict(cu_seqlens_q=[0, 2, 5], cu_seqlens_k=[0, 6]), ShapeError, "equally many sequences. Received 2 and 1; say with key_seq"),
    "reads": (dict(cu_seqlens_q=CU, cu_seqlens_k=[0, 6], key_sequence=[1]), ShapeError, r"one of the 1 key sequences .* Received \[1\]"),
    "starts": (dict(query_start=[0, 1]), ShapeError, r"query_start must be one integer or one for each of the 1 sequences"),
    "fractional start": (dict(query_start=0.5), RegardError, "query_start must hold integers"),
    "lengths": (dict(mask=Lengths(k=[7])), ShapeError, r"Lengths\(k=...\) must lie between 0 and the array's length. Received \[7\]"),
    "documents": (dict(mask=Documents(np.zeros(4, int))), ShapeError, r"Documents\(queries=\) must hold one id per token, 5 in all, got 4"),
    "packed array mask": (dict(mask=np.ones((5, 6), bool), cu_seqlens_q=CU, cu_seqlens_k=[0, 6]), RegardError, "packed arrays take a Mask"),
    "packed array bias": (dict(bias=np.ones((5, 6)), cu_seqlens_q=CU, cu_seqlens_k=[0, 6]), RegardError, "packed arrays take a Bias"),
    "packed and padded": (dict(query=np.ones((1, 5, 2, 3)), cu_seqlens_q=CU, cu_seqlens_k=[0, 6]), ShapeError, "query must be packed"),
    "backend": (dict(backend="tiled"), BackendError, "no backend among 'tiled' computes numpy arrays; expected one of 'reference'"),
    "backends": (dict(backend=["tiled", "cuda"]), BackendError, "no backend among 'tiled', 'cuda'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong_and_how_to_mend_it(name):
    arguments, kind, message = WRONG[name]
    arguments = {"query": Q, "key": K, "value": V} | arguments
    with pytest.raises(kind, match=message):
        attention(**arguments)


@pytest.mark.parametrize("name", ["head size", "no seed", "float mask", "total", "heads", "sinks", "lengths"])
def test_torch_raises_the_same(name):
    arguments, kind, message = WRONG[name]
    arguments = {"query": Q, "key": K, "value": V} | arguments
    arrays = ("query", "key", "value", "mask", "bias", "sinks")
    arguments = {n: torch.tensor(a) if n in arrays and isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    with pytest.raises(kind, match=message):
        attention(**arguments)


def test_offsets_of_values_must_be_those_of_keys():
    query, key, value = draw(5, 5)
    cu = np.array([0, 2, 5])
    with pytest.raises(ShapeError):
        attention(Packed(query, cu), Packed(key, cu), Packed(value, np.array([0, 3, 5])))


def test_a_backend_may_be_named_and_is_never_replaced():
    query, key, value = draw(3, 3)
    plain = attention(query, key, value)
    for backend in ("reference", ["tiled", "reference"]):
        np.testing.assert_array_equal(attention(query, key, value, backend=backend), plain)
    tensors = [torch.tensor(array) for array in (query, key, value)]
    torch.testing.assert_close(attention(*tensors, backend="tiled").numpy(), plain)
    with pytest.raises(BackendError, match="no backend among 'reference' computes torch arrays; expected one of 'tiled'"):
        attention(*tensors, backend="reference")
