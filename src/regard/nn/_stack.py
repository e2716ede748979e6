"""A stack of blocks in training as one step of autograd: the kernel's calls one after the other, and nothing of PyTorch's between them.

`regard.nn.blocks` says what is computed; these are the same numbers. What autograd does for every layer takes as long, at usual
sizes, as the attention itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook

from regard._attention import choose, lower
from regard._packed import Packed
from regard._plan import Plan
from regard.nn import norm, residual
from regard.nn._branches import Across, Branch, Feed, Own, weights_of
from regard.nn._fused import NOTHING, is_fused
from regard.nn._sequences import Sequences, values_of
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.feedforward import Dropout, FeedForward
from regard.nn.linear import Linear, dtype_of_products
from regard.nn.norm import RMSNorm
from regard.nn.rotary import Rotary

if TYPE_CHECKING:
    from regard.nn.blocks import Stack

ByBlocks = Callable[..., Tensor]
KINDS = (nn.ModuleList, SelfAttention, CrossAttention, FeedForward, Linear, RMSNorm, Rotary, Dropout)

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Half(NamedTuple):
    """One half of a block: `x + dropout(layer(norm(x)))`."""

    norm: RMSNorm
    layer: nn.Module
    dropout: Dropout


@dataclass(frozen=True)
class Work:
    """One pass through a stack."""

    stack: Stack
    by_blocks: ByBlocks  # the same by the blocks themselves
    branches: Sequence[Branch]

    @property
    def dtype(self) -> torch.dtype:
        """Of what linear layers read."""
        return torch.bfloat16 if self.branches[0].narrow else torch.float32


def compute(
    stack: Stack,
    by_blocks: ByBlocks,
    x: Sequences,
    source: Sequences | None = None,
    *,
    mask: Any = None,
    key_sequence: Any = None,
    turns: Tensor,
) -> Tensor:
    """What `by_blocks` gives for the values of x and source, in one step where the kernel can train this stack."""
    values, read = values_of(x), None if source is None else values_of(source)
    if isinstance(x, Packed) and isinstance(source, Packed | None) and _is_trained(stack, values, read):
        plans = _plans(stack, x, source, mask, key_sequence)
        if plans is not None and _by_row(turns, values, stack):
            branches = _branches(stack, plans, turns, dtype_of_products(values), read)
            return Steps.apply(Work(stack, by_blocks, branches), values, read, *_weights(stack))
    return by_blocks(values, read)


class Steps(torch.autograd.Function):
    """The normalized sum of x (T, dim) and all branches, of which some read a source (S, dim)."""

    @staticmethod
    def forward(ctx: Any, work: Work, x: Tensor, source: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.work, ctx.random, ctx.drops, ctx.counts = work, torch.get_rng_state(), [], []
        halves, total = work.stack.halves, x
        norms = [half.norm for half in halves[1:]] + [work.stack.norm]
        normalized, roots = norm.by_kernel(x, halves[0].norm.eps, work.dtype)
        saved: list[Tensor | None] = []
        for branch, half, following in zip(work.branches, halves, norms, strict=True):
            added, kept = branch.forward(normalized)
            saved += [total, roots, *kept]
            ctx.counts.append(len(kept))
            ctx.drops.append(half.dropout.drawn())
            dtype = x.dtype if following is work.stack.norm else work.dtype
            total, normalized, roots = residual.by_kernel(total, added, following.eps, ctx.drops[-1], dtype)
        ctx.save_for_backward(x, source, *weights, *saved, total, roots)
        return normalized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a second derivative follows operations that have one
            return _differentiable_backward(ctx, grad)
        work: Work = ctx.work
        _, source, *saved = ctx.saved_tensors
        *saved, total, roots = saved[-2 - sum(ctx.counts) - 2 * len(ctx.counts) :]
        grad_source = torch.zeros_like(source) if ctx.needs_input_grad[2] else None
        grad_total, grad_normalized = None, grad
        found: list[Tensor | None] = []
        for branch, drop, count in zip(work.branches[::-1], ctx.drops[::-1], ctx.counts[::-1], strict=True):
            given = total, roots, grad_total, grad_normalized
            grad_total, grad_added = residual.backward(*given, drop, work.dtype)
            saved, (total, roots, *kept) = saved[: -2 - count], saved[-2 - count :]
            grad_normalized, gradients = branch.backward(grad_added, kept, grad_source)
            found[:0] = gradients
        grad_x, _ = residual.backward(total, roots, grad_total, grad_normalized, NOTHING, total.dtype)
        return None, grad_x, grad_source, *found


class _ByBlocks(nn.Module):
    """The blocks' own way as a module, whose weights can be exchanged for those of an earlier call."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.stack, self.forward = work.stack, work.by_blocks


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients through the blocks themselves, with the weights and the dropout of the forward pass."""
    work: Work = ctx.work
    inputs = ctx.saved_tensors[: len(ctx.needs_input_grad) - 1]
    module = _ByBlocks(work)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    now = [names[id(weight)] for weight in _weights(work.stack)]
    with (
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", torch.bfloat16, work.dtype == torch.bfloat16),
    ):
        torch.set_rng_state(ctx.random)
        found = functional_call(module, dict(zip(now, inputs[2:], strict=True)), inputs[:2])
    wanted = ctx.needs_input_grad[1:]
    learning = [one for one, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
    gradients = iter(torch.autograd.grad(found, learning, grad, create_graph=True))
    return None, *(next(gradients) if is_wanted else None for is_wanted in wanted)


def _is_trained(stack: Stack, values: Tensor, source: Tensor | None) -> bool:
    """Whether a gradient is wanted, of numbers that the kernel multiplies, through layers as they were built."""
    arrays = [values] if source is None else [values, source]
    if not torch.is_grad_enabled() or not is_fused(*arrays) or not _is_usual(stack):
        return False
    if torch.is_autocast_enabled("cpu") and dtype_of_products(values) != torch.bfloat16:
        return False
    weights = _weights(stack)
    wide = all(one.dtype == torch.float32 and one.is_cpu for one in (*arrays, *weights))
    return wide and all(map(len, arrays)) and any(one.requires_grad for one in (*arrays, *weights))


def _is_usual(stack: Stack) -> bool:
    """Whether all layers are of the kinds that blocks are built of, attend with as many heads, and nobody looks into them."""
    heads = set()
    for module in stack.modules():
        if type(module) not in KINDS and type(module) is not stack.block and module is not stack:
            return False
        if any(getattr(module, hooks) for hooks in HOOKS):
            return False
        if isinstance(module, Linear) and module.bias is not None:
            return False
        if isinstance(module, SelfAttention | CrossAttention):
            heads.add((module.heads, module.kv_heads, module.head_dim))
            if module.seen is not None or module.dropout or module.combine != "project":
                return False
    return len(heads) == 1 and not _has_any_global_hook()


def _plans(stack: Stack, x: Packed, source: Packed | None, mask: Any, key_sequence: Any) -> list[Plan] | None:
    """What the kernel computes in every block's attention, within x and to the source; None where it is not chosen for that."""
    attention = _attention(stack)

    def room(tokens: Tensor, heads: int) -> Tensor:
        return tokens.new_empty((len(tokens), heads, attention.head_dim))

    query, key = room(x.values, attention.heads), room(x.values, attention.kv_heads)
    layouts = [(key, x.offsets, None, mask)]
    if source is not None:
        layouts.append((room(source.values, attention.kv_heads), source.offsets, key_sequence, None))
    calls = [
        lower(
            query, keys, keys, mask=mask, bias=None, cu_seqlens_q=x.offsets, cu_seqlens_k=offsets, key_sequence=reads,
            query_start=None, scale=None, softcap=None, sinks=None, dropout_p=0.0, seed=None,
        )
        for keys, offsets, reads, mask in layouts
    ]  # fmt: skip
    if any(choose(call, None) != "native" for call in calls):
        return None
    return [call.plan for call in calls]


def _attention(stack: Stack) -> SelfAttention:
    return next(half.layer for half in stack.halves if isinstance(half.layer, SelfAttention))


def _by_row(turns: Tensor, values: Tensor, stack: Stack) -> bool:
    """Whether row t of the turns is that of token t."""
    shape = (len(values), 1, _attention(stack).head_dim // 2)
    return turns.shape == shape and turns.is_contiguous() and not turns.is_conj()


def _branches(
    stack: Stack, plans: Sequence[Plan], turns: Tensor, dtype: torch.dtype, source: Tensor | None
) -> list[Branch]:
    narrow = dtype == torch.bfloat16
    found: list[Branch] = []
    for _, layer, _ in stack.halves:
        if isinstance(layer, SelfAttention):
            found.append(Own(layer, narrow, plans[0], None if layer.rotary is None else turns))
        elif isinstance(layer, CrossAttention) and source is not None:
            found.append(Across(layer, narrow, plans[1], source))
        else:
            found.append(Feed(layer, narrow))
    return found


def _weights(stack: Stack) -> list[Tensor]:
    return [weight for half in stack.halves for weight in weights_of(half.layer)]
