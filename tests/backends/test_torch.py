"""What PyTorch's backends must do beyond the contract's numbers: derivatives of every order and mode, the host's own modes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import cases
import ways
from regard import (
    Alibi,
    Aux,
    Causal,
    Dense,
    DenseBias,
    Global,
    Lengths,
    Prefix,
    RelativeBias,
    Window,
    attention,
)
from regard._plan import remembered_plan
from regard.backends import reference

# PyTorch compiles its own forward-mode decompositions the first time.
pytestmark = [
    pytest.mark.usefixtures("way"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
]

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


# Derivatives.

OFFSETS = {"cu_seqlens_q": np.array([0, 3, 3, 5]), "cu_seqlens_k": np.array([0, 4, 5, 7])}
DERIVATIVES = {
    "plain": {},
    "causal": {"mask": Causal()},
    "rows that see nothing": {"mask": Causal(), "query_start": -2},
    "global window": {"mask": Window(1) | Global([0])},
    "lengths": {"mask": Lengths(q=[2, 0, 2], k=[3, 1, 0])},
    "softcap": {"softcap": 0.7, "scale": 0.9},
    "sinks": {"sinks": random(2), "mask": Causal(), "query_start": -1},
    "bias (T, S)": {"bias": random(3, 4)},
    "bias (H, 1, S)": {"bias": random(2, 1, 4), "softcap": 1.5},
    "bias (N, 1, T, 1)": {"bias": random(3, 1, 3, 1)},
    "bias smaller than the call": {"bias": random(2, 3)},
    "alibi": {"slopes": random(2), "mask": Causal(), "query_start": -1},
    "relative": {"table": random(4, 2), "softcap": 1.1, "query_start": [3, 0, -2]},
    "relative, one way": {"table": random(3, 2), "sinks": random(2), "dropout_p": 0.3, "seed": 5},
    "dropout": {"dropout_p": 0.4, "seed": 3},
    "shared keys": {"key_sequence": [2, 0, 0]},
    "everything": {
        "mask": Causal() | Prefix(1), "softcap": 1.3, "sinks": random(2), "bias": random(3, 2, 3, 4), "dropout_p": 0.3,
        "seed": 1, "scale": 0.8, "key_sequence": [1, 1, 2],
    },
}  # fmt: skip


MADE = {
    "bias": DenseBias,
    "slopes": Alibi,
    "table": lambda table: RelativeBias(table, bidirectional=len(table) % 2 == 0, max_distance=4),
}


def function_of(options):
    """The call as a function of its differentiable arrays, and those."""
    options = dict(options)
    arrays = {"query": random(5, 2, 2), "key": random(7, 1, 2), "value": random(7, 1, 3)}
    arrays |= {name: options.pop(name) for name in (*MADE, "sinks") if name in options}

    def function(*given):
        found = dict(zip(arrays, given, strict=True))
        for name, make in MADE.items():
            if name in found:
                found["bias"] = make(found.pop(name))
        out, aux = attention(**found, **options, **OFFSETS, return_aux=Aux(lse=True))
        return out, aux.lse.masked_fill(aux.lse == -math.inf, 0)

    return function, tuple(array.detach().clone().requires_grad_() for array in arrays.values())


@pytest.mark.parametrize("name", DERIVATIVES)
def test_first_derivatives_backward_and_forward(name):
    function, arrays = function_of(DERIVATIVES[name])
    assert gradcheck(function, arrays, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("name", ["bias (T, S)", "alibi", "relative", "sinks"])
def test_first_derivatives_entry_by_entry(name):
    function, arrays = function_of(DERIVATIVES[name])
    assert gradcheck(function, arrays, check_forward_ad=True)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_second_derivatives(name):
    function, arrays = function_of(DERIVATIVES[name])
    assert gradgradcheck(function, arrays, fast_mode=True)


@pytest.mark.parametrize("name", ["everything", "relative"])
def test_derivatives_over_many_tiles(name):
    function, arrays = function_of(DERIVATIVES[name])
    with ways.small_tiles(2, 4, 8):
        assert gradcheck(function, arrays, check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(function, arrays, fast_mode=True)


def test_gradients_of_a_part_of_the_arrays():
    """Only what needs a gradient gets one, and the lse alone may be differentiated."""
    query, key, value = random(3, 1, 2), random(4, 1, 2), random(4, 1, 2)
    for wanted in (query, key, value):
        wanted.requires_grad_()
        out = attention(query, key, value)
        assert torch.autograd.grad(out.sum(), wanted)[0].shape == wanted.shape
        if wanted is not value:
            numbers = torch.autograd.grad(
                attention(query, key, value, return_aux=Aux(lse=True))[1].lse.sum(), wanted
            )[0]
            scores = torch.einsum("thd,shd->hts", query, key) * 2**-0.5
            expected = torch.autograd.grad(torch.logsumexp(scores, -1).sum(), wanted)[0]
            torch.testing.assert_close(numbers, expected)
        wanted.requires_grad_(requires_grad=False)
        assert not attention(query, key, value).requires_grad


def test_forward_mode_of_one_array():
    query, key, value = random(3, 1, 2), random(4, 1, 2), random(4, 1, 2)
    with forward_ad.dual_level():
        out = attention(query, key, forward_ad.make_dual(value, torch.ones_like(value)))
        torch.testing.assert_close(
            forward_ad.unpack_dual(out).tangent, torch.ones(3, 1, 2, dtype=torch.float64)
        )


@pytest.mark.parametrize(
    "shape", [(3, 4), (2, 3, 4), (1, 3, 4), (3, 1, 1, 4), (3, 2, 1, 1), (1, 1, 1, 1), (2, 5), (4,)]
)
@pytest.mark.parametrize("small", [False, True])
def test_the_gradient_of_a_bias_is_summed_over_what_it_broadcasts(shape, small):
    query, key, value = (random(total, heads, 2) for total, heads in ((5, 2), (7, 1), (7, 1)))
    bias, up = random(*shape), random(5, 2, 2)
    if small:
        remembered_plan.cache_clear()
    call = cases.call_of(query.numpy(), key.numpy(), value.numpy(), bias=DenseBias(bias.numpy()), **OFFSETS)
    arrays = call.plan, call.query, call.key, call.value, call.bias_array, None, None
    expected = reference.backward(*arrays, *reference.forward(*arrays), up.numpy())[3]
    leaf = bias.requires_grad_()
    with ways.small_tiles(2, 4, 8) if small else ways.small_tiles(256, 512, 1 << 20):
        attention(query, key, value, bias=DenseBias(leaf), **OFFSETS).backward(up)
    assert leaf.grad.shape == shape
    np.testing.assert_allclose(leaf.grad.numpy(), expected.reshape(shape), atol=1e-13)


def test_a_bias_that_wants_no_gradient_gets_none():
    """The sum of its gradient, which costs as much as the rest, is left out, and the others are the same."""
    query, key, value = (random(9, 2, 2).requires_grad_() for _ in range(3))
    found = []
    for wanted in (False, True):
        slopes = torch.ones(2, dtype=torch.float64, requires_grad=wanted)
        out = attention(query, key, value, bias=Alibi(slopes))
        found.append(torch.autograd.grad(out.square().sum(), (query, key, value, *([slopes] * wanted))))
    for without, with_bias in zip(*(grads[:3] for grads in found), strict=True):
        torch.testing.assert_close(without, with_bias, rtol=0, atol=0)


def test_padded_bias_arrays_get_gradients():
    query, key, value = random(2, 3, 2, 2), random(2, 4, 2, 2), random(2, 4, 2, 2)
    for shape in ((3, 4), (2, 3, 4), (2, 1, 3, 4), (1, 2, 1, 4)):
        assert gradcheck(
            lambda bias: attention(query, key, value, bias=bias), random(*shape).requires_grad_()
        )


# Precision, poison, modes of the host.


def test_autocast_does_not_touch_the_sums():
    query, key, value = (random(40, 2, 8).float().requires_grad_() for _ in range(3))
    plain = attention(query, key, value)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(query, key, value)
        grads = torch.autograd.grad(out.sum(), (query, key, value))
    torch.testing.assert_close(out, plain, rtol=0, atol=0)
    for grad, expected in zip(grads, torch.autograd.grad(plain.sum(), (query, key, value)), strict=True):
        torch.testing.assert_close(grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_survives_large_numbers(dtype):
    """Sums of float16 overflow where the numbers themselves do not."""
    value = torch.full((400, 1, 2), 1000.0, dtype=dtype)
    query = random(400, 1, 2).to(dtype)
    out = attention(query, query, value, mask=Causal())
    torch.testing.assert_close(out, value, rtol=0, atol=0)


@pytest.mark.parametrize("least", [torch.finfo(torch.float32).min, -1e9])
@pytest.mark.parametrize("chunk", [4, 512])
def test_additive_masks_that_are_merely_large(least, chunk):
    """Where every key has the same tiny score the softmax is uniform, as in the formula."""
    query, key, value = (random(2, 1, 2).float(), random(9, 1, 2).float(), random(9, 1, 2).float())
    bias = torch.full((2, 9), float(least))
    bias[0, :4] = -math.inf
    with ways.small_tiles(4, chunk, 1 << 20):
        out, aux = attention(query, key, value, bias=bias, return_aux=Aux(lse=True))
    arrays = (array.numpy() for array in (query, key, value))
    expected = attention(*arrays, bias=bias.numpy(), backend="reference")
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)
    assert aux.lse.isfinite().all()


def test_large_scores_do_not_overflow():
    query, key, value = (random(5, 2, 4).float() * scale for scale in (1e4, 1e4, 1))
    out, aux = attention(query, key, value, mask=Causal(), return_aux=Aux(lse=True))
    assert out.isfinite().all()
    assert aux.lse.isfinite().all()
    sinks = torch.full((2,), 1e30)
    assert (attention(query, key, value, sinks=sinks) == 0).all()


def test_dense_masks_and_documents_may_be_tensors():
    query, key, value = random(5, 2, 2), random(5, 2, 2), random(5, 2, 2)
    allowed = torch.rand(2, 5, 5, generator=GENERATOR) < 0.6
    arrays = (array.numpy() for array in (query, key, value))
    expected = attention(*arrays, mask=allowed.numpy(), backend="reference")
    for mask in (allowed, Dense(allowed), Dense(allowed.numpy())):
        np.testing.assert_allclose(attention(query, key, value, mask=mask).numpy(), expected, atol=1e-14)


def test_results_are_the_same_from_run_to_run():
    arrays = [random(600, 2, 4).float().requires_grad_() for _ in range(3)]

    def everything():
        out = attention(*arrays, mask=Causal(), dropout_p=0.1, seed=0)
        return out, *torch.autograd.grad(out.square().sum(), arrays)

    for first, second in zip(everything(), everything(), strict=True):
        assert torch.equal(first, second)


def test_a_remembered_plan_serves_every_call_alike():
    """The plan and its tiles are found again: first in inference, then with gradients of gradients, then on other numbers."""
    offsets = np.array([0, 3, 7])

    def call(query, key, value):
        return attention(query, key, value, mask=Causal(), cu_seqlens_q=offsets, dropout_p=0.5, seed=1)

    remembered_plan.cache_clear()
    arrays = [random(7, 2, 2) for _ in range(3)]
    with torch.inference_mode():
        expected = call(*arrays).clone()
    leaves = [array.requires_grad_() for array in arrays]
    torch.testing.assert_close(call(*leaves), expected)
    assert gradgradcheck(call, leaves)
    low = call(*(array.detach().float() for array in arrays))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), expected, atol=1e-5, rtol=0)
