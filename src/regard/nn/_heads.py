"""From a projection to heads: views of one buffer, whose queries and keys are normalized and turned where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from regard.nn._fused import BYTES, address, is_fused, kernel, threads
from regard.nn.linear import Linear
from regard.nn.norm import normalize
from regard.nn.rotary import turn


def project_heads(
    layer: nn.Module,
    x: Tensor,
    head_dim: int,
    sizes: Sequence[int],
    changed: int,
    eps: float | None,
    turns: Tensor | None,
) -> tuple[Tensor, ...]:
    """`layer(x)` cut into groups of heads (..., size, head_dim), one for each of `sizes`.

    Arguments:
        layer: (..., dim) -> (..., sum(sizes) * head_dim).
        x: (..., dim).
        head_dim: size of one head.
        sizes: heads of each group.
        changed: how many of the groups, from the first, are normalized and turned.
        eps: that of their normalization; None: they are not normalized.
        turns: (..., 1, head_dim / 2) complex, of each token's position; None: they are not turned.
    """
    projected = layer(x)
    turns = _prepared(turns, projected)
    if not is_fused(projected) or not _reads(turns, projected, head_dim):
        groups = projected.unflatten(-1, (-1, head_dim)).split(sizes, dim=-2)
        return *(_plain(group, eps, turns) for group in groups[:changed]), *groups[changed:]
    if _is_seen(layer) or not projected.is_contiguous():
        projected = projected.clone(memory_format=torch.contiguous_format)
    if torch.is_grad_enabled() and projected.requires_grad:
        return _Heads.apply(projected, head_dim, sizes, changed, eps, turns)[:-1]
    return _compute(projected, head_dim, sizes, changed, eps, turns)[0]


def _plain(group: Tensor, eps: float | None, turns: Tensor | None) -> Tensor:
    group = group if eps is None else normalize(group, eps)
    return group if turns is None else turn(group, turns)


def _is_seen(layer: nn.Module) -> bool:
    """Whether anybody but us may hold on to what the layer gives: a linear layer's output is new, a hook may keep it."""
    return type(layer) is not Linear or bool(layer._forward_hooks)


def _prepared(turns: Tensor | None, projected: Tensor) -> Tensor | None:
    wide = torch.complex128 if projected.dtype == torch.float64 else torch.complex64
    return None if turns is None else turns.to(wide)


def _reads(turns: Tensor | None, projected: Tensor, head_dim: int) -> bool:
    """Whether row r of the turns, counted round, is that of token r."""
    if turns is None:
        return True
    tokens, rows = projected.shape[:-1], turns.shape[:-2]
    each = turns.shape[-2:] == (1, head_dim // 2) and turns.is_contiguous() and not turns.is_conj()
    return each and tokens[max(0, len(tokens) - len(rows)) :] == rows


def _compute(
    projected: Tensor,
    head_dim: int,
    sizes: Sequence[int],
    changed: int,
    eps: float | None,
    turns: Tensor | None,
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The groups, and the inverse root mean squares (..., changed heads) where there are any; `projected` is used up."""
    whole = projected.detach().view(*projected.shape[:-1], projected.shape[-1] // head_dim, head_dim)
    heads, inverse = sum(sizes[:changed]), None
    if eps is not None:
        wide = torch.float64 if whole.dtype == torch.float64 else torch.float32
        inverse = torch.empty((*whole.shape[:-2], heads), dtype=wide)
    if eps is not None or turns is not None:
        _run(whole, heads, inverse, heads, eps, turns)
        if not projected.is_inference():
            increment_version(projected)  # who has kept it for a gradient hears of it
    return whole.split(sizes, dim=-2), inverse


def _run(
    values: Tensor,
    heads: int,
    inverse: Tensor | None,
    inverse_row: int,
    eps: float | None,
    turns: Tensor | None,
    grad_out: Tensor | None = None,
    grad: Tensor | None = None,
) -> None:
    """Change the first heads of `values` (..., all heads, head_dim) in place, or write the gradient of that to `grad`."""
    rows, size = values.shape[:-2].numel(), values.shape[-1]
    row = values.stride(-3) if values.ndim > 2 else 0
    turn_rows = 1 if turns is None else turns.shape[:-2].numel()
    grad_row = 0 if grad_out is None or rows == 0 else grad_out.numel() // rows
    if rows > 0:
        kernel().heads(
            BYTES[values.dtype], rows, heads, size, row, address(values), address(inverse), inverse_row, eps or 0.0,
            address(turns), turn_rows, address(grad_out), grad_row, address(grad), threads(),
        )  # fmt: skip


class _Heads(torch.autograd.Function):
    """The groups and the inverse root mean squares, which are a result so that second derivatives pass through them."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        head_dim: int,
        sizes: Sequence[int],
        changed: int,
        eps: float | None,
        turns: Tensor | None,
    ) -> tuple[Any, ...]:
        groups, inverse = _compute(projected, head_dim, sizes, changed, eps, turns)
        ctx.changed, ctx.sizes, ctx.eps = changed, sizes, eps
        ctx.save_for_backward(*groups, inverse, turns)
        ctx.set_materialize_grads(False)
        return *groups, inverse

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        *grads, grad_inverse = given
        *groups, inverse, turns = ctx.saved_tensors
        if (
            torch.is_grad_enabled() or grad_inverse is not None
        ):  # a second derivative follows operations that have one
            whole = _differentiable_backward(ctx, groups, inverse, turns, grads, grad_inverse)
        else:
            whole = _backward(ctx, groups, inverse, turns, grads)
        return whole.flatten(-2), None, None, None, None, None


def _backward(
    ctx: Any,
    groups: Sequence[Tensor],
    inverse: Tensor | None,
    turns: Tensor | None,
    grads: Sequence[Tensor | None],
) -> Tensor:
    """The groups' gradients gathered in one buffer (..., all heads, head_dim), changed on the way.

    They are not changed where they lie: a gradient may be somebody else's, too.
    """
    rows, size, first = groups[0].shape[:-2], groups[0].shape[-1], 0
    whole = torch.empty((*rows, sum(ctx.sizes), size), dtype=groups[0].dtype)
    for number, (group, grad) in enumerate(zip(groups, grads, strict=True)):
        place = whole.narrow(-2, first, group.shape[-2])
        if grad is None:
            place.zero_()
        elif number < ctx.changed and (ctx.eps is not None or turns is not None):
            roots = None if inverse is None else inverse.narrow(-1, first, group.shape[-2])
            roots_row = 0 if inverse is None else inverse.shape[-1]
            _run(group, group.shape[-2], roots, roots_row, ctx.eps, turns, grad.contiguous(), place)
        else:
            place.copy_(grad)
        first += group.shape[-2]
    return whole


def _differentiable_backward(
    ctx: Any,
    groups: Sequence[Tensor],
    inverse: Tensor | None,
    turns: Tensor | None,
    grads: Sequence[Tensor | None],
    grad_inverse: Tensor | None,
) -> Tensor:
    """The same by operations that have derivatives themselves.

    With n = x * r and r the inverse root mean square: dr/dx = -n * r ** 2 / head_dim.
    """
    changed, first, back = [], 0, None if turns is None else turns.conj()
    for number, (group, grad) in enumerate(zip(groups, grads, strict=True)):
        grad = torch.zeros_like(group) if grad is None else grad
        heads = slice(first, first + group.shape[-2])
        if number < ctx.changed:
            if inverse is not None:
                root = inverse[..., heads].unsqueeze(-1)
                grad = (grad - group * (grad * group).mean(-1, keepdim=True)) * root
                if grad_inverse is not None:
                    grad = grad - group * root.square() * (
                        grad_inverse[..., heads].unsqueeze(-1) / group.shape[-1]
                    )
            grad = grad if back is None else turn(grad, back)
        changed.append(grad.to(group.dtype))
        first = heads.stop
    return torch.cat(changed, dim=-2)
