"""What one query, key or sequence must not do to others, and calls at the edges of how the kernel cuts its work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cases import RNG
from regard import Alibi, Aux, Causal, DenseBias, Documents, Window, attention
from regard._lowering import kernel

pytestmark = pytest.mark.skipif(kernel() is None, reason="there is no kernel")


def draw(*shape):
    return RNG.normal(size=shape)


@pytest.mark.parametrize("name", ["query", "key"])
def test_a_nan_row_leaves_others_gradients_alone_within_its_block(name):
    arrays = {part: torch.as_tensor(draw(8, 1, 4)) for part in ("query", "key", "value")}
    arrays[name][1] = torch.nan
    leaves = [array.requires_grad_() for array in arrays.values()]
    out = attention(*leaves, mask=Documents([0, 0, 0, 1, 1, 1, 1, 1]), backend="native")
    grads = torch.autograd.grad(out[3:].sum(), leaves)
    assert all(grad[3:].isfinite().all() for grad in grads)


def test_a_nan_query_before_causal_others():
    query, key, value = (torch.as_tensor(draw(70, 2, 4)) for _ in range(3))
    query[5] = torch.nan
    leaves = [array.requires_grad_() for array in (query, key, value)]
    grads = torch.autograd.grad(attention(*leaves, mask=Causal(), backend="native").sum(), leaves)
    assert all(grad[6:].isfinite().all() for grad in grads)


def test_a_query_that_is_nan_gives_nan_over_keys_that_are_cut_into_parts():
    query, key, value = draw(1, 1, 4), draw(4096, 1, 4), draw(4096, 1, 4)
    query[...] = np.nan
    assert np.isnan(attention(query, key, value, backend="native")).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sink", [0.0, 100.0, 1000.0, np.inf])
def test_the_lse_has_its_gradient_whatever_the_sinks(dtype, sink):
    query, key, value = (torch.as_tensor(draw(5, 1, 4)).to(dtype) for _ in range(3))

    def gradient(**options):
        leaf = query.clone().requires_grad_()
        _, aux = attention(leaf, key, value, return_aux=Aux(lse=True), backend="native", **options)
        return torch.autograd.grad(aux.lse.sum(), leaf)[0]

    torch.testing.assert_close(gradient(sinks=torch.tensor([sink], dtype=dtype)), gradient())


def test_far_keys_under_alibi_with_sinks():
    query, key, value = draw(1200, 1, 4), draw(1200, 1, 4), draw(1200, 1, 4)
    options = {"bias": Alibi(np.ones(1)), "sinks": np.zeros(1), "query_start": 1200}
    options["return_aux"] = Aux(lse=True)
    found = attention(query, key, value, backend="native", **options)
    expected = attention(query, key, value, backend="reference", **options)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(found[1].lse, expected[1].lse, atol=1e-9)


@pytest.mark.parametrize(
    ("rows", "keys", "options"),
    [
        (1, 4096, {"mask": Window(4096, 0, dilation=2)}),
        (0, 4096, {}),
        (3, 4100, {"cu_seqlens_q": [0, 3, 3], "cu_seqlens_k": [0, 100, 4100]}),
        (3, 4100, {"cu_seqlens_q": [0, 0, 3], "cu_seqlens_k": [0, 4000, 4100]}),
    ],
)
def test_no_queries_and_many_keys(rows, keys, options):
    query, key, value = draw(rows, 2, 4), draw(keys, 2, 4), draw(keys, 2, 4)
    found, expected = (
        attention(query, key, value, backend=name, **options) for name in ("native", "reference")
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_one_bias_for_a_whole_sequence_under_dilation(monkeypatch):
    """The spans that dilation cuts a sequence into add to one number, in one order."""
    monkeypatch.setenv("REGARD_NUM_THREADS", "3")
    arrays = [torch.as_tensor(draw(4, 256, 1, 8)).requires_grad_() for _ in range(3)]
    bias, sinks = torch.zeros(4, 1, 1, 1, dtype=torch.float64, requires_grad=True), torch.zeros(1).double()
    found = set()
    for _ in range(10):
        out = attention(*arrays, bias=DenseBias(bias), sinks=sinks, mask=Window(999, 999, dilation=4))
        found.add(tuple(torch.autograd.grad(out.square().sum(), bias)[0].flatten().tolist()))
    assert len(found) == 1


def test_a_negation_that_is_not_yet_done_is_done():
    query, key, value = (torch.as_tensor(draw(4, 1, 3)) for _ in range(3))
    found = attention(torch._neg_view(query), key, value, backend="native")
    torch.testing.assert_close(found, attention(-query, key, value))


def test_what_the_kernel_does_not_take_goes_elsewhere():
    x = np.zeros((2, 1, 70_000), np.float32)
    np.testing.assert_array_equal(attention(x, x, x), x)
