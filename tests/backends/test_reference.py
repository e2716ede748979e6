from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import (
    Aux,
    Causal,
    Dense,
    DenseBias,
    Documents,
    Global,
    Lengths,
    Prefix,
    RegardError,
    Window,
    attention,
)
from regard._attention import lower
from regard._biases import DistanceBias
from regard._dropout import keep
from regard.backends import reference

pytestmark = pytest.mark.usefixtures("plain")

RNG = np.random.default_rng(0)
DEFAULTS = dict.fromkeys(
    [
        "mask",
        "bias",
        "cu_seqlens_q",
        "cu_seqlens_k",
        "key_sequence",
        "query_start",
        "scale",
        "softcap",
        "sinks",
        "seed",
    ]
) | {"dropout_p": 0.0}


def call_of(query, key, value, **options):
    return lower(query, key, value, **(DEFAULTS | options))


def run(call):
    return reference.forward(
        call.plan, call.query, call.key, call.value, call.bias_array, call.sinks, call.seed
    )


def gradients(call, grad_out, grad_lse=None):
    arrays = call.plan, call.query, call.key, call.value, call.bias_array, call.sinks, call.seed
    return reference.backward(*arrays, *run(call), grad_out, grad_lse)


def naive(
    query, key, value, allowed, *, start, bias=None, softcap=None, sinks=None, dropout_p=0, seed=0, sequence=0
):
    """One sequence by the contract's first line, number by number: (T, H, D), (S, J, D), (S, J, V), allowed (H, T, S)."""
    (rows, heads, size), (_, kv_heads, out_size) = query.shape, value.shape
    out, lse = np.zeros((rows, heads, out_size)), np.full((rows, heads), -math.inf)
    for h, t in np.ndindex(heads, rows):
        logits, values = {}, {}
        for s in np.flatnonzero(allowed[h, t]):
            score = sum(query[t, h, d] * key[s, h * kv_heads // heads, d] for d in range(size)) / math.sqrt(
                size
            )
            score = score if softcap is None else softcap * math.tanh(score / softcap)
            logits[s] = score + (0 if bias is None else bias[h, t, s])
            values[s] = value[s, h * kv_heads // heads]
        logits = {s: logit for s, logit in logits.items() if logit > -math.inf}
        if not logits:
            continue
        total = sum(map(math.exp, logits.values()))
        lse[t, h] = math.log(total)
        total += 0 if sinks is None else math.exp(sinks[h])
        for s, logit in logits.items():
            place = (np.array([n]) for n in (sequence, h, start + t, s))
            if dropout_p and not keep(seed, *place, dropout_p)[0]:
                continue
            out[t, h] += math.exp(logit) / total / (1 - dropout_p) * values[s]
    return out, lse


def draw(rows, keys, heads=4, kv_heads=2, size=3, out_size=5, dtype=np.float64):
    shapes = (rows, heads, size), (keys, kv_heads, size), (keys, kv_heads, out_size)
    return [RNG.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_one_sequence_follows_the_formula(softcap, with_sinks, with_bias, dropout_p):
    query, key, value = draw(4, 6)
    sinks = RNG.normal(size=4) if with_sinks else None
    bias = RNG.normal(size=(4, 4, 6)) if with_bias else None
    if with_bias:
        bias[:, 1, 2:] = -math.inf
        bias[2, 3] = -math.inf
    distance = np.arange(4)[:, None] + 2 - np.arange(6)
    allowed = np.broadcast_to((distance >= 0) & (distance <= 3), (4, 4, 6))
    options = {"softcap": softcap, "sinks": sinks, "dropout_p": dropout_p, "seed": 11}
    out, aux = attention(
        query, key, value, mask=Causal() & Window(3), bias=bias, **options, return_aux=Aux(lse=True)
    )
    expected, lse = naive(query, key, value, allowed, start=2, bias=bias, **options)
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(aux.lse, lse, atol=1e-13)


lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4)
MASKS = {
    "none": (None, lambda p, k: p + k > -math.inf),
    "causal": (Causal(), lambda p, k: k <= p),
    "window": (Window(1, 2), lambda p, k: (k >= p - 1) & (k <= p + 2)),
    "dilated": (Causal() & Window(math.inf, dilation=2), lambda p, k: (k <= p) & ((p - k) % 2 == 0)),
    "prefix": (Causal() | Prefix(2), lambda p, k: (k <= p) | (k < 2)),
    "global": (Window(0) | Global([1]), lambda p, k: (p == k) | (p == 1) | (k == 1)),
    "not": (~Causal(), lambda p, k: k > p),
}


@given(lengths, st.sampled_from(sorted(MASKS)), st.one_of(st.none(), st.integers(-4, 4)), st.booleans())
def test_packed_padded_and_single_sequences_agree(lengths, name, query_start, dropout):
    mask, predicate = MASKS[name]
    q, k = np.array(lengths).T
    query, key, value = draw(q.sum(), k.sum())
    options = {"query_start": query_start, "dropout_p": 0.3 if dropout else 0.0, "seed": 5}
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(n)]) for n in (q, k))
    packed = attention(query, key, value, mask=mask, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, **options)

    padded = [np.full((len(q), 6, *array.shape[1:]), np.nan) for array in (query, key, value)]
    for n in range(len(q)):
        padded[0][n, : q[n]] = query[cu_q[n] : cu_q[n + 1]]
        padded[1][n, : k[n]], padded[2][n, : k[n]] = key[cu_k[n] : cu_k[n + 1]], value[cu_k[n] : cu_k[n + 1]]
    both = Lengths(q, k) if mask is None else mask & Lengths(q, k)
    padded_out = attention(*padded, mask=both, **options)

    for n in range(len(q)):
        rows, keys = slice(cu_q[n], cu_q[n + 1]), slice(cu_k[n], cu_k[n + 1])
        start = k[n] - q[n] if query_start is None else query_start
        allowed = np.broadcast_to(predicate(start + np.arange(q[n])[:, None], np.arange(k[n])), (q[n], k[n]))
        expected, _ = naive(
            query[rows], key[keys], value[keys], np.broadcast_to(allowed, (4, q[n], k[n])),
            start=start, dropout_p=options["dropout_p"], seed=5, sequence=n,
        )  # fmt: skip
        np.testing.assert_allclose(packed[rows], expected, atol=1e-13)
        np.testing.assert_allclose(padded_out[n, : q[n]], expected, atol=1e-13)
        assert (padded_out[n, q[n] :] == 0).all()


def test_queries_may_share_keys():
    query, key, value = draw(5, 7)
    offsets = {"cu_seqlens_q": np.array([0, 2, 2, 5]), "cu_seqlens_k": np.array([0, 3, 7])}
    out = attention(query, key, value, mask=Causal(), key_sequence=[1, 0, 1], **offsets)
    for begin, end in ((0, 2), (2, 5)):
        alone = attention(query[begin:end], key[3:], value[3:], mask=Causal())
        np.testing.assert_allclose(out[begin:end], alone, atol=1e-14)


def test_documents_and_dense_masks():
    query, key, value = draw(6, 6)
    ids = np.array([0, 0, 1, 1, 1, 2])
    same = attention(query, key, value, mask=Documents(ids) & Causal())
    offsets = np.array([0, 2, 5, 6])
    np.testing.assert_allclose(
        same, attention(query, key, value, mask=Causal(), cu_seqlens_q=offsets), atol=1e-14
    )
    dense = (ids[:, None] == ids) & np.tri(6, dtype=bool)
    np.testing.assert_allclose(same, attention(query, key, value, mask=dense), atol=1e-14)


GRADIENT_CASES = {
    "plain": {},
    "causal": {"mask": Causal()},
    "window": {"mask": Window(1)},
    "rows that see nothing": {"mask": Causal(), "query_start": -2},
    "softcap": {"softcap": 0.5},
    "sinks": {"sinks": RNG.normal(size=4), "mask": Causal(), "query_start": -1},
    "bias (T, S)": {"bias": RNG.normal(size=(3, 4))},
    "bias (H, 1, S)": {"bias": RNG.normal(size=(4, 1, 4)), "softcap": 2.0},
    "bias that masks": {"bias": np.where(RNG.random((4, 3, 4)) < 0.5, -np.inf, 0.3)},
    "bias by distance": {"bias": RNG.normal(size=(4, 6)), "mask": Window(2), "query_start": -1},
    "dropout": {"dropout_p": 0.5, "seed": 3},
    "everything": {
        "mask": Window(2), "softcap": 1.5, "sinks": RNG.normal(size=4), "bias": RNG.normal(size=(4, 3, 4)),
        "dropout_p": 0.3, "seed": 1, "scale": 0.8,
    },
}  # fmt: skip


class Numbers(DistanceBias):
    """A bias by distance that is nothing but its numbers (H, L)."""

    def __init__(self, numbers):
        self.numbers = numbers

    @property
    def heads(self):
        return len(self.numbers)

    def values(self, distances):
        assert distances.shape == self.numbers.shape[1:]
        return self.numbers


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_are_the_finite_differences(name):
    options = GRADIENT_CASES[name]
    query, key, value = draw(3, 4)
    arrays = {"query": query, "key": key, "value": value}
    arrays |= {part: options[part] for part in ("bias", "sinks") if part in options}
    up_out, up_lse = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(3, 4))

    def made(**changed):
        found = options | arrays | changed
        return call_of(**(found | {"bias": Numbers(found["bias"])} if "distance" in name else found))

    def loss(**changed):
        out, lse = run(made(**changed))
        return (out * up_out).sum() + (np.where(np.isfinite(lse), lse, 0) * up_lse).sum()

    received = gradients(made(), up_out, up_lse)
    for part, grad in zip(("query", "key", "value", "bias", "sinks"), received, strict=True):
        if part not in arrays:
            assert grad is None
            continue
        array, step = arrays[part], 1e-5
        assert grad.size == array.size
        for place in np.ndindex(*array.shape):
            change = np.zeros_like(array)
            change[place] = step
            if not np.isfinite(array[place]):
                assert grad.reshape(array.shape)[place] == 0
                continue
            difference = (loss(**{part: array + change}) - loss(**{part: array - change})) / (2 * step)
            np.testing.assert_allclose(grad.reshape(array.shape)[place], difference, atol=2e-9)


def test_queries_that_see_nothing_give_zero():
    query, key, value = draw(3, 2)
    sinks = np.array([-np.inf, 0.0, 1.0, 700.0])
    for options in ({}, {"sinks": sinks}):
        call = call_of(query, key, value, mask=Causal(), query_start=-2, **options)
        out, lse = run(call)
        assert (out[:2] == 0).all()
        assert (lse[:2] == -np.inf).all()
        assert np.isfinite(out[2]).all()
        grads = gradients(call, np.ones_like(out), np.ones_like(lse))
        assert (grads[0][:2] == 0).all()
        assert all(np.isfinite(grad).all() for grad in grads if grad is not None)
    assert attention(*draw(3, 0)).sum() == 0


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["query", "key", "value", "grad_out", "bias"])
def test_what_is_masked_has_no_influence(poison, part):
    """Sequence 0 is poisoned whole, and the last key of sequence 1 is seen by nobody."""
    query, key, value = draw(6, 7)
    arrays = {"query": query, "key": key, "value": value, "grad_out": RNG.normal(size=(6, 4, 5))}
    arrays["bias"] = RNG.normal(size=(2, 4, 3, 4))
    offsets = {"cu_seqlens_q": np.array([0, 3, 6]), "cu_seqlens_k": np.array([0, 3, 7]), "query_start": 0}

    def everything(arrays):
        bias = DenseBias(arrays["bias"])
        names = "query", "key", "value"
        call = call_of(
            *(arrays[name] for name in names), bias=bias, mask=Causal(), sinks=np.ones(4), **offsets
        )
        grads = gradients(call, arrays["grad_out"])
        (out, lse), (grad_query, grad_key, grad_value, grad_bias, _) = run(call), grads
        return out[3:], lse[3:], grad_query[3:], grad_key[3:], grad_value[3:], grad_bias[1]

    clean = everything(arrays)
    poisoned = arrays[part].copy()
    if part == "bias":
        poisoned[0] = poison
        poisoned[1, :, :, 3] = poison
    else:
        poisoned[:3] = poison
    if part in ("key", "value"):
        poisoned[6] = poison
    for expected, received in zip(clean, everything(arrays | {part: poisoned}), strict=True):
        np.testing.assert_array_equal(received, expected)
    assert (clean[3][3] == 0).all()


def test_the_gradient_at_a_query_that_sees_nothing_has_no_influence():
    query, key, value = draw(3, 2)
    call = call_of(query, key, value, mask=Causal(), query_start=-1, sinks=np.ones(4))
    grad_out = RNG.normal(size=(3, 4, 5))
    clean = gradients(call, grad_out)
    grad_out[0] = np.nan
    for expected, received in zip(clean, gradients(call, grad_out), strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_low_precision_accumulates_in_float32_and_keeps_its_dtype(dtype):
    arrays = draw(40, 50, dtype=dtype)
    exact, exact_lse = run(call_of(*(array.astype(np.float64) for array in arrays)))
    call = call_of(*arrays)
    out, lse = run(call)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    assert abs(out - exact).max() <= max(np.finfo(dtype).eps, 1e-6)
    assert abs(lse - exact_lse).max() <= 2e-6
    grads = gradients(call, np.ones_like(out))
    assert all(grad.dtype == dtype for grad in grads[:3])


def test_rows_are_the_weights_before_dropout():
    query, key, value = draw(5, 6)
    offsets = {"cu_seqlens_q": np.array([0, 3, 5]), "cu_seqlens_k": np.array([0, 2, 6])}
    sinks = np.zeros(4)
    options = {"mask": Causal(), "sinks": sinks, **offsets}
    _, aux = attention(query, key, value, **options, dropout_p=0.5, seed=1, return_aux=Aux(rows=[4, 1]))
    out = attention(query, key, value, **options)
    assert aux.rows.shape == (2, 4, 4)
    repeated = np.repeat(value, 2, axis=1)
    np.testing.assert_allclose(np.einsum("hs,shv->hv", aux.rows[0], repeated[2:]), out[4], atol=1e-14)
    np.testing.assert_allclose(np.einsum("hs,shv->hv", aux.rows[1, :, :2], repeated[:2]), out[1], atol=1e-14)
    assert (aux.rows[1, :, 2:] == 0).all()
    assert aux.lse is None
    with pytest.raises(RegardError, match="flat query indices from 0 to 4"):
        attention(query, key, value, **offsets, return_aux=Aux(rows=[5]))


def test_dropout_leaves_the_lse_alone():
    query, key, value = draw(4, 4)
    plain, dropped = (run(call_of(query, key, value, seed=2, dropout_p=p)) for p in (0.0, 0.5))
    np.testing.assert_array_equal(plain[1], dropped[1])
    assert not np.allclose(plain[0], dropped[0])


def test_blocks_of_rows_change_nothing(monkeypatch):
    call = call_of(*draw(9, 7), mask=Causal() & Dense(RNG.random((4, 9, 7)) < 0.7), dropout_p=0.2, seed=1)
    whole, whole_grads = run(call), gradients(call, np.ones((9, 4, 5)))
    monkeypatch.setattr(reference, "_SCORES", 15)
    for expected, received in zip(
        (*whole, *whole_grads[:3]), (*run(call), *gradients(call, np.ones((9, 4, 5)))[:3]), strict=True
    ):
        np.testing.assert_allclose(received, expected, atol=1e-13)


def test_strides_and_the_callers_arrays_are_left_alone(poisoned_memory):
    query, key, value = (np.asfortranarray(array)[::-1, ::-1] for array in draw(6, 6, kv_heads=4))
    before = [array.copy() for array in (query, key, value)]
    out = attention(query, key, value, mask=Causal())
    np.testing.assert_allclose(out, attention(*before, mask=Causal()), atol=1e-15)
    for array, copy in zip((query, key, value), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_large_scores_do_not_overflow():
    query, key, value = draw(3, 3, dtype=np.float32)
    out, aux = attention(
        query * 1e4, key * 1e4, value, sinks=np.full(4, 1e30, np.float32), return_aux=Aux(lse=True)
    )
    assert (out == 0).all()
    assert np.isfinite(aux.lse).all()
