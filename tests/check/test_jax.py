"""`regard.check` for functions of JAX."""

from __future__ import annotations

import numpy as np
import pytest

import regard

jax = pytest.importorskip("jax")
jnp = jax.numpy

LENGTHS = np.array([4, 2, 5], np.int32)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
SEQUENCE = jnp.asarray(np.repeat(np.arange(3), LENGTHS))
SAME = SEQUENCE[:, None] == SEQUENCE
REAL = jnp.arange(5) < jnp.asarray(LENGTHS)[:, None]
VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(int(OFFSETS[-1]), 4)), jnp.float32)
PADDED = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)


def attend(x, mask):
    scores = jnp.where(mask, x @ x.swapaxes(-1, -2), -1e30)
    return jax.nn.softmax(scores) @ x


def dot_product(x, mask=None, **options):
    heads = x[:, :, None]
    return jax.nn.dot_product_attention(heads, heads, heads, mask=mask, **options)[:, :, 0]


CAUSAL = SAME & jnp.tri(len(VALUES), dtype=bool)
PACKED = {
    "masked by sequence": (lambda x: attend(x, CAUSAL), set()),
    "one by one": (lambda x: attend(x, CAUSAL), set()),
    "without mask": (lambda x: attend(x, jnp.ones_like(CAUSAL)), {"sequence", "future"}),
    "not causal": (lambda x: attend(x, SAME), {"future"}),
    "causal off by one": (lambda x: attend(x, SAME & jnp.tri(len(VALUES), k=1, dtype=bool)), {"future"}),
    "norm over the batch": (lambda x: x - x.mean(0), {"sequence", "future"}),
    "offsets off by one": (lambda x: attend(x, CAUSAL[jnp.minimum(jnp.arange(len(x)) + 1, len(x) - 1)]), {"sequence", "future"}),
}  # fmt: skip
MASK = (REAL[:, None] & REAL[:, :, None])[:, None]
PADDED_MODELS = {
    "masked": (lambda x: dot_product(x, MASK), set()),
    "by lengths": (
        lambda x: dot_product(x, query_seq_lengths=LENGTHS, key_value_seq_lengths=LENGTHS), set(),
    ),
    "without mask": (dot_product, {"padding"}),
    "mean pool": (lambda x: x.mean(1), {"padding"}),
    "masked mean pool": (lambda x: (x * REAL[..., None]).sum(1) / LENGTHS[:, None], set()),
    "scaled by the batch": (lambda x: x / jnp.abs(x).max(), {"sequence", "padding"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_packed_functions(name):
    function, expected = PACKED[name]
    function = function if name == "one by one" else jax.jit(function)
    report = regard.check(function, VALUES, offsets=OFFSETS, causal=True)
    assert {leak.kind for leak in report.found} == expected, str(report)
    assert report.checked == ("sequence", "future")
    batch = regard.Packed(VALUES, OFFSETS)
    again = regard.check(lambda one: one.with_values(function(one.values)), batch, causal=True)
    assert again.found == report.found


@pytest.mark.parametrize("name", PADDED_MODELS)
def test_padded_functions(name):
    function, expected = PADDED_MODELS[name]
    report = regard.check(jax.jit(function), PADDED, lengths=LENGTHS)
    assert {leak.kind for leak in report.found} == expected, str(report)


def test_a_gradient_that_a_value_does_not_show():
    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, None), lambda _, slope: (slope + slope.sum(0),))
    (leak, *_) = regard.check(same, VALUES, offsets=OFFSETS).found
    assert (leak.kind, leak.by) == ("sequence", "gradient")


def test_ids_and_bfloat16():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.bfloat16)
    ids = jnp.arange(len(VALUES)) % 6
    sound, leaky = (jax.jit(lambda x, mask=mask: attend(x, mask)) for mask in (CAUSAL, SAME))
    assert regard.check(lambda x: sound(table[x]), ids, offsets=OFFSETS, causal=True).ok
    assert not regard.check(lambda x: table[x].cumsum(0), ids, offsets=OFFSETS).ok
    narrow = VALUES.astype(jnp.bfloat16)
    assert regard.check(sound, narrow, offsets=OFFSETS, causal=True).ok
    assert not regard.check(leaky, narrow, offsets=OFFSETS, causal=True).ok
