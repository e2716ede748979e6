"""The tiled formulation as one differentiable PyTorch function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from regard._biases import Bias, DenseBias
from regard._errors import BackendError
from regard._plan import Plan
from regard.backends.torch import backward, forward, tangent
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
            return None, None, *backward.backward(inputs, out, lse, grad_out, grad_lse)

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
    if _is_differentiated(*arrays):
        return TiledAttention.apply(plan, seed, *arrays)
    return TiledAttention.forward(plan, seed, *arrays)


def _is_differentiated(*arrays: Tensor | None) -> bool:
    tensors = [array for array in arrays if array is not None]
    if torch.is_grad_enabled() and any(array.requires_grad for array in tensors):
        return True
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def dense_bias(bias: Bias, like: Tensor) -> Tensor:
    """A bias as a tensor (N or 1, H or 1, T, S) on the device of `like`."""
    if not isinstance(bias, DenseBias):
        raise BackendError(f"the tiled backend cannot compute a {type(bias).__name__}; expected a DenseBias.")
    array = torch.as_tensor(bias.array, device=like.device)
    return array.reshape((1,) * (4 - array.ndim) + tuple(array.shape))


def row_weights(
    plan: Plan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    lse: Tensor,
    rows: Any,
) -> Tensor:
    """Weights (R, H, longest key span) of the chosen query tokens, recomputed from the lse; no gradient is recorded."""
    with torch.no_grad():
        return forward.row_weights(Inputs.of(plan, query, key, value, bias, sinks, None), lse, rows)
