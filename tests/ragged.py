"""Packed calls of given lengths, computed with all gradients by one room of the backends, and how far off they are."""

from __future__ import annotations

import numpy as np
import torch

import cases
from regard import Aux
from regard.backends import reference
from regard.backends.torch import backward as tiled_backward
from regard.backends.torch.function import TiledAttention
from regard.backends.torch.scores import Inputs

PARTS = ("out", "lse", "query", "key", "value", "bias", "sinks")


def offsets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def arrays_of(q_total, k_total, heads=4, kv_heads=2, size=8, out_size=8, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (q_total, heads, size), (k_total, kv_heads, size), (k_total, kv_heads, out_size)
    return [rng.normal(size=shape).astype(np.float32).astype(dtype) for shape in shapes]


def packed(q_lengths, k_lengths=None, *, dtype=np.float64, layout=(4, 2, 8, 8), **options):
    """A lowered call; `layout` is heads, key heads and the two head sizes; `key_sequence` may share the keys."""
    k_lengths = q_lengths if k_lengths is None else k_lengths
    arrays = arrays_of(int(np.sum(q_lengths)), int(np.sum(k_lengths)), *layout, dtype=dtype)
    sinks = options.pop("sinks", None)
    if sinks is not None:
        options["sinks"] = np.asarray(sinks, dtype)
    packing = {"cu_seqlens_q": offsets(q_lengths), "cu_seqlens_k": offsets(k_lengths)}
    return cases.call_of(*arrays, **packing, **options)


def inputs(call):
    bias = None if call.bias is None else np.asarray(call.bias_array)
    return call.plan, call.query, call.key, call.value, bias, call.sinks


def computed(room, call, with_lse=True):
    """Output, lse and the gradients by name; what stands above them is drawn from a fixed seed."""
    rng = np.random.default_rng(9)
    wide = np.float64 if call.query.dtype == np.float64 else np.float32
    up = rng.normal(size=(*call.query.shape[:2], call.value.shape[2])).astype(np.float32)
    up_lse = rng.normal(size=call.query.shape[:2]).astype(np.float32).astype(wide)
    out, lse = room.forward(*inputs(call), call.seed)
    grads = room.backward(
        *inputs(call), call.seed, out, lse, up.astype(out.dtype), up_lse if with_lse else None
    )
    return {name: array for name, array in zip(PARTS, (out, lse, *grads), strict=True) if array is not None}


def looked_at(room, call, aux):
    lse = room.forward(*inputs(call), call.seed)[1]
    return room.look(*inputs(call), lse, aux)


EVERYTHING = Aux(topk=5, key_sums=True)


def assert_equal_bits(received, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(received[name], array, err_msg=name)


def assert_close(received, expected, tolerance=1e-12):
    for name, array in expected.items():
        np.testing.assert_allclose(received[name], array, atol=tolerance, rtol=tolerance, err_msg=name)


def root_mean_square(array):
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


class Tiled:
    """The tiled formulation on NumPy arrays: the formula with weights that are recomputed from the lse."""

    @staticmethod
    def forward(plan, query, key, value, bias, sinks, seed):
        out, lse = TiledAttention.forward(plan, seed, *map(_tensor, (query, key, value, bias, sinks)))
        return out.numpy(), lse.numpy()

    @staticmethod
    def backward(plan, query, key, value, bias, sinks, seed, out, lse, grad_out, grad_lse):
        given = Inputs.of(plan, *map(_tensor, (query, key, value, bias, sinks)), seed, _tensor(grad_out))
        grads = tiled_backward.backward(given, *map(_tensor, (out, lse, grad_out, grad_lse)), True)
        return [None if grad is None else grad.numpy() for grad in grads]


def _tensor(array):
    return None if array is None else torch.tensor(array)


def formulas(make, *arguments):
    """The call in float64, and in float32 by the formula, its gradients from the weights and from the lse."""
    calls = [make(dtype, *arguments) for dtype in (np.float64, np.float32)]
    rooms = (reference, Tiled) if calls[0].query.shape[2] and calls[0].value.shape[2] else (reference,)
    return computed(reference, calls[0]), [computed(room, calls[1]) for room in rooms]


def assert_as_exact_as_the_formula(received, plain, truth):
    """At most twice the error of the formula in the same precision, or some units in the last place."""
    for name, exact in truth.items():
        seen = np.isfinite(exact)
        np.testing.assert_array_equal(np.isfinite(received[name]), seen, err_msg=name)
        error, *others = (root_mean_square(found[name][seen] - exact[seen]) for found in (received, *plain))
        # The error of a handful of sums is chance; that of many numbers is not.
        units = 2 if exact[seen].size > 16 else 8
        unit = np.finfo(received[name].dtype).eps * root_mean_square(exact[seen])
        assert error <= max(2 * max(others), units * unit), (name, error, others, unit)
