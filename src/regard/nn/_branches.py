"""The halves of a block by the kernel, one call for each and another for its gradients: what `regard.nn.attention` and `feedforward` say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard._lowering import lowered
from regard._plan import Plan
from regard.nn._fused import address, kernel, threads
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.feedforward import FeedForward


class Branch:
    """What a stack adds to its stream at one place; `weights` are the layer's matrices in the order in which they are used.

    Arguments: what the kernel has made of the layer, the weights, and whether products are those of bfloat16, written in it.
    """

    def __init__(self, made: Any, weights: list[Tensor], narrow: bool) -> None:
        self.made, self.weights = made, weights
        self.dtype = torch.bfloat16 if narrow else torch.float32

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is added, (T, dim), for a normalized x (T, dim), and what `backward` needs besides x."""
        kept, out = torch.empty(self.made.kept, dtype=torch.uint8), torch.empty_like(x)
        weights = [weight.data_ptr() for weight in self.weights]
        self.made.forward(x.data_ptr(), weights, kept.data_ptr(), out.data_ptr(), threads())
        return out, kept

    def backward(
        self, grad: Any, x: Tensor, kept: Tensor, grad_source: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients of x and of the weights, None for those that do not learn; that of a source is added to `grad_source`."""
        grad_x, scratch = torch.empty_like(x), torch.empty(self.made.scratch, dtype=torch.uint8)
        grads = [torch.empty_like(weight) if weight.requires_grad else None for weight in self.weights]
        weights = [weight.data_ptr() for weight in self.weights]
        self.made.backward(
            grad.data_ptr(), x.data_ptr(), weights, kept.data_ptr(), scratch.data_ptr(), grad_x.data_ptr(),
            [*map(address, grads)], address(grad_source), threads(),
        )  # fmt: skip
        return grad_x, grads


def feed(layer: FeedForward, rows: int, narrow: bool) -> Branch:
    """The feed-forward of `rows` tokens."""
    weights = weights_of(layer)
    return Branch(kernel().Feed(rows, weights[0].shape[1], narrow, weights[1].shape[1]), weights, narrow)


def own(layer: SelfAttention, rows: int, narrow: bool, plan: Plan, turns: Tensor | None) -> Branch:
    """Self-attention; row t of the turns is that of token t."""
    given = *_attention(layer, rows, narrow, plan), address(turns)
    return Branch(kernel().Own(*given), weights_of(layer), narrow)


def across(layer: CrossAttention, rows: int, narrow: bool, plan: Plan, source: Tensor) -> Branch:
    """Attention to a source (S, dim)."""
    given = *_attention(layer, rows, narrow, plan), address(source), len(source)
    return Branch(kernel().Across(*given), weights_of(layer), narrow)


def weights_of(layer: Any) -> list[Tensor]:
    """The matrices of one half of a block, in the order in which they are used."""
    if isinstance(layer, SelfAttention):
        return [layer.query_key_value.weight, layer.output.weight]
    if isinstance(layer, CrossAttention):
        return [layer.query.weight, layer.key_value.weight, layer.output.weight]
    return [layer.gate_up.weight, layer.down.weight]


def _attention(layer: SelfAttention | CrossAttention, rows: int, narrow: bool, plan: Plan) -> tuple[Any, ...]:
    eps = -1.0 if layer.eps is None else layer.eps
    made = lowered(plan, layer.head_dim, layer.head_dim).plan
    return rows, layer.dim, narrow, made, layer.heads, layer.kv_heads, layer.head_dim, eps
