"""The tiled formulation as one differentiable PyTorch function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from regard._aux import Aux, AuxOutput
from regard._plan import Plan
from regard.backends.torch import backward, forward, tangent
from regard.backends.torch import look as looking
from regard.backends.torch.scores import Inputs


class TiledAttention(torch.autograd.Function):
    """(out, lse) of one call; only inputs, output and lse are kept for the backward pass."""

    @staticmethod
    def forward(
        plan: Plan,
        seed: int | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        # The sums have a precision of their own, whatever autocast wants.
        with torch.autocast(query.device.type, enabled=False):
            return forward.forward(Inputs.of(plan, query, key, value, bias, sinks, seed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        plan, seed, *arrays = inputs
        ctx.plan, ctx.seed = plan, seed
        ctx.save_for_backward(*arrays, *output)
        ctx.save_for_forward(*arrays, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        *arrays, out, lse = ctx.saved_tensors
        with torch.autocast(out.device.type, enabled=False):
            inputs = Inputs.of(ctx.plan, *arrays, ctx.seed, grad_out)
            wants_bias = ctx.needs_input_grad[5]
            return None, None, *backward.backward(inputs, out, lse, grad_out, grad_lse, wants_bias)

    @staticmethod
    def jvp(ctx: Any, _plan: None, _seed: None, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        *arrays, out, lse = ctx.saved_tensors
        with torch.autocast(out.device.type, enabled=False):
            inputs = Inputs.of(ctx.plan, *arrays, ctx.seed, *tangents[:3])
            return tangent.tangent(inputs, out, lse, tangents)


def attend(
    plan: Plan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    seed: int | None,
) -> tuple[Tensor, Tensor]:
    """The output (T, H, Dv) and lse (T, H) of flat arrays (T, H, D), (S, J, D) and (S, J, Dv)."""
    arrays = (query, key, value, bias, sinks)
    if is_differentiated(*arrays):
        return TiledAttention.apply(plan, seed, *arrays)
    return TiledAttention.forward(plan, seed, *arrays)


def is_differentiated(*arrays: Tensor | None) -> bool:
    """Whether somebody may ask for a derivative of what is computed from these."""
    if torch.is_grad_enabled():
        for array in arrays:
            if array is not None and array.requires_grad:
                return True
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def brought(bias: Any, like: Tensor) -> Tensor | None:
    """The array of a bias, of any framework, as a tensor on the device of `like`."""
    return None if bias is None else torch.as_tensor(bias, device=like.device)


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
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        inputs = Inputs.of(plan, query, key, value, bias, sinks, None)
        return AuxOutput(
            lse if aux.lse else None,
            None if aux.rows is None else looking.row_weights(inputs, lse, aux.rows),
            None if aux.topk is None else looking.largest(inputs, lse, int(aux.topk)),
            looking.key_sums(inputs, lse) if aux.key_sums else None,
        )
