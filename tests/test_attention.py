"""The operator's contract, line by line, on NumPy and PyTorch. The oracle is the reference in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import cases
from cases import BRING, RNG, draw, run
from regard import (
    Aux,
    Causal,
    Documents,
    Lengths,
    Prefix,
    Window,
    attention,
)
from regard._errors import ShapeError

pytestmark = pytest.mark.usefixtures("way")
every_framework = pytest.mark.parametrize("framework", list(BRING))


def assert_same(received, expected, tolerance=1e-12):
    for name, array in expected.items():
        if name in received and array is not None:
            np.testing.assert_allclose(
                np.asarray(received[name]), array, atol=tolerance, rtol=tolerance, err_msg=name
            )


# Packed = padded with Lengths = one sequence at a time.


@given(cases.cases())
def test_numpy_padded_and_single_equal_packed(case):
    expected = cases.expected(case)
    forms = [cases.numpy_padded(case)]
    if not case.options["dropout_p"]:
        forms.append(cases.numpy_singly(case))
    for found in forms:
        assert_same(found, {name: expected[name] for name in ("out", "lse")})


@settings(max_examples=40)
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
    parts = (
        Causal(),
        Window(2),
        Prefix(3),
        Lengths(k=[3, 3]),
        Documents(np.array([0, 0, 1, 0, 1, 1]), np.array([0, 1] * 3 + [0])),
    )
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
    np.testing.assert_allclose(
        out,
        run("reference", query, key, value, mask=allowed),
        atol=1e-13,
    )


@every_framework
def test_broadcast_of_leading_dimensions(framework):
    query, _, _ = draw(3, 0, leading=(2, 1))
    _, key, value = draw(0, 4, leading=(5,))
    out = run(framework, query, key, value, mask=Causal())
    assert out.shape == (2, 5, 3, 4, 5)
    for a, b in np.ndindex(2, 5):
        np.testing.assert_allclose(
            out[a, b], run("reference", query[a, 0], key[b], value[b], mask=Causal()), atol=1e-13
        )


@every_framework
@pytest.mark.parametrize(
    "shape", [(3, 4), (4, 1, 4), (1, 1, 1), (2, 1, 3, 4), (5, 4, 3, 1), (2, 5, 1, 3, 4), (4,)]
)
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
        expected = run("reference", query[a, b], key[a, b], value[a, b], bias=everywhere[a, b])
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
    arrays = [case.arrays[name] for name in ("query", "key", "value")]
    _, aux = attention(*arrays, **options, return_aux=Aux(lse=True, rows=np.arange(case.cu_q[-1])))
    seen = np.zeros(case.cu_k[-1], bool)
    for n, read in enumerate(case.reads):
        rows = aux.rows[case.cu_q[n] : case.cu_q[n + 1]].any((0, 1))
        # Rows are as wide as the longest key sequence that a mask of lengths leaves.
        begin, some = case.cu_k[read], rows[: case.k_lengths[read]]
        seen[begin : begin + len(some)] |= some
    return seen, (aux.lse > -np.inf).any(1)


@given(cases.cases(dropout=False))
def test_what_is_masked_has_no_influence(case):
    """The keys that nobody sees and the queries that see nobody are poisoned; nothing changes, to the last bit."""
    seen, seeing = seen_by_somebody(case)
    clean = cases.expected(case)
    for poison in (math.nan, math.inf, -math.inf):
        dirty = dict(case.arrays)
        for name, sound in (
            ("query", seeing),
            ("grad_out", seeing),
            ("grad_lse", seeing),
            ("key", seen),
            ("value", seen),
        ):
            shape = (-1, *(1,) * (dirty[name].ndim - 1))
            dirty[name] = np.where(sound.reshape(shape), dirty[name], poison)
        poisoned = replace(case, arrays=dirty)
        assert_same(cases.expected(poisoned), clean, 0)
        assert_same(cases.Tensors(poisoned).packed(), clean)


@pytest.mark.parametrize("part", ["query", "key", "value", "grad_out"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_foreign_sequences_have_no_influence_in_torch(part, poison):
    arrays = dict(zip(("query", "key", "value"), draw(9, 9), strict=True)) | {
        "grad_out": RNG.normal(size=(9, 4, 5))
    }
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
    np.testing.assert_allclose(out[:, :, 2:], run("reference", query, key, value)[:, :, 2:], atol=1e-13)


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
    np.testing.assert_allclose(packed[:1], run("reference", query[:1], key[:2], value[:2]), atol=1e-14)
    np.testing.assert_allclose(packed[1], np.repeat(value[3], 2, 0), atol=1e-14)


@every_framework
def test_several_queries_share_one_key_sequence(framework):
    query, key, value = draw(6, 5)
    offsets = {"cu_seqlens_q": np.array([0, 1, 3, 6]), "cu_seqlens_k": np.array([0, 3, 5])}
    for mask in (None, Causal()):
        out = run(framework, query, key, value, mask=mask, key_sequence=[1, 0, 1], **offsets)
        for n, span in enumerate([slice(3, 5), slice(0, 3), slice(3, 5)]):
            rows = slice(*offsets["cu_seqlens_q"][n : n + 2])
            np.testing.assert_allclose(
                out[rows], run("reference", query[rows], key[span], value[span], mask=mask), atol=1e-13
            )


@pytest.mark.parametrize("mask", [None, Causal() & Window(3)])
def test_dropout_is_one_function_everywhere(mask):
    query, key, value = draw(9, 11)
    options = {"mask": mask, "dropout_p": 0.5, "seed": 2**40 + 3}
    packed = {"cu_seqlens_q": np.array([0, 4, 9]), "cu_seqlens_k": np.array([0, 5, 11])}
    expected = run("reference", query, key, value, **options, **packed)
    np.testing.assert_allclose(run("torch", query, key, value, **options, **packed), expected, atol=1e-13)
    here = run("numpy", query, key, value, **options, **packed)
    np.testing.assert_allclose(here, expected, atol=1e-13)
    np.testing.assert_array_equal(run("numpy", query, key, value, **options, **packed), here)
    other = run("numpy", query, key, value, **(options | {"seed": 1}), **packed)
    assert not np.allclose(other, expected)
    for seed in (np.array(2**40 + 3), torch.tensor(2**40 + 3)):
        np.testing.assert_array_equal(
            run("numpy", query, key, value, **(options | {"seed": seed}), **packed), here
        )


def test_dropout_keeps_the_mean():
    query, key, value = np.zeros((200, 4, 2)), np.zeros((200, 4, 2)), np.ones((200, 4, 1))
    out = run("torch", query, key, value, dropout_p=0.25, seed=0)
    assert abs(out.mean() - 1) < 5 * (0.25 / 0.75 / 160_000) ** 0.5
    assert out.std() > 0.01
