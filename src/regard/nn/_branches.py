"""The halves of a block by the kernel alone, forward and backward: what `regard.nn.attention` and `feedforward` compute, without autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard._plan import Plan
from regard.backends.torch.native import NativeCall
from regard.nn import _gate, _heads
from regard.nn._products import product
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.linear import input_gradient, linear, weight_gradient

Kept = tuple[Tensor | None, ...]
Gradients = tuple[Tensor | None, ...]


def weights_of(layer: Any) -> tuple[Tensor, ...]:
    """The matrices of one half of a block, in the order in which they are used."""
    if isinstance(layer, SelfAttention):
        return layer.query_key_value.weight, layer.output.weight
    if isinstance(layer, CrossAttention):
        return layer.query.weight, layer.key_value.weight, layer.output.weight
    return layer.gate_up.weight, layer.down.weight


class Branch:
    """What a stack adds to its stream at one place; `narrow`: products of bfloat16, written in it."""

    def __init__(self, layer: nn.Module, narrow: bool) -> None:
        self.weights, self.narrow = weights_of(layer), narrow

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        """What is added, (T, dim), for a normalized x (T, dim), and what `backward` needs."""
        raise NotImplementedError

    def backward(self, grad: Any, kept: Any, grad_source: Tensor | None) -> tuple[Tensor, Gradients]:
        """The gradients of x and of the weights, None for those that do not learn; that of a source is added to `grad_source`."""
        raise NotImplementedError


class Feed(Branch):
    """A feed-forward."""

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        into, out_of = self.weights
        wide = linear(x, into, self.narrow)
        gated = _gate.by_kernel(wide)
        return linear(gated, out_of, self.narrow), (x, wide, gated)

    def backward(self, grad: Any, kept: Any, _: Tensor | None) -> tuple[Tensor, Gradients]:
        into, out_of = self.weights
        x, wide, gated = kept
        grad_out_of = weight_gradient(grad, gated, out_of, self.narrow)
        found = _gate.gradient(wide, input_gradient(grad, gated, out_of, self.narrow))
        grad_into = weight_gradient(found, x, into, self.narrow)
        return input_gradient(found, x, into, self.narrow), (grad_into, grad_out_of)


class Own(Branch):
    """Self-attention: queries, keys and values lie in one buffer, and their gradients in another."""

    def __init__(self, layer: SelfAttention, narrow: bool, plan: Plan, turns: Tensor | None) -> None:
        super().__init__(layer, narrow)
        self.plan, self.turns, self.eps, self.head_dim = plan, turns, layer.eps, layer.head_dim
        self.sizes = [layer.heads, layer.kv_heads, layer.kv_heads]

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        into, out_of = self.weights
        heads = _cut(linear(x, into, self.narrow), self.head_dim)
        roots = _heads.change(heads, sum(self.sizes[:2]), self.eps, self.turns)
        context, lse = _attend(self.plan, *heads.split(self.sizes, 1))
        return linear(_joined(context), out_of, self.narrow), (x, heads, roots, context, lse)

    def backward(self, grad: Any, kept: Any, _: Tensor | None) -> tuple[Tensor, Gradients]:
        into, out_of = self.weights
        x, heads, roots, context, lse = kept
        grad_out_of = weight_gradient(grad, _joined(context), out_of, self.narrow)
        grad_context = input_gradient(grad, _joined(context), out_of, self.narrow)
        found = torch.empty_like(heads)
        places = found.split(self.sizes, 1)
        _attend_backward(self.plan, heads.split(self.sizes, 1), context, lse, grad_context, places)
        _heads.change_backward(heads, sum(self.sizes[:2]), roots, self.eps, self.turns, found)
        grad_into = weight_gradient(_joined(found), x, into, self.narrow)
        return input_gradient(_joined(found), x, into, self.narrow), (grad_into, grad_out_of)


class Across(Branch):
    """Attention to a source (S, dim)."""

    def __init__(self, layer: CrossAttention, narrow: bool, plan: Plan, source: Tensor) -> None:
        super().__init__(layer, narrow)
        self.plan, self.source, self.eps, self.head_dim = plan, source, layer.eps, layer.head_dim
        self.kv_heads = layer.kv_heads

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        query_into, into, out_of = self.weights
        query = linear(x, query_into, self.narrow)
        # Queries are normalized over all heads together, as if these were one.
        roots = _heads.change(query.unsqueeze(1), 1, self.eps, None)
        pair = _cut(linear(self.source, into, self.narrow), self.head_dim)
        key_roots = _heads.change(pair, self.kv_heads, self.eps, None)
        context, lse = _attend(self.plan, _cut(query, self.head_dim), *pair.split(self.kv_heads, 1))
        return linear(_joined(context), out_of, self.narrow), (x, query, roots, pair, key_roots, context, lse)

    def backward(self, grad: Any, kept: Any, grad_source: Tensor | None) -> tuple[Tensor, Gradients]:
        query_into, into, out_of = self.weights
        x, query, roots, pair, key_roots, context, lse = kept
        grad_out_of = weight_gradient(grad, _joined(context), out_of, self.narrow)
        grad_context = input_gradient(grad, _joined(context), out_of, self.narrow)
        found, found_pair = torch.empty_like(query), torch.empty_like(pair)
        given = _cut(query, self.head_dim), *pair.split(self.kv_heads, 1)
        places = _cut(found, self.head_dim), *found_pair.split(self.kv_heads, 1)
        _attend_backward(self.plan, given, context, lse, grad_context, places)
        _heads.change_backward(query.unsqueeze(1), 1, roots, self.eps, None, found.unsqueeze(1))
        _heads.change_backward(pair, self.kv_heads, key_roots, self.eps, None, found_pair)
        grad_query_into = weight_gradient(found, x, query_into, self.narrow)
        grad_into = weight_gradient(_joined(found_pair), self.source, into, self.narrow)
        if grad_source is not None:
            product(_joined(found_pair), into, grad_source, add=True, rounds=self.narrow)
        grad_x = input_gradient(found, x, query_into, self.narrow)
        return grad_x, (grad_query_into, grad_into, grad_out_of)


def _cut(x: Tensor, head_dim: int) -> Tensor:
    """(T, heads * head_dim) -> (T, heads, head_dim)."""
    return x.view(len(x), -1, head_dim)


def _joined(heads: Tensor) -> Tensor:
    """(T, heads, head_dim) -> (T, heads * head_dim)."""
    return heads.view(len(heads), -1)


def _attend(plan: Plan, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    call = NativeCall(plan, query, key, value, None, None)
    return call.forward(None, call.dtype_kept)


def _attend_backward(
    plan: Plan,
    given: Sequence[Tensor],
    context: Tensor,
    lse: Tensor,
    grad_context: Tensor,
    places: Sequence[Tensor],
) -> None:
    """The gradients of query, key and value, in their `places`."""
    query, key, value = given
    grad_context = grad_context.view(context.shape)
    NativeCall(plan, query, key, value, None, None).backward(
        None, context, lse, grad_context, None, places=places
    )
