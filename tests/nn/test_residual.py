"""The residual stream in the kernel, on every instruction set, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regard._lowering
from regard.nn import Dropout, EncoderBlock, RMSNorm, residual
from regard.nn._fused import NOTHING, Drop, is_fused
from regard.nn.norm import normalize
from regard.nn.residual import Stream, add_and_normalize, add_dropped
from twins import assert_close, differentiated, plain

pytestmark = pytest.mark.usefixtures("instruction_set")
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
DTYPES = [(F64, F64, F64), (F32, F32, F32), (F32, F32, BF16), (F32, BF16, F32), (F32, BF16, BF16)]
EPS = 1e-6


def random(*shape, dtype=F32, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def oracle(x, branch, drop, dtype):
    total = x + (branch.to(x.dtype) * drop.kept(branch) * drop.factor)
    inverse = torch.rsqrt(total.square().mean(-1, keepdim=True) + EPS)
    return total, (total * inverse).to(dtype)


@pytest.mark.parametrize(("x_dtype", "branch_dtype", "dtype"), DTYPES)
@pytest.mark.parametrize("shape", [(5, 128), (2, 3, 24), (4, 1), (3, 67), (0, 8), (1, 200)])
@pytest.mark.parametrize("threshold", [0, 26, 128])
def test_sum_and_norm_are_the_formula(x_dtype, branch_dtype, dtype, shape, threshold, poisoned_memory):
    leaves = random(*shape, dtype=x_dtype), random(*shape, dtype=branch_dtype, seed=1)
    grads = random(*shape, dtype=x_dtype, seed=2), random(*shape, dtype=dtype, seed=3)
    drop = Drop(threshold, 2**40 + 7)
    found = differentiated(lambda *given: add_and_normalize(*given, EPS, drop, dtype), leaves, grads)
    assert_close(found, differentiated(lambda *given: oracle(*given, drop, dtype), leaves, grads))


@given(rows=st.integers(0, 5), size=st.integers(1, 300), threshold=st.integers(0, 255))
def test_any_size(rows, size, threshold):
    leaves = random(rows, size), random(rows, size, seed=1)
    drop = Drop(threshold, rows + size, scale=1.5)
    grads = random(rows, size, seed=2), random(rows, size, seed=3)
    found = differentiated(lambda *given: add_and_normalize(*given, EPS, drop), leaves, grads)
    assert_close(found, differentiated(lambda *given: oracle(*given, drop, F32), leaves, grads))
    out = add_dropped(*leaves, drop)
    assert_close([out], [oracle(*leaves, drop, F32)[0]])


@pytest.mark.parametrize("without", [0, 1])
def test_one_of_the_two_results_may_go_unused(without):
    leaves, grad = (random(6, 40), random(6, 40, dtype=BF16, seed=1)), random(6, 40, seed=2)
    drop = Drop(64, 3)
    found = differentiated(lambda *given: add_and_normalize(*given, EPS, drop)[1 - without], leaves, [grad])
    assert_close(found, differentiated(lambda *given: oracle(*given, drop, F32)[1 - without], leaves, [grad]))


@pytest.mark.parametrize("threshold", [0, 77])
def test_derivatives_of_both_orders(threshold):
    x, branch = (random(2, 70, dtype=F64, seed=seed).requires_grad_() for seed in (0, 1))
    drop = Drop(threshold, 5)
    for function in (
        lambda *given: add_and_normalize(*given, EPS, drop),
        lambda *given: add_dropped(*given, drop),
    ):
        assert torch.autograd.gradcheck(function, (x, branch), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (x, branch), fast_mode=True)


def test_transforms_take_the_plain_way():
    x, branch = random(3, 8, dtype=F64), random(3, 8, dtype=F64, seed=1).requires_grad_()

    def function(x):
        return (add_and_normalize(x, branch.detach(), EPS, Drop())[1] * x).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(function)(x), expected)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_the_kernel_normalizes_alone(dtype):
    x, grad = random(7, 50), random(7, 50, dtype=dtype, seed=1)
    found = differentiated(lambda x: normalize(x, EPS, dtype), [x], [grad])
    with plain():
        assert_close(found, differentiated(lambda x: normalize(x, EPS, dtype), [x], [grad]))
    strided = torch.stack([x, x], -1)[..., 0]
    assert_close([normalize(strided, EPS, dtype)], found[:1])


def test_a_narrow_result_is_rounded_to_even_and_keeps_what_is_not_finite():
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-9, 3.3895e38, torch.inf, -torch.inf, 0.0, -0.0])
    payload = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(F32)
    grad = torch.cat([values, payload]).repeat(4)
    (found,) = torch.autograd.grad(
        add_dropped(torch.zeros(40), branch := torch.zeros(40, dtype=BF16, requires_grad=True)), branch, grad
    )
    assert torch.equal(found.isnan(), grad.isnan())
    kept = ~grad.isnan()
    assert torch.equal(found[kept], grad[kept].to(BF16))


def test_threads_and_seeds():
    x, branch = random(3000, 64), random(3000, 64, seed=1)
    torch.set_num_threads(1)
    alone = add_and_normalize(x, branch, EPS, Drop(50, 9))
    try:
        torch.set_num_threads(3)
        together = add_and_normalize(x, branch, EPS, Drop(50, 9))
    finally:
        torch.set_num_threads(1)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(add_dropped(x, branch, Drop(50, 10)), alone[0])


def test_a_stream_adds_each_branch_once():
    torch.manual_seed(0)
    x, dropout, norm = random(5, 12), Dropout(0.0), RMSNorm()
    stream = Stream(x)
    assert stream.like(x) is x
    assert stream.like(stream) is stream
    stream, inside = stream.normalized(norm)
    assert torch.equal(inside, norm(x))
    stream = stream.add(inside, dropout)
    torch.testing.assert_close(stream.like(x), x + norm(x))
    stream, inside = stream.normalized(norm)
    torch.testing.assert_close(inside, norm(x + norm(x)))
    torch.testing.assert_close(stream.like(x), x + norm(x))


@pytest.mark.parametrize("low", [False, True])
def test_a_block_is_the_same_without_the_kernel(low):
    torch.manual_seed(0)
    block, x, grad = EncoderBlock(64, heads=2, hidden=40).train(), random(9, 64), random(9, 64, seed=1)

    def run():
        with torch.autocast("cpu", BF16, enabled=low):
            return differentiated(block, [x], [grad])

    found = run()
    with plain():
        expected = run()
    tolerance = {"atol": 0.1, "rtol": 0.05} if low else {"atol": 1e-4, "rtol": 1e-4}
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == F32
        torch.testing.assert_close(one, other, **tolerance)


def test_blocks_in_training_follow_the_generator():
    block, x = EncoderBlock(32, heads=2, hidden=16, dropout=0.3), random(6, 32)
    torch.manual_seed(1)
    first = block(x)
    assert not torch.equal(block(x), first)
    torch.manual_seed(1)
    assert torch.equal(block(x), first)
    assert torch.equal(block.eval()(x), block(x))


def test_without_a_compiled_kernel_nothing_is_fused(monkeypatch):
    assert is_fused(random(2, 2))
    for name in ("_fused", "norm", "residual"):
        module = getattr(__import__("regard.nn", fromlist=[name]), name)
        monkeypatch.setattr(module, "kernel", lambda: None)
    x = random(4, 8)
    assert not is_fused(x)
    assert not is_fused(x.to("meta"))
    torch.testing.assert_close(residual.add_and_normalize(x, x, EPS)[0], 2 * x)
    assert regard._lowering.kernel() is not None
    assert NOTHING.factor == 1
