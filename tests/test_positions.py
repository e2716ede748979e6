from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from regard._errors import ShapeError
from regard._positions import rotary_table, rotate

X = np.random.default_rng(0).normal(size=(2, 5, 3, 8))
POSITIONS = np.array([[0, 1, 2, 3, 4], [-3, 7, 0, 1000, 2]])


def naive(x, positions, base, dims, pairs):
    out = x.copy()
    for i, (a, b) in enumerate(pairs):
        angle = positions[..., None] * base ** (-2 * i / dims)
        out[..., a] = x[..., a] * np.cos(angle) - x[..., b] * np.sin(angle)
        out[..., b] = x[..., b] * np.cos(angle) + x[..., a] * np.sin(angle)
    return out


@pytest.mark.parametrize("bring", [np.asarray, torch.as_tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
@pytest.mark.parametrize("dims", [None, 8, 4, 0])
@pytest.mark.parametrize("interleaved", [False, True])
def test_both_forms_follow_the_formula(bring, dims, interleaved):
    size = 8 if dims is None else dims
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + size // 2) for i in range(size // 2)]
    received = rotate(bring(X), bring(POSITIONS), 100.0, dims=dims, interleaved=interleaved)
    np.testing.assert_allclose(np.asarray(received), naive(X, POSITIONS, 100.0, size, pairs), atol=1e-12)


@pytest.mark.parametrize("bring", [np.asarray, torch.as_tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_a_table_gives_the_same(bring):
    table = tuple(bring(part) for part in rotary_table(1001, 8))
    positions = np.abs(POSITIONS)
    received = rotate(bring(X), bring(positions), table=table)
    np.testing.assert_allclose(np.asarray(received), rotate(X, positions), atol=1e-12)


def test_scores_depend_on_distances_only():
    query, key = X[:1], X[1:]
    scores = [
        np.einsum("bqhd,bkhd->bhqk", rotate(query, np.arange(5) + shift), rotate(key, np.arange(5) + shift))
        for shift in (0, 11)
    ]
    np.testing.assert_allclose(*scores, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_low_precision_keeps_its_dtype_and_far_positions_their_accuracy(dtype):
    far = np.arange(5) + 1_000_000
    x = X.astype(dtype)
    for received in (rotate(x, far), rotate(torch.as_tensor(x), far).numpy()):
        assert received.dtype == dtype
        np.testing.assert_allclose(
            received, rotate(x.astype(np.float64), far), atol=3e-3 if dtype == "float16" else 1e-6
        )


def test_gradients_turn_back():
    x = torch.tensor(X, requires_grad=True)
    grad = torch.randn(X.shape, dtype=torch.float64)
    rotate(x, POSITIONS).backward(grad)
    torch.testing.assert_close(x.grad, rotate(grad, -POSITIONS))


def test_errors():
    with pytest.raises(ShapeError, match="even number of at most the head size 8, got 3"):
        rotate(X, POSITIONS, dims=3)
    with pytest.raises(ShapeError, match="must turn 4 pairs, got one for 2"):
        rotate(X, POSITIONS, table=rotary_table(5, 4))
    with pytest.raises(ShapeError, match="holds the positions 0 to 4, got -3 to 1000"):
        rotate(X, POSITIONS, table=rotary_table(5, 8))


def test_programs_of_jax_look_angles_up():
    table, positions = rotary_table(1001, 8), jnp.abs(POSITIONS)
    received = jax.jit(lambda x, positions: rotate(x, positions, table=table))(jnp.asarray(X), positions)
    np.testing.assert_allclose(received, rotate(X, np.abs(POSITIONS)), atol=1e-12)
    with pytest.raises(ShapeError, match=r"positions under a tracer; pass table=rotary_table"):
        jax.jit(rotate)(jnp.asarray(X), positions)
