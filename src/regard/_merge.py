"""Attention over parts of the keys, joined to attention over all of them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from regard._arrays import framework_of, is_jax, is_tensorflow
from regard._errors import ShapeError


def merge(*parts: tuple[Any, Any]) -> tuple[Any, Any]:
    """Join results over disjoint parts of the keys: `out = sum_i exp(lse_i - lse) out_i`, `lse = log sum_i exp(lse_i)`.

    Args:
        parts: pairs (out, lse) of shapes (..., T, H, Dv) and (..., T, H), of any one framework, computed without sinks and
            dropout. A query that sees nothing in a part has lse = -inf there.

    Returns:
        (out, lse) over all keys, in the dtypes that came in; 0 and -inf where a query sees nothing at all. Differentiable
        in PyTorch, JAX and TensorFlow, through both.

    Raises:
        ShapeError: no part, or parts whose shapes differ.

    Source: the partial softmax of FlashAttention's split keys (Dao 2022, section 3.1).

    >>> import numpy as np, regard
    >>> q, k, v = (np.random.default_rng(i).normal(size=(6, 2, 4)) for i in range(3))
    >>> lse = regard.Aux(lse=True)
    >>> near, near_aux = regard.attention(q, k[:2], v[:2], return_aux=lse)
    >>> far, far_aux = regard.attention(q, k[2:], v[2:], return_aux=lse)
    >>> out, _ = regard.merge((near, near_aux.lse), (far, far_aux.lse))
    >>> np.allclose(out, regard.attention(q, k, v))
    True
    """
    if not parts:
        raise ShapeError("merge() needs at least one pair (out, lse), got none")
    outs, lses = [out for out, _ in parts], [lse for _, lse in parts]
    _check(outs, lses)
    ops = _operations(framework_of(*outs, *lses))
    top = _constant(functools.reduce(ops.maximum, lses))
    # A row that sees nothing has no largest logit; any finite number stands in for it.
    top = ops.where(top > -np.inf, top, ops.zeros_like(top))
    weights = [ops.exp(lse - top) for lse in lses]
    total = sum(weights[1:], weights[0])
    some = total > 0
    divisor = ops.where(some, total, ops.ones_like(total))
    terms = [_select(ops, w > 0, out) * w[..., None] for w, out in zip(weights, outs, strict=True)]
    out = sum(terms[1:], terms[0]) / divisor[..., None]
    lse = ops.where(some, top + _log(ops, divisor), ops.zeros_like(top) - np.inf)
    return _as(out, outs[0].dtype), _as(lse, lses[0].dtype)


def _check(outs: list[Any], lses: list[Any]) -> None:
    for number, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        if out.shape[:-1] != lse.shape or out.shape != outs[0].shape:
            raise ShapeError(
                f"merge() needs pairs out (..., T, H, Dv) and lse (..., T, H) of equal shapes, but part {number} has "
                f"{tuple(out.shape)} and {tuple(lse.shape)}, part 0 has out {tuple(outs[0].shape)}"
            )


def _operations(framework: str) -> Any:
    if framework == "torch":
        import torch

        return torch
    if framework == "jax":
        import jax.numpy as jnp

        return jnp
    if framework == "tensorflow":
        import tensorflow as tf

        return tf
    return np


def _select(ops: Any, seen: Any, out: Any) -> Any:
    return ops.where(seen[..., None], out, ops.zeros_like(out))


def _log(ops: Any, array: Any) -> Any:
    return ops.log(array) if hasattr(ops, "log") else ops.math.log(array)


def _constant(array: Any) -> Any:
    if is_tensorflow(array):
        import tensorflow as tf

        return tf.stop_gradient(array)
    if is_jax(array):
        from jax import lax

        return lax.stop_gradient(array)
    return array.detach() if hasattr(array, "detach") else array


def _as(array: Any, dtype: Any) -> Any:
    if is_tensorflow(array):
        import tensorflow as tf

        return tf.cast(array, dtype)
    return array.to(dtype) if hasattr(array, "detach") else array.astype(dtype)
