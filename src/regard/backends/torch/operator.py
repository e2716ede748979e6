"""Attention as operators of PyTorch's own library: one node for tracers, which see shapes and never offsets.

`regard::attention` and `regard::attention_backward` take flat arrays (T, H, D), (S, J, D) and (S, J, Dv), and the rest of
the call as `regard._form` writes it. Where they run, offsets have numbers again, and a plan is made of them. The output has the
precision of the sums, from which the backward pass starts; `attend` rounds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.library import Library

from regard._biases import Bias
from regard._errors import RegardError
from regard._form import bias_array, written
from regard._masks import Mask
from regard.backends.torch import function, native
from regard.backends.torch.operator_call import Call
from regard.backends.torch.operator_rules import bias_gradient, mapped

Shape = Sequence[int]

# `places` is the shape of a padded array without heads and size, (..., T), and empty for packed ones.
_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? sinks, Tensor? seed, Tensor[] arrays, SymInt[] numbers, "
    "SymInt[] q_places, SymInt[] k_places, float? scale, float? softcap, float dropout_p, str form"
)
_LIBRARY = Library("regard", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIBRARY.define(f"attention({_ARGUMENTS}) -> (Tensor, Tensor)", tags=_TAGS)
_LIBRARY.define(
    "attention_backward(Tensor? grad_out, Tensor? grad_lse, Tensor out, Tensor lse, bool wants_bias, "
    f"{_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=_TAGS,
)


def attend(
    arrays: tuple[Tensor, Tensor, Tensor],
    bias: Bias | None,
    sinks: Tensor | None,
    seed: Any,
    places: tuple[Shape, Shape],
    layout: Sequence[Any],
    mask: Mask | None,
    scale: float | None,
    softcap: float | None,
    dropout_p: float,
    backends: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """The output (T, H, Dv) and lse (T, H) of flat arrays, for any tracer; `layout` is as `regard._form.written` takes it."""
    form, others, numbers = written(backends, layout, mask, bias, torch.as_tensor)
    like = arrays[0]
    given = None if bias is None else function.brought(bias_array(bias), like)
    tensors = (*arrays, given, function.brought(sinks, like), _seed_tensor(seed, dropout_p))
    rest = (numbers, *places, scale, softcap, dropout_p, form)
    if not torch.compiler.is_dynamo_compiling() and peek_interpreter_stack() is not None:
        out, lse = TransformedOperator.apply(rest, *tensors, *others)
    else:
        out, lse = torch.ops.regard.attention(*tensors, others, *rest)
    return out.to(like.dtype), lse


def _seed_tensor(seed: Any, dropout_p: float) -> Tensor | None:
    if seed is None or not dropout_p:
        return None
    if isinstance(seed, int | torch.SymInt):
        # Its low 64 bits count, also where it is no int64; by words, because a symbolic number can't be compared.
        words: list[Any] = [(seed // 2**32) % 2**32, seed % 2**32]
        return torch.full((), words[0], dtype=torch.int64) * 2**32 + words[1]
    return torch.as_tensor(seed)


class TransformedOperator(torch.autograd.Function):
    """The operator where `torch.func` transforms are at work, for which what the library derives has no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rest: tuple[Any, ...], *tensors: Any) -> tuple[Tensor, Tensor]:
        return torch.ops.regard.attention(*tensors[:6], list(tensors[6:]), *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        rest, *tensors = inputs
        _setup_context(ctx, (*tensors[:6], tensors[6:], *rest), output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = _gradients(ctx, TransformedBackward.apply, ctx.needs_input_grad[4], *grads)
        return None, *found, *([None] * (len(ctx.needs_input_grad) - 6))


class TransformedBackward(torch.autograd.Function):
    """Its backward pass, which `torch.func` transforms differentiate whether or not anybody asks for that."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*given: Any) -> tuple[Tensor, ...]:
        *before, arrays = given[:12]
        return torch.ops.regard.attention_backward(*before, list(arrays), *given[12:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> None:
        _refuse_second(ctx, *grads)


def _forward(*call: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        made = Call(*call)
        if made.room is native:
            return native.compute(made.plan, made.seed, *made.arrays, wide=True)
        out, lse = made.room.attend(made.plan, *made.arrays, made.seed)
        return out.to(lse.dtype), lse


def _backward(
    grad_out: Tensor | None, grad_lse: Tensor | None, out: Tensor, lse: Tensor, wants_bias: bool, *call: Any
) -> tuple[Tensor, ...]:
    with torch.no_grad():
        made = Call(*call)
        context = SimpleNamespace(
            plan=made.plan,
            seed=made.seed,
            saved_tensors=(*made.arrays, out, lse.contiguous()),
            needs_input_grad=(False,) * 5 + (wants_bias, True),
        )
        kind = native.NativeAttention if made.room is native else function.TiledAttention
        *grads, bias, sinks = kind.backward(context, grad_out, grad_lse)[2:]
        if bias is not None and made.bias is not None:
            bias = bias_gradient(made.bias, made.plan.distances, bias)
    return tuple(out.new_empty(0) if grad is None else grad.contiguous() for grad in (*grads, bias, sinks))


def _fake(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    total, heads = query.shape[:2]
    precision = torch.float64 if query.dtype == torch.float64 else torch.float32
    out, lse = ((total, heads, value.shape[2]), (total, heads))
    return query.new_empty(out, dtype=precision), query.new_empty(lse, dtype=precision)


def _fake_backward(*given: Any) -> tuple[Tensor, ...]:
    wants_bias, query, key, value, bias, sinks = given[4:10]
    wanted = (query, key, value, bias if wants_bias else None, sinks)
    return tuple(query.new_empty(0) if array is None else array.new_empty(array.shape) for array in wanted)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, arrays = inputs[:7]
    ctx.rest = inputs[7:]
    ctx.save_for_backward(*tensors, *arrays, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    run = torch.ops.regard.attention_backward
    found = _gradients(ctx, run, ctx.needs_input_grad[3], *grads)
    # PyTorch takes any empty list for one of tensors.
    rest: list[Any] = [[] if isinstance(given, list) and not given else None for given in ctx.rest]
    return *found, None, [None] * (len(ctx.saved_tensors) - 8), *rest


def _gradients(
    ctx: Any, run: Any, wants_bias: bool, grad_out: Tensor | None, grad_lse: Tensor | None
) -> list[Tensor | None]:
    """Of query, key, value, bias and sinks."""
    *tensors, out, lse = ctx.saved_tensors
    given, arrays = tensors[:6], tensors[6:]
    wants_bias = wants_bias and given[3] is not None
    found = run(grad_out, grad_lse, out, lse, wants_bias, *given, arrays, *ctx.rest)
    present = (True, True, True, wants_bias, given[4] is not None)
    return [grad if some else None for grad, some in zip(found, present, strict=True)]


def _refuse_second(_ctx: Any, *_grads: Any) -> None:
    raise RegardError(
        "second derivatives of attention can't be traced or mapped. Expected one backward pass; take second derivatives "
        "in eager mode, outside torch.compile and torch.func.vmap."
    )


for _name, _run, _look in (("attention", _forward, _fake), ("attention_backward", _backward, _fake_backward)):
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"regard::{_name}", _look, lib=_LIBRARY)
    torch.library.register_vmap(f"regard::{_name}", mapped(_name), lib=_LIBRARY)
torch.library.register_autograd(
    "regard::attention", _differentiate, setup_context=_setup_context, lib=_LIBRARY
)
torch.library.register_autograd("regard::attention_backward", _refuse_second, lib=_LIBRARY)
