"""The C++ kernel on PyTorch's CPU tensors, as a differentiable function; higher derivatives come from the tiled formulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from regard._aux import Aux, AuxOutput, TopK, checked_rows
from regard._lowering import STORED, bias_arguments, dense_layout, lowered, seed_word, threads
from regard._plan import Plan
from regard.backends.torch.backward import backward
from regard.backends.torch.function import TiledAttention, is_differentiated
from regard.backends.torch.scores import Inputs
from regard.backends.torch.tangent import tangent

_STORED = {getattr(torch, name): number for name, number in STORED.items()}


class NativeAttention(torch.autograd.Function):
    """(out, lse) of one call; only inputs, output and lse are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, seed: int | None, *arrays: Any) -> tuple[Tensor, Tensor]:
        call = _Call(plan, *arrays)
        # The rounding of the output that the backward pass starts from would be multiplied by the mean of the keys.
        wide, lse = call.forward(
            seed, call.dtype if call.is_narrow and call.plan.backward_reads_out else call.stored
        )
        out = wide.to(arrays[0].dtype)
        ctx.plan, ctx.seed = plan, seed
        ctx.save_for_backward(*arrays, out, lse, *(() if out is wide else (wide,)))
        ctx.save_for_forward(*arrays, out, lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx, grad_out, grad_lse)
        query, key, value, bias, sinks, out, lse, *wide = ctx.saved_tensors
        call = _Call(ctx.plan, query, key, value, bias, sinks)
        given = *wide, out
        grads = call.backward(ctx.seed, given[0], lse, grad_out, grad_lse, wants_bias=ctx.needs_input_grad[5])
        return None, None, *grads

    @staticmethod
    def jvp(ctx: Any, _plan: None, _seed: None, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        *arrays, out, lse = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            query, key, value, bias, sinks = _flat(arrays)
            inputs = Inputs.of(ctx.plan, query, key, value, bias, sinks, ctx.seed, *tangents[:3])
            found = tangent(inputs, _flat_rows(out), lse.flatten(0, -2), _flat(tangents))
        return found[0].view_as(out), found[1].view_as(lse)


def _differentiable_backward(
    ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients by the tiled formulation's operations, which have gradients themselves."""
    *arrays, out, lse = ctx.saved_tensors[:7]
    with torch.autocast("cpu", enabled=False):
        grad_out = None if grad_out is None else _flat_rows(grad_out)
        grad_lse = None if grad_lse is None else grad_lse.flatten(0, -2)
        query, key, value, bias, sinks = _flat(arrays)
        inputs = Inputs.of(ctx.plan, query, key, value, bias, sinks, ctx.seed, grad_out)
        flat = _flat_rows(out), lse.flatten(0, -2), grad_out, grad_lse
        grads = backward(inputs, *flat, ctx.needs_input_grad[5])
    shaped = (
        grad if grad is None or array is None else grad.view(array.shape)
        for grad, array in zip(grads, arrays, strict=True)
    )
    return None, None, *shaped


def _flat(arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Query, key and value flattened, bias and sinks as they are."""
    return *(None if array is None else _flat_rows(array) for array in arrays[:3]), *arrays[3:]


def _flat_rows(array: Tensor) -> Tensor:
    """(..., T, H, D) -> (total, H, D)."""
    return array if array.ndim == 3 else array.reshape(array.shape[:-2].numel(), *array.shape[-2:])


class TransformedAttention(NativeAttention):
    """The same where `torch.func` transforms are at work; they ask for this form, which costs more a call."""

    @staticmethod
    def forward(plan: Plan, seed: int | None, *arrays: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return compute(plan, seed, *arrays)

    setup_context = TiledAttention.setup_context


def compute(
    plan: Plan,
    seed: int | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    *,
    wide: bool = False,
) -> tuple[Tensor, Tensor]:
    """The output (..., T, H, Dv) and lse (..., T, H) of arrays (..., T, H, D), (..., S, J, D) and (..., S, J, Dv).

    `wide`: the output in the precision of the sums, not in the query's.
    """
    call = _Call(plan, query, key, value, bias, sinks)
    out, lse = call.forward(seed, call.dtype if wide else call.stored)
    return out if wide or out.dtype is query.dtype else out.to(query.dtype), lse


class _Call:
    """The tensors of a call as the kernel reads them, kept alive, and their addresses."""

    __slots__ = ("arguments", "arrays", "bias", "dtype", "given", "mask", "plan", "sinks", "stored")

    def __init__(
        self, plan: Plan, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, sinks: Tensor | None
    ) -> None:
        self.dtype = dtype = torch.float64 if query.dtype is torch.float64 else torch.float32
        self.stored = stored = query.dtype if query.dtype in _STORED else dtype
        self.given = (query, key, value, bias, sinks)
        self.arrays = query, key, value = _ready(query, stored), _ready(key, stored), _ready(value, stored)
        self.bias = None if bias is None else _whole(bias, dtype)
        self.sinks = None if sinks is None else _whole(sinks, dtype)
        found = lowered(plan, query.shape[-1], value.shape[-1])
        self.plan = found.plan
        self.mask = mask = dense = distances = None
        if found.dense is not None:
            self.mask = torch.as_tensor(found.dense.array, device="cpu")
            mask = (self.mask.data_ptr(), *dense_layout(tuple(self.mask.shape), self.mask.stride()))
        if self.bias is not None:
            layout = tuple(self.bias.shape), self.bias.stride()
            dense, distances = bias_arguments(plan, *layout, self.bias.data_ptr())
        size = 8 if dtype is torch.float64 else 4
        self.arguments = (
            size, _view(query), _view(key), _view(value), mask, dense, distances, _address(self.sinks)
        )  # fmt: skip

    @property
    def is_narrow(self) -> bool:
        """Whether the arrays lie narrower than they are computed with."""
        return self.stored is not self.dtype

    def _read(self, array: Tensor) -> torch.dtype:
        """In what numbers the kernel reads an array: its own, where it can."""
        return array.dtype if array.dtype is self.stored else self.dtype

    def forward(self, seed: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The output in `dtype`, either that of the arrays or that of the sums, and the lse."""
        query, _, value, *_ = self.given
        shape = query.shape[:-1]
        out, lse = torch.empty((*shape, value.shape[-1]), dtype=dtype), torch.empty(shape, dtype=self.dtype)
        self.plan.forward(self.arguments, seed_word(seed), _view(out), lse.data_ptr(), threads())
        return out, lse

    def backward(
        self,
        seed: int | None,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        *,
        wants_bias: bool,
    ) -> tuple[Tensor | None, ...]:
        """Gradients of query, key, value, bias and sinks, each in its own dtype."""
        out = _ready(out, self._read(out))
        grad_out = torch.zeros_like(out) if grad_out is None else _ready(grad_out, self._read(grad_out))
        grad_lse = None if grad_lse is None else _whole(grad_lse, self.dtype)
        grads = [_empty_like(array, self.stored) for array in self.given[:3]]
        rest = [
            torch.zeros_like(self.bias) if self.bias is not None and wants_bias else None,
            None if self.sinks is None else torch.empty_like(self.sinks),
        ]
        self.plan.backward(
            self.arguments, seed_word(seed), _view(out), lse.data_ptr(), _view(grad_out), _address(grad_lse),
            *map(_view, grads), *map(_address, rest), threads(),
        )  # fmt: skip
        if self.given[0].dtype is self.stored and self.bias is None and self.sinks is None:
            return *grads, None, None
        return tuple(
            None if grad is None or given is None else grad.to(given.dtype)
            for grad, given in zip((*grads, *rest), self.given, strict=True)
        )


def _ready(array: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself, or flattened to (total, H, D), where the kernel can read it as it lies; else a copy."""
    if array.dtype is not dtype:
        array = array.detach().to(dtype)
    if array.is_neg():  # negated when somebody looks
        array = array.detach().resolve_neg()
    if array.shape[-1] > 1 and array.stride(-1) != 1:
        array = array.detach().contiguous()
    return array if array.ndim == 3 or array.is_contiguous() else array.detach().flatten(0, -3)


def _empty_like(array: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor of this shape; the short way where there is one."""
    if array.dtype is dtype and array.is_contiguous():
        return torch.empty_like(array)
    return torch.empty(array.shape, dtype=dtype)


def _whole(array: Tensor, dtype: torch.dtype) -> Tensor:
    return array.detach().to(dtype).resolve_neg().contiguous()


def attend(
    plan: Plan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    seed: int | None,
) -> tuple[Tensor, Tensor]:
    """As `compute`, differentiable."""
    if peek_interpreter_stack() is not None:
        return TransformedAttention.apply(plan, seed, query, key, value, bias, sinks)
    if is_differentiated(query, key, value, bias, sinks):
        return NativeAttention.apply(plan, seed, query, key, value, bias, sinks)
    return compute(plan, seed, query, key, value, bias, sinks)


@torch.no_grad()
def look(
    plan: Plan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    lse: Tensor,
    aux: Aux,
) -> AuxOutput:
    """What `aux` asks for, flat: (R, H, S), (T, H, k), (S, H); recomputed from the lse, no gradient is recorded."""
    if aux.rows is None and aux.topk is None and not aux.key_sums:
        return AuxOutput(lse=lse if aux.lse else None)
    call = _Call(plan, query, key, value, bias, sinks)
    wanted = np.zeros(0, np.int64) if aux.rows is None else checked_rows(aux.rows, plan.total_queries)
    width = int(np.max(plan.spans.k_length, initial=0))
    rows = torch.zeros((len(wanted), plan.heads, width), dtype=call.dtype)
    sums = torch.zeros((plan.total_keys, plan.heads), dtype=call.dtype) if aux.key_sums else None
    shape = (plan.total_queries, plan.heads, aux.topk or 0)
    top = TopK(torch.full(shape, -1), torch.zeros(shape, dtype=call.dtype))
    call.plan.inspect(
        call.arguments, lse.data_ptr(), wanted, rows.data_ptr(), width, _address(sums), aux.topk or 0,
        top.keys.data_ptr(), top.weights.data_ptr(), threads(),
    )  # fmt: skip
    return AuxOutput(
        lse=lse if aux.lse else None,
        rows=None if aux.rows is None else rows,
        topk=None if aux.topk is None else top,
        key_sums=sums,
    )


def _address(array: Tensor | None) -> int:
    return 0 if array is None else array.data_ptr()


def _view(array: Tensor) -> tuple[int, int, int, int]:
    """Address, row stride and head stride, in elements, and what these are, of a tensor (total, H, D) or of a contiguous one (..., T, H, D)."""
    if array.ndim == 3:
        row, head, _ = array.stride()
        return array.data_ptr(), row, head, _STORED[array.dtype]
    # A dimension of one token may have any stride.
    heads, size = array.shape[-2:]
    return array.data_ptr(), heads * size, size, _STORED[array.dtype]
