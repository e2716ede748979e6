"""`scaled_dot_product_attention` against PyTorch's own, on PyTorch's samples and where the two differ on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from regard import RegardError, ShapeError
from regard.compat.torch import scaled_dot_product_attention

# PyTorch compiles its own forward-mode decompositions the first time.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR).to(dtype)


def samples():
    from torch.testing._internal.common_methods_invocations import op_db

    (entry,) = (one for one in op_db if one.name == "nn.functional.scaled_dot_product_attention")
    return list(entry.sample_inputs("cpu", torch.float64, requires_grad=True))


SAMPLES = range(25)


@pytest.fixture(scope="module")
def opinfo():
    found = samples()
    assert len(found) == len(SAMPLES)
    return found


def prepared(sample, function):
    """The sample as a function of what it differentiates; dropout draws the same seed at each call."""
    options = dict(sample.kwargs)
    arrays = [sample.input, *sample.args]
    if options.get("attn_mask") is not None:
        arrays.append(options.pop("attn_mask"))

    def call(*given):
        torch.manual_seed(0)
        return function(*given[:3], attn_mask=given[3] if len(given) > 3 else None, **options)

    return call, arrays


@pytest.mark.parametrize("number", SAMPLES)
def test_pytorchs_samples(opinfo, number):
    """Its values without dropout; derivatives of both orders and in forward mode, which it skips itself, with and without."""
    call, arrays = prepared(opinfo[number], scaled_dot_product_attention)
    if not opinfo[number].kwargs["dropout_p"]:
        theirs, _ = prepared(opinfo[number], F.scaled_dot_product_attention)
        torch.testing.assert_close(call(*arrays), theirs(*arrays))
    assert gradcheck(call, arrays, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(call, arrays, fast_mode=True)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 3), heads=st.sampled_from([1, 2, 4]), groups=st.sampled_from([1, 2]),
    queries=st.integers(0, 6), keys=st.integers(0, 6), sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    is_causal=st.booleans(), mask=st.sampled_from([None, "TS", "1S", "HTS", "B11S", "BHTS"]),
    is_bool=st.booleans(), heads_last=st.booleans(), scale=st.sampled_from([None, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_mask_and_layout(
    batch, heads, groups, queries, keys, sizes, is_causal, mask, is_bool, heads_last, scale, seed
):
    """Against the formula, evaluated by PyTorch; what sees nothing gives 0."""
    rng = np.random.default_rng(seed)

    def draw(heads, length, size):
        shape = (batch, length, heads, size) if heads_last else (batch, heads, length, size)
        array = torch.from_numpy(rng.normal(size=shape))
        return (array.transpose(1, 2) if heads_last else array).requires_grad_()

    arrays = draw(heads * groups, queries, sizes[0]), draw(heads, keys, sizes[0]), draw(heads, keys, sizes[1])
    allowed, bias = torch.ones(queries, keys, dtype=torch.bool), torch.zeros(())
    attn_mask = None
    if mask is not None:
        letters = {"B": batch, "H": heads * groups, "T": queries, "S": keys, "1": 1}
        shape = [letters[letter] for letter in mask]
        attn_mask = torch.from_numpy(rng.normal(size=shape))
        if is_bool:
            allowed = attn_mask = attn_mask > 0
        else:
            bias = attn_mask
    if is_causal:
        allowed = allowed & torch.ones(queries, keys, dtype=torch.bool).tril()
    key, value = (array.repeat_interleave(groups, 1) for array in arrays[1:])
    scores = arrays[0] @ key.mT * (sizes[0] ** -0.5 if scale is None else scale) + bias
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num()
    expected = weights @ value
    found = scaled_dot_product_attention(
        *arrays, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=groups > 1
    )
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), arrays),
        torch.autograd.grad(
            (scores.masked_fill(~allowed, -1e9).softmax(-1) * allowed.any(-1, keepdim=True) @ value)
            .square()
            .sum(),
            arrays,
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "gqa"),
    [
        (((3, 4), (5, 4), (5, 2)), False),
        (((2, 3, 4), (5, 4), (5, 4)), False),
        (((2, 2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 2, 5, 4)), False),
        (((2, 4, 3, 4), (2, 1, 5, 4), (2, 1, 5, 4)), False),
        (((2, 1, 3, 4), (2, 4, 5, 4), (2, 4, 5, 4)), False),
        (((1, 4, 3, 4), (2, 4, 5, 4), (2, 1, 5, 4)), False),
        (((2, 6, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4)), True),
    ],
)
def test_dimensions_broadcast_as_in_pytorch(shapes, gqa):
    arrays = [random(*shape) for shape in shapes]
    found = scaled_dot_product_attention(*arrays, enable_gqa=gqa)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(*arrays, enable_gqa=gqa))


def test_a_mask_of_five_dimensions_meets_causality():
    query, key, allowed = random(2, 3, 2, 4, 8), random(2, 3, 2, 5, 8), random(2, 1, 1, 4, 5) > -1
    triangle = torch.ones(4, 5, dtype=torch.bool).tril()
    found = scaled_dot_product_attention(query, key, key, allowed, is_causal=True)
    expected = F.scaled_dot_product_attention(query, key, key, allowed & triangle)
    torch.testing.assert_close(found, expected.nan_to_num())


def test_dropout_follows_pytorchs_generator():
    arrays = [random(2, 2, 50, 4) for _ in range(3)]
    torch.manual_seed(3)
    first = scaled_dot_product_attention(*arrays, dropout_p=0.5)
    assert not torch.equal(scaled_dot_product_attention(*arrays, dropout_p=0.5), first)
    torch.manual_seed(3)
    assert torch.equal(scaled_dot_product_attention(*arrays, dropout_p=0.5), first)
    ones = torch.ones(4, 4, 50, 1, dtype=torch.float64)
    kept = scaled_dot_product_attention(ones, ones, ones, dropout_p=0.25)
    assert abs(float(kept.mean()) - 1) < 0.02
    assert (scaled_dot_product_attention(*arrays, dropout_p=1.0) == 0).all()


def test_a_masked_key_may_hold_anything():
    query, key = random(1, 2, 3, 4), random(1, 2, 5, 4)
    allowed = torch.tensor([True, True, False, True, False])
    poisoned = key.masked_fill(~allowed[:, None], math.nan)
    found = scaled_dot_product_attention(query, poisoned, poisoned, allowed[None])
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, key, key, allowed[None]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_autocast_casts_as_pytorch_does(dtype):
    arrays = [random(2, 2, 9, 8, dtype=dtype).requires_grad_() for _ in range(3)]
    bias = random(9, 9).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = scaled_dot_product_attention(*arrays)
        expected = F.scaled_dot_product_attention(*arrays)
        biased = scaled_dot_product_attention(*arrays, attn_mask=bias)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    grads = torch.autograd.grad(biased.sum(), (*arrays, bias))
    assert [grad.dtype for grad in grads] == [dtype] * 3 + [torch.float32]


def test_modules_that_call_pytorchs_function(monkeypatch):
    layer = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    x, padding = random(3, 5, 16, dtype=torch.float32), torch.arange(5) > torch.tensor([[4], [1], [3]])
    expected = layer(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    monkeypatch.setattr(F, "scaled_dot_product_attention", scaled_dot_product_attention)
    torch.testing.assert_close(layer(x, x, x, key_padding_mask=padding, need_weights=False)[0], expected)


def test_compiled_in_one_graph_and_twice_at_most():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")

    def function(query, key, bias):
        return scaled_dot_product_attention(query, key, key, bias, is_causal=True)

    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for batch, queries, keys in zip(range(2, 9), range(4, 25, 3), range(6, 20, 2), strict=True):
        arrays = (
            random(batch, 2, queries, 8).requires_grad_(),
            random(batch, 2, keys, 8),
            random(queries, keys),
        )
        found, expected = compiled(*arrays), function(*arrays)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert counter.frame_count <= 2


def test_compiled_with_dropout_and_under_vmap_and_autocast():
    torch._dynamo.reset()
    arrays = [random(2, 2, 5, 8, dtype=torch.float32) for _ in range(3)]

    def function(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return scaled_dot_product_attention(*given, dropout_p=0.5)

    torch.manual_seed(1)
    expected = function(*arrays)
    torch.manual_seed(1)
    found = torch.compile(function, fullgraph=True, backend="eager")(*arrays)
    torch.testing.assert_close(found, expected)
    mapped = torch.func.vmap(scaled_dot_product_attention)(*arrays)
    torch.testing.assert_close(mapped, scaled_dot_product_attention(*arrays))


def test_what_does_not_fit_is_refused():
    query, key = random(2, 4, 3, 8), random(2, 2, 5, 8)
    with pytest.raises(ShapeError, match=r"equally many heads unless enable_gqa=True. Received 4 and 2"):
        scaled_dot_product_attention(query, key, key)
    with pytest.raises(ShapeError, match=r"\(..., heads, length, size\)"):
        scaled_dot_product_attention(query, key[0, 0, 0], key)
    with pytest.raises(RegardError, match="share one dtype"):
        scaled_dot_product_attention(query, key.float(), key, enable_gqa=True)
