from __future__ import annotations

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regard._errors import BackendError, RegardError, ShapeError
from regard.compat.jax import dot_product_attention

RNG = np.random.default_rng(0)


def drawn(rows=4, keys=6, heads=4, kv_heads=2, size=8):
    shapes = (2, rows, heads, size), (2, keys, kv_heads, size), (2, keys, kv_heads, size)
    return [jnp.asarray(RNG.normal(size=shape)) for shape in shapes]


SOME = jnp.asarray(RNG.random((2, 1, 4, 6)) < 0.7).at[..., 0].set(True)
OPTIONS = {
    "nothing": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "window": {"local_window_size": (2, 1)},
    "one window": {"local_window_size": 1, "is_causal": True},
    "keys": {"key_value_seq_lengths": jnp.array([3, 6], jnp.int32)},
    "mask": {"mask": SOME},
    "bias": {"bias": jnp.asarray(RNG.normal(size=(1, 4, 4, 6)))},
    "all": {"mask": SOME, "is_causal": True, "bias": jnp.asarray(RNG.normal(size=(2, 1, 4, 6)))},
}


def test_the_signature_is_jaxs_own():
    ours, theirs = (
        inspect.signature(f).parameters for f in (dot_product_attention, jax.nn.dot_product_attention)
    )
    assert list(ours) == list(theirs)
    assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()]
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize("name", OPTIONS)
def test_as_jax_computes_it(name):
    arrays = drawn()
    theirs = jax.nn.dot_product_attention(*arrays, **OPTIONS[name], return_residual=True)
    ours = dot_product_attention(*arrays, **OPTIONS[name], return_residual=True)
    # JAX computes the softmax in float32.
    for received, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_without_a_batch_and_under_programs_with_gradients():
    arrays = [array[0] for array in drawn()]

    def run(function):
        return jax.jit(
            jax.grad(lambda *arrays: (function(*arrays, is_causal=True) ** 2).sum(), argnums=(0, 1, 2))
        )(*arrays)

    assert dot_product_attention(*arrays).shape == (4, 4, 8)
    for received, expected in zip(run(dot_product_attention), run(jax.nn.dot_product_attention), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_where_jax_gives_nan_or_means_here_are_zeros():
    query, key, value = drawn()
    lengths = {"query_seq_lengths": jnp.array([2, 4]), "key_value_seq_lengths": jnp.array([0, 5])}
    out, residual = dot_product_attention(
        query, key.at[1, 5].set(math.nan), value, **lengths, return_residual=True
    )
    assert (out[0] == 0).all()
    assert (residual[0] == -jnp.inf).all()
    assert jnp.isfinite(out).all()
    np.testing.assert_allclose(out[1], dot_product_attention(query[1], key[1, :5], value[1, :5]), atol=1e-12)


def test_what_is_refused():
    query, key, value = drawn()
    with pytest.raises(BackendError, match=r"implementation must be None or 'xla'\. Received 'cudnn'"):
        dot_product_attention(query, key, value, implementation="cudnn")
    with pytest.raises(ShapeError, match="with one B, or neither a B"):
        dot_product_attention(query, key[:1], value[:1])
    with pytest.raises(RegardError, match="mask must hold booleans"):
        dot_product_attention(query, key, value, mask=jnp.ones((2, 1, 4, 6)))
