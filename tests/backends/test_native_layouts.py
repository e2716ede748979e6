"""How arrays may lie, what may stand in them where nobody looks, and what is left in fresh memory."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

import ragged
from cases import RNG
from ragged import assert_close, computed, packed
from regard import Alibi, Aux, Causal, Dense, DenseBias, Global, RegardError, Window, attention
from regard._lowering import kernel
from regard.backends import native, reference

pytestmark = pytest.mark.usefixtures("instruction_set")


# How arrays lie.


def lying(array, how):
    """The same numbers, laid out otherwise; what lies between them is NaN."""
    rows, heads, size = array.shape
    if how == "between heads":
        wide = np.full((rows, 3 * heads, size + 5), np.nan, array.dtype)
        wide[:, ::3, 2 : size + 2] = array
        return wide[:, ::3, 2 : size + 2]
    if how == "heads first":
        return np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)
    if how == "every second number":
        wide = np.full((rows, heads, 2 * size), np.nan, array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if how == "sizes first":
        return np.ascontiguousarray(array.transpose(2, 1, 0)).transpose(2, 1, 0)
    if how == "backwards":
        return np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    if how == "rows and heads backwards":
        return np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    if how == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)
        raw[1:] = array.reshape(-1).view(np.uint8)
        return raw[1:].view(array.dtype).reshape(array.shape)
    if how == "fields of records":
        records = np.zeros(array.shape[:2], np.dtype([("flag", "u1"), ("numbers", array.dtype, (size,))]))
        records["numbers"] = array
        return records["numbers"]
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = [
    "between heads",
    "heads first",
    "every second number",
    "sizes first",
    "backwards",
    "rows and heads backwards",
    "unaligned",
    "fields of records",
    "read only",
]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("how", LAYOUTS)
def test_layouts_do_not_matter(how, dtype, poisoned_memory):
    arrays = ragged.arrays_of(160, 200, 4, 2, 9, 7, dtype=dtype)
    offsets = {"cu_seqlens_q": np.array([0, 150, 160]), "cu_seqlens_k": np.array([0, 140, 200])}
    up = RNG.normal(size=(160, 4, 7)).astype(dtype)

    def everything(arrays, up):
        call = ragged.cases.call_of(*arrays, mask=Causal(), **offsets)
        out, lse = native.forward(*ragged.inputs(call), None)
        return out, lse, *native.backward(*ragged.inputs(call), None, lying(out, how), lse, up)[:3]

    expected = everything(arrays, up)
    turned = [lying(array, how) for array in arrays]
    before = [array.copy() for array in turned]
    for received, exact in zip(everything(turned, lying(up, how)), expected, strict=True):
        np.testing.assert_array_equal(received, exact)
    for array, copy in zip(turned, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("how", ["sizes first", "backwards", "every second number", "between heads"])
def test_layouts_of_tensors_and_their_gradients(how, poisoned_memory):
    if how == "backwards":
        pytest.skip("tensors have no negative strides")
    arrays = ragged.arrays_of(150, 140, 4, 2, 9, 7)

    def everything(change):
        leaves = [torch.from_numpy(change(array)).requires_grad_() for array in arrays]
        out = attention(*leaves, mask=Causal())
        up = torch.from_numpy(change(np.cos(np.arange(out.numel(), dtype=float).reshape(out.shape))))
        return out, *torch.autograd.grad(out, leaves, up)

    for expected, received in zip(
        everything(lambda array: array), everything(lambda array: lying(array, how)), strict=True
    ):
        assert torch.equal(received, expected)


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 1), (0, 2), (0, 1, 2)])
def test_strides_of_zero(axis):
    """Arrays that are broadcast are read as they lie; their gradients are whole."""
    shape = [140, 4, 8]
    for one in np.atleast_1d(axis):
        shape[one] = 1
    array = np.broadcast_to(RNG.normal(size=shape), (140, 4, 8))
    call = ragged.cases.call_of(array, array, array, mask=Causal())
    copied = ragged.cases.call_of(*(array.copy() for _ in range(3)), mask=Causal())
    ragged.assert_equal_bits(computed(native, call), computed(native, copied))
    base = torch.tensor(array[tuple(slice(0, n) for n in shape)].copy(), requires_grad=True)
    out = attention(*(base.expand(140, 4, 8),) * 3, mask=Causal())
    out.sum().backward()  # whose own gradient has strides of zero too
    assert base.grad.isfinite().all()


def test_gradients_with_strides_of_zero():
    leaves = [torch.tensor(array, requires_grad=True) for array in ragged.arrays_of(70, 70)]
    out = attention(*leaves, mask=Causal())
    expanded = torch.autograd.grad(
        out, leaves, torch.ones(1, dtype=out.dtype).expand(out.shape), retain_graph=True
    )
    written = torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert all(torch.equal(one, other) for one, other in zip(expanded, written, strict=True))


def test_numbers_of_the_other_byte_order_are_refused():
    foreign = [array.astype(">f8") for array in ragged.arrays_of(3, 3)]
    with pytest.raises(RegardError, match=r"must hold floating-point numbers. Received >f8; convert it"):
        attention(*foreign)


@pytest.mark.parametrize(
    "turn", [lambda a: a[::-1].copy()[::-1], lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2)]
)
def test_masks_and_biases_may_lie_anyhow(turn):
    allowed, bias = RNG.random((2, 4, 150, 160)) < 0.5, RNG.normal(size=(2, 4, 150, 160))
    calls = [
        packed([150, 20], [160, 30], mask=Dense(change(allowed)), bias=DenseBias(change(bias)))
        for change in (lambda array: array, turn)
    ]
    ragged.assert_equal_bits(*(computed(native, call) for call in calls))
    stretched = np.broadcast_to(allowed[:, :1], allowed.shape)
    calls = [packed([150, 20], [160, 30], mask=Dense(array)) for array in (stretched, stretched.copy())]
    ragged.assert_equal_bits(*(computed(native, call) for call in calls))


# Low precision.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_float32(dtype):
    arrays = [
        torch.tensor(array).to(dtype).requires_grad_() for array in ragged.arrays_of(140, 300, 4, 2, 33, 17)
    ]
    wide = [array.detach().float().requires_grad_() for array in arrays]
    up = torch.tensor(RNG.normal(size=(140, 4, 17))).to(dtype)
    options = {"mask": Causal(), "bias": Alibi.for_heads(4), "return_aux": Aux(lse=True)}
    out, aux = attention(*arrays, **options)
    exact, exact_aux = attention(*wide, **options)
    assert (out.dtype, aux.lse.dtype) == (dtype, torch.float32)
    grads = torch.autograd.grad(out, arrays, up)
    wide_grads = torch.autograd.grad(exact, wide, up.float())
    if dtype == torch.bfloat16 and kernel().instruction_set() == "amx":
        # The matrix unit multiplies weights rounded to bfloat16; it adds in float32 too.
        torch.testing.assert_close(aux.lse, exact_aux.lse, rtol=1e-6, atol=1e-5)
        for found, wanted in zip((out, *grads), (exact, *wide_grads), strict=True):
            assert (found.float() - wanted).abs().max() < 2**-7 * wanted.abs().max()
        return
    assert torch.equal(out, exact.to(dtype))
    assert torch.equal(aux.lse, exact_aux.lse)
    for grad, wide_grad in zip(grads, wide_grads, strict=True):
        assert torch.equal(grad, wide_grad.to(dtype))


# What stands where nobody looks.


def spoil_scratch(dtype):
    """Leaves NaN in every room that the kernel's threads keep between calls."""
    call = packed(
        [130, 3], layout=(8, 2, 256, 256), dtype=dtype, bias=DenseBias(np.full((1, 1), np.nan)), softcap=1.0
    )
    for array in (call.query, call.key, call.value):
        array.fill(np.nan)
    computed(native, call)


POISONED = {
    "causal": {"mask": Causal()},
    "causal, late": {"mask": Causal(), "query_start": [-140, 5, -3]},
    "window": {"mask": Causal() & Window(20)},
    "several boxes": {"mask": Window(5) | Global([2, 130])},
    "bits": {"mask": Dense(RNG.random((3, 1, 300, 1)) < 0.9) & Dense(RNG.random((3, 1, 1, 300)) < 0.8)},
    "bias": {"mask": Causal(), "bias": Alibi.for_heads(4)},
    "soft cap": {"mask": Causal() & Window(20), "softcap": 2.0},
    "dropout": {"mask": Causal() & Window(50), "dropout_p": 0.3, "seed": 3},
    "dilated": {"mask": Causal() & Window(math.inf, dilation=2), "query_start": 0},
    "sinks": {"mask": Causal(), "sinks": [0.0, 1.0, -np.inf, 3.0], "query_start": [-10, 0, -300]},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", POISONED)
def test_what_is_masked_has_no_influence_over_many_blocks(name, poison, dtype, poisoned_memory):
    """Keys that nobody sees and queries that see nothing are poisoned in their sequence, and a third sequence whole."""
    make = functools.partial(packed, [260, 1, 129], [300, 2, 140], dtype=dtype, **POISONED[name])
    clean, dirty = make(), make()
    rows = ragged.looked_at(reference, clean, Aux(rows=np.arange(390)))
    unseen = ~np.concatenate(
        [
            (rows.rows[a:b, :, :n] > 0).any((0, 1))
            for a, b, n in ((0, 260, 300), (260, 261, 2), (261, 390, 140))
        ]
    )
    blind = ~(rows.rows > 0).any((1, 2))
    unseen[302:], blind[261:] = True, True
    dirty.key[unseen], dirty.value[unseen], dirty.query[blind] = poison, poison, poison
    spoil_scratch(dtype)
    found = []
    for call, up in ((clean, 1.0), (dirty, poison)):
        out, lse = native.forward(*ragged.inputs(call), call.seed)
        grad_out, grad_lse = np.ones_like(out), np.ones_like(lse)
        grad_out[blind], grad_lse[blind] = up, up
        grad_out[261:] = 0 if up == 1.0 else up
        grads = native.backward(*ragged.inputs(call), call.seed, out, lse, grad_out, grad_lse)
        found.append([out[:261], lse[:261], grads[0][:261], grads[1][:302], grads[2][:302]])
    tolerance = 1e-12 if dtype == np.float64 else 1e-4
    for expected, received in zip(*found, strict=True):
        np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance)
    assert all(np.isfinite(array).all() for array in found[1][2:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", [(4, 2, 8, 8), (2, 1, 17, 33), (1, 1, 1, 3), (3, 1, 64, 80)])
def test_nothing_stale_is_read_and_everything_is_written(layout, dtype, poisoned_memory):
    """Tokens in no sequence too: what `Lengths` leaves out gives 0."""
    spoil_scratch(dtype)
    for options in ({}, {"mask": Causal() & ragged.cases.Lengths(q=[100, 0, 3], k=[5, 0, 140])}):
        call = packed([130, 1, 60], [150, 7, 200], layout=layout, dtype=dtype, **options)
        received, truth = computed(native, call), computed(reference, call)
        assert_close(received, truth, 1e-11 if dtype == np.float64 else 2e-4)


@pytest.mark.parametrize(
    ("rows", "keys"), [([], []), ([0], [0]), ([0, 0], [3, 0]), ([3, 0], [0, 0]), ([0, 5], [4, 0])]
)
def test_empty_everything(rows, keys, poisoned_memory):
    for options in (
        {},
        {"mask": Causal()},
        {"bias": Alibi.for_heads(4)},
        {"mask": Window(3, dilation=2)},
        {"sinks": [0.0] * 4},
    ):
        call = packed(np.array(rows, int), np.array(keys, int), **options)
        found = computed(native, call)
        assert (found["lse"] == -np.inf).all()
        assert all((array == 0).all() for name, array in found.items() if name != "lse")
        aux = ragged.looked_at(native, call, Aux(topk=2, key_sums=True, rows=range(sum(rows))))
        assert (aux.topk.keys == -1).all()
        assert (aux.key_sums == 0).all()


def test_allowed_infinities_and_nan_are_not_hidden():
    call = packed([140], [150], mask=Causal())
    call.value[3, 0, 0], call.value[100, 1, 2], call.key[149, 0, 0] = np.nan, np.inf, np.nan
    found, truth = (room.forward(*ragged.inputs(call), None) for room in (native, reference))
    for received, exact in zip(found, truth, strict=True):
        np.testing.assert_allclose(received, exact, atol=1e-12)
    assert np.isnan(found[0][:, :2, 0]).all()
