"""Heads normalized and turned where they lie, on every instruction set, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Causal, Packed
from regard.nn import CrossAttention, Linear, Rotary, SelfAttention
from regard.nn._heads import project_heads
from twins import assert_close, differentiated, plain

pytestmark = pytest.mark.usefixtures("instruction_set")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Given(torch.nn.Module):
    def forward(self, x):
        return 1 * x


def groups(x, size, sizes, changed, eps, turns):
    return project_heads(Given(), x, size, sizes, changed, eps, turns)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [None, 1e-6])
@pytest.mark.parametrize("rotary", [False, True])
@given(
    rows=st.integers(0, 5),
    half=st.sampled_from([1, 3, 8, 16, 21, 32]),
    sizes=st.sampled_from([((4, 2, 2), 2), ((3,), 1), ((1, 1), 1), ((2, 1), 2)]),
)
def test_numbers_and_gradients_are_those_of_torch(dtype, eps, rotary, rows, half, sizes):
    sizes, changed = sizes
    x = random(2, rows, sum(sizes) * 2 * half, dtype=dtype)
    x = x + x.sign()  # what is near 0 has a large gradient, and so has the rounding of what it is made from
    turns = Rotary(2 * half)(torch.arange(rows) + 3, dtype) if rotary else None
    grads = [random(2, rows, size, 2 * half, dtype=dtype, seed=size) for size in sizes]

    def run(x, grads):
        return differentiated(lambda x: groups(x, 2 * half, sizes, changed, eps, turns), [x], grads)

    found = run(x, grads)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with plain():
        expected = run(x.to(wide), [grad.to(wide) for grad in grads])
    assert_close(found, [array.to(dtype) for array in expected])


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("rotary", [False, True])
def test_derivatives_of_both_orders(eps, rotary):
    x = random(3, 4 * 6, dtype=torch.float64).requires_grad_()
    turns = Rotary(6)(torch.arange(3), torch.float64) if rotary else None

    def function(x):
        return groups(x, 6, (2, 1, 1), 2, eps, turns)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_groups_that_nobody_uses_have_zero_gradients():
    x = random(3, 24).requires_grad_()
    query, _, _ = groups(x, 4, (2, 2, 2), 2, 1e-6, None)
    (found,) = torch.autograd.grad(query.sum(), x)
    assert (found[:, 8:] == 0).all()
    assert found[:, :8].any()


def test_the_groups_are_views_of_the_projection():
    layer = Linear(16, 48)
    query, key, value = project_heads(layer, random(5, 16), 8, (2, 2, 2), 2, 1e-6, None)
    assert (
        query.untyped_storage().data_ptr()
        == key.untyped_storage().data_ptr()
        == value.untyped_storage().data_ptr()
    )
    assert query.stride() == (48, 8, 1)


def test_what_a_hook_keeps_stays_as_it_was():
    layer, kept = SelfAttention(16, 2, qk_norm=True, rotary=True), []
    layer.query_key_value.register_forward_hook(lambda module, inputs, out: kept.append(out))
    x = random(5, 16)
    layer(x)
    torch.testing.assert_close(kept[0], layer.query_key_value(x))


def test_a_projection_that_gives_back_its_input_leaves_it_alone():
    x = random(4, 24)
    before = x.clone()
    project_heads(torch.nn.Identity(), x, 8, (1, 1, 1), 2, 1e-6, None)
    assert torch.equal(x, before)


def test_somebody_who_needs_the_projection_as_it_was_is_told():
    class Layer(Linear):
        pass

    class Kept(Linear):
        def forward(self, x):
            return super().forward(x).tanh()  # whose gradient needs what it gave

    for kind in (Layer, Kept):
        layer = SelfAttention(16, 2, qk_norm=True)
        layer.query_key_value = kind(16, 48, bias=False)
        x = random(5, 16).requires_grad_()
        found = torch.autograd.grad(layer(x).sum(), x)[0]
        with plain():
            torch.testing.assert_close(found, torch.autograd.grad(layer(x).sum(), x)[0])


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1}, {"combine": "concat"}])
@pytest.mark.parametrize("packed", [False, True])
def test_layers_are_the_same_without_the_kernel(options, packed):
    torch.manual_seed(0)
    layer = SelfAttention(24, 4, qk_norm=True, rotary=True, **options)
    x = random(6, 24) if packed else random(2, 3, 24)

    def run(x):
        if packed:
            return layer(Packed(x, [0, 2, 6]), mask=Causal()).values
        return layer(x, mask=Causal())

    found = differentiated(run, [x], [random(*x.shape, seed=1)])
    with plain():
        assert_close(found, differentiated(run, [x], [random(*x.shape, seed=1)]))


def test_cross_attention_is_the_same_without_the_kernel():
    torch.manual_seed(0)
    layer, leaves = CrossAttention(24, 4, kv_heads=2, qk_norm=True), [random(5, 24), random(7, 24, seed=1)]

    def run(x, context):
        return layer(Packed(x, [0, 2, 5]), Packed(context, [0, 3, 7])).values

    found = differentiated(run, leaves, [random(5, 24, seed=2)])
    with plain():
        assert_close(found, differentiated(run, leaves, [random(5, 24, seed=2)]))


def test_gradients_that_are_given_stay_as_they_were():
    x = random(3, 24).requires_grad_()
    given = random(3, 6, 4)
    before = given.clone()
    torch.autograd.grad(groups(x, 4, (2, 2, 2), 2, 1e-6, None), x, given.split(2, 1))
    assert torch.equal(given, before)
