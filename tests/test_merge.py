from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from regard import Aux, attention
from regard._errors import ShapeError
from regard._merge import merge

pytestmark = pytest.mark.usefixtures("way")


def arrays(dtype=np.float64):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(2, n, 3, 4)).astype(dtype) for n in (5, 7, 7))


def part(query, key, value, keys):
    out, aux = attention(query, key[:, keys], value[:, keys], return_aux=Aux(lse=True))
    return out, aux.lse


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_parts_join_to_the_whole(dtype):
    query, key, value = arrays(dtype)
    cuts = slice(0, 2), slice(2, 2), slice(2, 7)
    out, lse = merge(*(part(query, key, value, cut) for cut in cuts))
    whole, whole_lse = part(query, key, value, slice(None))
    assert out.dtype == whole.dtype
    assert lse.dtype == whole_lse.dtype
    tolerance = {np.float16: 2e-3, np.float32: 1e-6, np.float64: 1e-14}[dtype]
    np.testing.assert_allclose(out, whole, atol=tolerance)
    np.testing.assert_allclose(lse, whole_lse, atol=min(tolerance, 1e-6))


@pytest.mark.parametrize("bring", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_rows_that_see_nothing_give_zero(bring):
    out = bring(np.full((2, 3, 4), np.nan))
    lse = bring(np.full((2, 3), -np.inf))
    joined, joined_lse = merge((out, lse), (out, lse))
    assert (np.asarray(joined) == 0).all()
    assert (np.asarray(joined_lse) == -np.inf).all()


def test_gradients_pass_through_out_and_lse():
    query, key, value = (torch.tensor(array, requires_grad=True) for array in arrays())

    def whole(query, key, value):
        return part(query, key, value, slice(None))

    def joined(query, key, value):
        return merge(part(query, key, value, slice(0, 3)), part(query, key, value, slice(3, 7)))

    grads = []
    for function in whole, joined:
        out, lse = function(query, key, value)
        loss = (out * torch.arange(out.numel()).reshape(out.shape)).sum() + (lse**2).sum()
        grads.append(torch.autograd.grad(loss, (query, key, value)))
    for expected, received in zip(*grads, strict=True):
        torch.testing.assert_close(received, expected)


def test_gradients_of_rows_that_see_nothing_are_zero():
    out = torch.ones(1, 2, 3, dtype=torch.float64, requires_grad=True)
    lse = torch.tensor([[-torch.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    joined, joined_lse = merge(
        (out, lse), (out.detach(), torch.full((1, 2), -torch.inf, dtype=torch.float64))
    )
    (joined.sum() + torch.where(joined_lse.isfinite(), joined_lse, 0).sum()).backward()
    torch.testing.assert_close(out.grad[0], torch.tensor([[0.0] * 3, [1.0] * 3], dtype=torch.float64))
    torch.testing.assert_close(lse.grad, torch.tensor([[0.0, 1.0]], dtype=torch.float64))


def test_errors_say_which_part_is_wrong():
    out, lse = np.zeros((2, 3, 4)), np.zeros((2, 3))
    with pytest.raises(ShapeError, match="at least one pair"):
        merge()
    with pytest.raises(ShapeError, match=r"part 1 has \(2, 3, 4\) and \(3, 2\)"):
        merge((out, lse), (out, lse.T))


def test_parts_join_in_jax_with_gradients():
    query, key, value = map(jnp.asarray, arrays())

    def joined(query):
        return merge(*(part(query, key, value, cut) for cut in (slice(0, 2), slice(2, 2), slice(2, 7))))

    (out, lse), pull = jax.vjp(joined, query)
    (whole, whole_lse), pull_whole = jax.vjp(lambda query: part(query, key, value, slice(None)), query)
    ups = jnp.ones_like(out), jnp.ones_like(lse)
    for received, expected in zip((out, lse, *pull(ups)), (whole, whole_lse, *pull_whole(ups)), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-12)
