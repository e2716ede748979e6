"""A stack of blocks in training as one step of autograd: the kernel's calls one after the other, and nothing of PyTorch's between them.

`regard.nn.blocks` says what is computed; these are the same numbers. What autograd does for every layer takes as long, at usual
sizes, as the attention itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook

from regard._attention import choose, lower
from regard._lowering import lowered
from regard._packed import Packed
from regard._plan import Plan
from regard.nn._fused import Drop, address, is_fused, kernel, threads
from regard.nn._sequences import Sequences, values_of
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.feedforward import Dropout, FeedForward
from regard.nn.linear import Linear, dtype_of_products
from regard.nn.norm import RMSNorm
from regard.nn.rotary import Rotary

if TYPE_CHECKING:
    from regard.nn.blocks import Stack

ByBlocks = Callable[..., Tensor]
ATTENTION = (SelfAttention, CrossAttention)
KINDS = (nn.ModuleList, *ATTENTION, FeedForward, Linear, RMSNorm, Rotary, Dropout)


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
    halves: Sequence[Half]
    made: Any  # what the kernel makes of the halves
    turns: Tensor  # which `made` reads
    dtype: torch.dtype  # of what linear layers read


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
    if isinstance(x, Packed) and isinstance(source, Packed | None) and _may_train(stack, values, read):
        halves = stack.halves
        attention = next(half.layer for half in halves if isinstance(half.layer, SelfAttention))
        plans = _plans(attention, x, source, mask, key_sequence)
        weights = [weight for half in halves for weight in _weights(half.layer)]
        learning = any(one is not None and one.requires_grad for one in (values, read, *weights))
        if learning and plans is not None and _are_ready(turns, attention, values, read):
            dtype = dtype_of_products(values)
            sizes = *values.shape, dtype == torch.bfloat16
            made = kernel().Stack([_branch(half.layer, sizes, plans, turns, read) for half in halves])
            if all(map(_is_ready, weights, made.shapes)):
                return Steps.apply(Work(stack, by_blocks, halves, made, turns, dtype), values, read, *weights)
    return by_blocks(values, read)


class Steps(torch.autograd.Function):
    """The normalized sum of x (T, dim) and all branches, of which some read a source (S, dim)."""

    @staticmethod
    def forward(ctx: Any, work: Work, x: Tensor, source: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.work, ctx.drops = work, [half.dropout.drawn() for half in work.halves]
        eps = [half.norm.eps for half in work.halves] + [work.stack.norm.eps]
        out, scratch, kept = torch.empty_like(x), _room(work.made.scratch), [*map(_room, work.made.kept)]
        work.made.forward(
            address(x), address(source), [*map(address, weights)], eps, _arguments(ctx.drops), [*map(address, kept)], address(scratch),
            address(out), threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, source, *weights, work.turns, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a second derivative follows operations that have one
            return _differentiable_backward(ctx, grad)
        _, _, wants_source, *wanted = ctx.needs_input_grad
        x, source, *rest = ctx.saved_tensors
        weights, (_, *kept) = rest[: len(wanted)], rest[len(wanted) :]
        grad, grad_x, scratch = grad.contiguous(), torch.empty_like(x), _room(ctx.work.made.scratch)
        grad_source = torch.zeros_like(source) if wants_source else None
        grads = [
            torch.empty_like(weight) if wants else None for weight, wants in zip(weights, wanted, strict=True)
        ]
        ctx.work.made.backward(
            address(grad), address(x), address(source), [*map(address, weights)], _arguments(ctx.drops), [*map(address, kept)],
            address(scratch), address(grad_x), address(grad_source), [*map(address, grads)], threads(),
        )  # fmt: skip
        return None, grad_x, grad_source, *grads


def _arguments(drops: Sequence[Drop]) -> list[tuple[int, int, float]]:
    return [drop.arguments() for drop in drops]


def _room(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


class _ByBlocks(nn.Module):
    """The blocks' own way as a module, whose weights can be exchanged for those of an earlier call."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.stack, self.forward = work.stack, work.by_blocks


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients through the blocks themselves, with the weights and the dropout of the forward pass."""
    work: Work = ctx.work
    wanted = ctx.needs_input_grad[1:]
    # Views: inputs may have come from each other, and what happened outside is not to be differentiated here.
    inputs: list[Any] = [one if one is None else one.view_as(one) for one in ctx.saved_tensors[: len(wanted)]]
    module = _ByBlocks(work)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    now = [names[id(weight)] for half in work.stack.halves for weight in _weights(half.layer)]
    with (
        _drawn_again(work.halves, ctx.drops),
        torch.autocast("cpu", torch.bfloat16, work.dtype == torch.bfloat16),
    ):
        found = functional_call(module, dict(zip(now, inputs[2:], strict=True)), tuple(inputs[:2]))
    learning = [one for one, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
    # A weight that several layers share is found where it was named last.
    gradients = iter(torch.autograd.grad(found, learning, grad, create_graph=True, allow_unused=True))
    return None, *(next(gradients) if is_wanted else None for is_wanted in wanted)


@contextmanager
def _drawn_again(halves: Sequence[Half], drops: Sequence[Drop]) -> Iterator[None]:
    """While it lasts, every half drops what it dropped before."""
    again, dropouts = iter(drops), [half.dropout for half in halves]
    for dropout in dropouts:
        vars(dropout)["drawn"] = lambda: next(again)
    try:
        yield
    finally:
        for dropout in dropouts:
            vars(dropout).pop("drawn", None)


def _may_train(stack: Stack, *arrays: Tensor | None) -> bool:
    """Whether gradients are recorded, of numbers that the kernel reads, through layers as they were built."""
    given = [array for array in arrays if array is not None]
    if not torch.is_grad_enabled() or not is_fused(*given) or not _is_usual(stack):
        return False
    if torch.is_autocast_enabled("cpu") and dtype_of_products(given[0]) != torch.bfloat16:
        return False
    return all(array.ndim == 2 and len(array) and _lies_ready(array) for array in given)


def _lies_ready(array: Tensor) -> bool:
    """Whether the kernel reads an array where it lies; what a subclass of tensors holds only it knows."""
    plain = type(array) in (Tensor, nn.Parameter) and array.is_cpu and not array.is_neg()
    return plain and array.dtype == torch.float32 and array.is_contiguous()


def _is_usual(stack: Stack) -> bool:
    """Whether all layers are of the kinds that blocks are built of, attend with as many heads, and nobody looks into them."""
    from regard.nn.blocks import DecoderBlock, EncoderBlock  # which import this module

    heads = set()
    for module in _every(stack):
        if type(module) not in (*KINDS, EncoderBlock, DecoderBlock) and module is not stack:
            return False
        if module is not stack and "forward" in vars(module):  # replaced on this object alone
            return False
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            return False
        if type(module) is Linear and module.bias is not None:
            return False
        if type(module) in ATTENTION:
            heads.add((module.heads, module.kv_heads, module.head_dim))
            if module.seen or module.dropout or module.combine != "project":
                return False
    return len(heads) == 1 and not _has_any_global_hook()


def _every(module: nn.Module) -> Iterator[Any]:
    """A module and all within: `modules()` makes their names, too, which takes several times as long."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _every(child)


def _are_ready(turns: Tensor, attention: SelfAttention, values: Tensor, source: Tensor | None) -> bool:
    """Whether row t of the turns is that of token t, and the source is as wide as the tokens."""
    by_row = turns.shape == (len(values), 1, attention.head_dim // 2) and turns.dtype == torch.complex64
    if not by_row or not turns.is_cpu or not turns.is_contiguous() or turns.is_conj() or turns.is_neg():
        return False
    return source is None or source.shape[1] == values.shape[1]


def _is_ready(weight: Tensor, shape: tuple[int, int]) -> bool:
    return weight.shape == shape and _lies_ready(weight)


def _plans(
    attention: SelfAttention, x: Packed, source: Packed | None, mask: Any, key_sequence: Any
) -> list[Plan] | None:
    """What the kernel computes in every block's attention, within x and to the source; None where it is not chosen for that."""

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
    plans = [call.plan for call in calls]
    if any(choose(call, None) != "native" for call in calls):
        return None
    size = attention.head_dim
    return None if any(lowered(plan, size, size).dense for plan in plans) else plans


def _branch(
    layer: nn.Module,
    sizes: tuple[int, int, bool],
    plans: Sequence[Plan],
    turns: Tensor,
    source: Tensor | None,
) -> Any:
    """What the kernel makes of a layer for so many tokens of a width."""
    if isinstance(layer, SelfAttention):
        return kernel().Own(*sizes, *_heads(layer, plans[0]), 0 if layer.rotary is None else address(turns))
    if isinstance(layer, CrossAttention) and source is not None:
        return kernel().Across(*sizes, *_heads(layer, plans[1]), len(source))
    if isinstance(layer, FeedForward):
        return kernel().Feed(*sizes, layer.down.weight.shape[1])
    raise TypeError(f"expected a layer of a block. Received {type(layer).__name__}.")


def _heads(layer: SelfAttention | CrossAttention, plan: Plan) -> tuple[Any, int, int, int, float]:
    eps = -1.0 if layer.eps is None else layer.eps
    return (
        lowered(plan, layer.head_dim, layer.head_dim).plan,
        layer.heads,
        layer.kv_heads,
        layer.head_dim,
        eps,
    )


def _weights(layer: Any) -> list[Tensor]:
    """The matrices of one half of a block, in the order in which they are used."""
    if isinstance(layer, SelfAttention):
        return [layer.query_key_value.weight, layer.output.weight]
    if isinstance(layer, CrossAttention):
        return [layer.query.weight, layer.key_value.weight, layer.output.weight]
    return [layer.gate_up.weight, layer.down.weight]
