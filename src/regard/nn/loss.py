"""Cross-entropy over a vocabulary, forward and backward in one pass, without keeping the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard.nn.linear import BLOCK, in_bfloat16

ROWS = BLOCK  # rows of logits alive at once


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        grad_states = torch.empty_like(states) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        narrow = in_bfloat16()
        with torch.autocast(states.device.type, enabled=False):
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            table = weight.to(torch.bfloat16) if narrow else wide
            for start in range(0, len(states), ROWS):
                piece = slice(start, start + ROWS)
                # Whole blocks alone are worth bfloat16: see regard.nn.linear.
                used = table if len(states) - start >= ROWS else wide
                rows = states[piece].to(used.dtype)
                loss, slope = _piece(rows @ used.mT, targets[piece], smoothing, needs_grad)
                total += loss
                if grad_states is not None and grad_weight is not None and slope is not None:
                    slope = slope.to(used.dtype)
                    grad_states[piece] = slope @ used
                    grad_weight += slope.mT @ rows
        ctx.grads = grad_states, grad_weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight = ctx.grads
        return grad_states * grad.to(grad_states.dtype), grad_weight * grad, None, None, None


def vocabulary_loss(states: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The summed cross-entropy of `softmax(states @ weight.T)` with the targets, label smoothing included.

    `sum_t (1 - e) * -log p_t[target_t] + e * mean_v -log p_t[v]` (Szegedy et al. 2016). Equal to
    `F.cross_entropy(states @ weight.T, targets, label_smoothing=e, reduction="sum")`, without a tensor of logits for
    all rows. Sums run in float32. Under bfloat16 autocast on a CPU the products run in bfloat16.

    Arguments: states (T, dim), weight (vocabulary, dim), targets (T,) integers, smoothing in [0, 1).
    """
    needs_grad = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    return _VocabularyLoss.apply(states, weight, targets, smoothing, needs_grad)


def _piece(
    logits: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss of some rows, and its gradient by their logits."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = targets.unsqueeze(-1)
    hit = logits.gather(-1, chosen)
    mean = logits.mean(-1, keepdim=True) if smoothing else 0.0
    peak, place = logits.max(-1, keepdim=True)
    shares = torch.softmax(logits, -1)
    # The share of the peak is at least 1 / vocabulary: its logarithm is safe where that of the target's may not be.
    lse = peak - torch.log(shares.gather(-1, place))
    loss = (lse - (1 - smoothing) * hit - smoothing * mean).sum()
    if not needs_grad:
        return loss, None
    if smoothing:
        shares -= smoothing / logits.shape[-1]
    shares.scatter_add_(-1, chosen, torch.full_like(hit, smoothing - 1))
    return loss, shares
