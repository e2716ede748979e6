"""Precision, strides and forms: what goes in and comes out, beside the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cases import BRING, RNG, draw, dtype_of, run
from regard import Aux, Causal, Packed, attention

pytestmark = pytest.mark.usefixtures("way")
every_framework = pytest.mark.parametrize("framework", list(BRING))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_output_keeps_the_dtype_with_at_most_twice_the_error_of_the_formula(dtype):
    exact = [torch.tensor(array) for array in draw(60, 70, size=16, out_size=16)]
    query, key, value = (tensor.to(dtype) for tensor in exact)
    exact = [tensor.double() for tensor in (query, key, value)]
    up = torch.tensor(RNG.normal(size=(60, 4, 16)))

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
    for name, true, theirs, received in zip(
        ("out", "query", "key", "value"), truth, plain, ours, strict=True
    ):
        error, plain_error = (float((tensor - true).square().mean().sqrt()) for tensor in (received, theirs))
        assert error <= 2 * plain_error, name


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numpy_keeps_the_dtype(dtype):
    exact = draw(20, 20)
    low = [array.astype(dtype) for array in exact]
    out = attention(*low, mask=Causal())
    assert out.dtype == dtype
    truth = attention(*(array.astype(np.float64) for array in low), mask=Causal())
    assert abs(out - truth).max() <= 8 * np.finfo(dtype).eps * abs(truth).max()


@pytest.mark.parametrize(
    ("dtype", "wide"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_the_lse_is_wide(dtype, wide):
    arrays = [array.astype(dtype) for array in draw(2, 3)]
    for bring in BRING.values():
        _, aux = attention(*map(bring, arrays), return_aux=Aux(lse=True))
        assert dtype_of(aux.lse) == wide
        assert aux.lse.shape == (2, 4)


@pytest.mark.parametrize(
    "framework", [name for name in BRING if name != "tensorflow"]
)  # which has no strides
def test_strides_do_not_matter_and_arrays_are_left_alone(framework, poisoned_memory):
    plain = draw(6, 7, out_size=4, leading=(2,))
    bring = BRING[framework]
    strided = []
    for array in plain:
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan)
        wide[..., ::2] = array
        turned = np.ascontiguousarray(wide.transpose(3, 1, 0, 2))
        strided.append(
            bring(turned).permute(2, 1, 3, 0)[..., ::2]
            if framework == "torch"
            else bring(turned).transpose(2, 1, 3, 0)[..., ::2]
        )
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
