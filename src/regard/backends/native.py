"""The C++ kernel on NumPy arrays: the functions of the reference; sums in float32 or, for float64 and wider, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._arrays import host_array
from regard._aux import Aux, AuxOutput, TopK, checked_rows
from regard._lowering import STORED, bias_arguments, dense_layout, lowered, seed_word, threads
from regard._plan import Plan

Array = NDArray[Any]


def forward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    seed: int | None,
    *,
    wide: bool = False,
    empty: Callable[..., Array] | None = None,
) -> tuple[Array, Array]:
    """The output (total_queries, H, V) in the query's dtype, and the lse (total_queries, H).

    `wide`: the output in the precision of the sums; `empty` allocates what is returned in place of `numpy.empty`.
    """
    call, empty = _Call(plan, query, key, value, bias, sinks), empty or np.empty
    stored = call.dtype if wide else call.stored
    out, lse = empty((*query.shape[:2], value.shape[2]), stored), empty(query.shape[:2], call.dtype)
    call.plan.forward(call.arguments, seed_word(seed), _view(out), _address(lse), threads())
    return out if wide else out.astype(query.dtype, copy=False), lse


def backward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    seed: int | None,
    out: Array,
    lse: Array,
    grad_out: Array,
    grad_lse: Array | None = None,
    *,
    empty: Callable[..., Array] | None = None,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """The gradients of query, key, value, the bias array and the sinks, given those of `out` and perhaps of `lse`."""
    call, empty = _Call(plan, query, key, value, bias, sinks), empty or np.empty
    given = [call.ready(array) for array in (out, grad_out)]
    flat = [None if array is None else np.ascontiguousarray(array, call.dtype) for array in (lse, grad_lse)]
    grads = [empty(array.shape, call.stored) for array in call.arrays]
    rest = [None if array is None else np.zeros(array.shape, call.dtype) for array in (call.bias, call.sinks)]
    call.plan.backward(
        call.arguments, seed_word(seed), _view(given[0]), _address(flat[0]), _view(given[1]), _address(flat[1]),
        *map(_view, grads), *map(_address, rest), threads(),
    )  # fmt: skip
    sources = (query, key, value, bias, sinks)
    found = [
        None if grad is None or source is None else grad.astype(source.dtype, copy=False)
        for grad, source in zip((*grads, *rest), sources, strict=True)
    ]
    return tuple(found)  # type: ignore[return-value]


def look(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    lse: Array,
    aux: Aux,
) -> AuxOutput:
    """What `aux` asks for."""
    if aux.rows is None and aux.topk is None and not aux.key_sums:
        return AuxOutput(lse=lse if aux.lse else None)
    call = _Call(plan, query, key, value, bias, sinks)
    wanted = np.zeros(0, np.int64) if aux.rows is None else checked_rows(aux.rows, plan.total_queries)
    width = int(np.max(plan.spans.k_length, initial=0))
    rows = np.zeros((len(wanted), plan.heads, width), call.dtype)
    sums = np.zeros((plan.total_keys, plan.heads), call.dtype) if aux.key_sums else None
    shape = (plan.total_queries, plan.heads, aux.topk or 0)
    top = TopK(np.full(shape, -1, np.int64), np.zeros(shape, call.dtype))
    call.plan.inspect(
        call.arguments, _address(lse), wanted, _address(rows), width, _address(sums), aux.topk or 0,
        _address(top.keys), _address(top.weights), threads(),
    )  # fmt: skip
    return AuxOutput(
        lse=lse if aux.lse else None,
        rows=None if aux.rows is None else rows,
        topk=None if aux.topk is None else top,
        key_sums=sums,
    )


class _Call:
    """The arrays of a call as the kernel reads them, kept alive, and their addresses."""

    def __init__(
        self, plan: Plan, query: Array, key: Array, value: Array, bias: Array | None, sinks: Array | None
    ) -> None:
        self.dtype = np.dtype(np.float64 if query.dtype.itemsize >= 8 else np.float32)
        self.stored = query.dtype if query.dtype.type.__name__ in STORED else self.dtype
        self.arrays = [self.ready(array) for array in (query, key, value)]
        self.bias = None if bias is None else np.ascontiguousarray(bias, self.dtype)
        self.sinks = None if sinks is None else np.ascontiguousarray(sinks, self.dtype)
        found = lowered(plan, query.shape[-1], value.shape[-1])
        self.plan = found.plan
        self.mask = None if found.dense is None else host_array(found.dense.array)
        dense = distances = None
        if self.bias is not None:
            dense, distances = bias_arguments(plan, self.bias.shape, _strides(self.bias), _address(self.bias))
        mask = (
            None
            if self.mask is None
            else (_address(self.mask), *dense_layout(self.mask.shape, _strides(self.mask)))
        )
        self.arguments = (
            self.dtype.itemsize, *map(_view, self.arrays), mask, dense, distances, _address(self.sinks)
        )  # fmt: skip

    def ready(self, array: Array) -> Array:
        """The array itself where the kernel can read it as it lies, else a copy."""
        if array.dtype not in (self.stored, self.dtype):
            array = array.astype(self.dtype)
        size = array.itemsize
        whole = array.shape[-1] <= 1 or array.strides[-1] == size
        if whole and array.flags.aligned and not any(stride % size for stride in array.strides):
            return array
        return np.ascontiguousarray(array)


def _address(array: Array | None) -> int:
    return 0 if array is None else array.__array_interface__["data"][0]


def _strides(array: Array) -> tuple[int, ...]:
    return tuple(stride // array.itemsize for stride in array.strides)


def _view(array: Array) -> tuple[int, int, int, int]:
    """Address, row stride and head stride, in elements, and what these are."""
    row, head = array.strides[0] // array.itemsize, array.strides[1] // array.itemsize
    return _address(array), row, head, STORED[array.dtype.type.__name__]
