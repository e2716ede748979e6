"""Two passes of one batch under different dropout that are asked to agree (R-Drop).

Source: Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard._errors import ConfigError, ShapeError
from regard._packed import Packed
from regard.nn.chances import Chances, added_up, apart
from regard.nn.linear import in_bfloat16

ROWS = 256  # rows of each pass whose logits are alive at once


@dataclass
class Consistency:
    """What is asked of the losses inside `consistent`: the coefficient, and how many have answered."""

    coefficient: float
    losses: int = 0

    def loss(self, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """`consistent_loss` with this coefficient."""
        self.losses += 1
        return consistent_loss(states, weight, targets, smoothing, self.coefficient)

    def of_chances(self, loss: Tensor, *logs: Tensor) -> Tensor:
        """The same from the summed loss of both passes and their log-probabilities (2 T, ...), where these are few; -inf is never chosen."""
        self.losses += 1
        return loss / 2 + self.coefficient / 4 * sum(apart(*log.chunk(2)) for log in logs)

    def of_blocks(self, loss: Tensor, chances: Chances) -> Tensor:
        """The same where they are many; the first half of the blocks are those of the first pass."""
        self.losses += 1
        half, log_p = chances.blocks // 2, chances.log_p
        return loss / 2 + self.coefficient / 4 * added_up(
            half, lambda number: apart(log_p(number), log_p(half + number))
        )


_asked: ContextVar[Consistency | None] = ContextVar("consistency", default=None)


def asked() -> Consistency | None:
    """What the innermost `consistent` asks for; None outside of any."""
    return _asked.get()


@contextmanager
def consistent(coefficient: float) -> Iterator[None]:
    """While it lasts, `vocabulary_loss` takes its rows for two passes of one batch, as `twice` makes them, and is `consistent_loss`.

    So do the losses of spans and of labels, by `Consistency.of_chances`, and of models that copy, by `Consistency.of_blocks`.

    Raises:
        ConfigError: nothing inside was such a loss: the two passes were compared by nothing.

    >>> from regard.nn.loss import vocabulary_loss
    >>> states, weight = torch.randn(3, 4), torch.randn(5, 4)
    >>> with regard.nn.consistent(1.0):
    ...     loss = vocabulary_loss(states.repeat(2, 1), weight, torch.tensor([0, 4, 2]).repeat(2))
    >>> torch.allclose(loss, vocabulary_loss(states, weight, torch.tensor([0, 4, 2])))  # equal passes agree
    True
    """
    consistency = Consistency(coefficient)
    before = _asked.set(consistency)
    try:
        yield
    finally:
        _asked.reset(before)
    if not consistency.losses:
        raise ConfigError(
            "two passes were to agree, and nothing compared them. Expected: a task whose loss is a choice from a vocabulary or a "
            "list of labels. Leave r_drop out."
        )


def twice(packed: Packed) -> Packed:
    """Every sequence, and then every sequence again.

    >>> regard.nn.twice(regard.Packed(torch.tensor([5, 6, 7]), np.array([0, 2, 3]))).values
    tensor([5, 6, 7, 5, 6, 7])
    """
    offsets = packed.offsets
    values = torch.cat([packed.values, packed.values])
    return Packed(values, np.concatenate([offsets, offsets[1:] + offsets[-1]]))


def consistent_loss(
    states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, coefficient: float
) -> Tensor:
    """Cross-entropy of two passes and how far apart they are: half of R-Drop's loss, on the scale of one pass's cross-entropy.

    `sum_t (ce(p_t) + ce(q_t)) / 2 + coefficient * (KL(p_t, q_t) + KL(q_t, p_t)) / 4` with `p = softmax(states[:T] @ weight.T)`,
    `q` the same of `states[T:]`, and `ce` as in `vocabulary_loss`. Gradients run through both sides of both divergences. The
    logits of a block of rows are alive at once, not those of all.

    Arguments:
        states: (2 T, dim), the first pass and then the second.
        weight: (vocabulary, dim).
        targets: (2 T,) integers, the same for both passes.
        smoothing: label smoothing in [0, 1).
        coefficient: 5 in the paper for translation, 1 for classification.

    Returns:
        The loss, a scalar.

    Raises:
        ShapeError: the second half does not repeat the first.

    >>> states, weight = torch.randn(4, 8), torch.randn(5, 8)
    >>> regard.nn.consistent_loss(states, weight, torch.tensor([1, 2, 1, 2]), 0.1, 5.0).shape
    torch.Size([])
    """
    half = len(states) // 2
    if targets.shape != states.shape[:1] or not torch.equal(targets[:half], targets[half:]):
        raise ShapeError(
            "rows that are not two passes of one batch. Expected: states (2 T, dim) and targets (2 T,), the second half of the "
            f"targets like the first. Received: states {tuple(states.shape)} and targets {tuple(targets.shape)}. To mend it: "
            "keep the order of the sequences."
        )
    needs_grad = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    return _ConsistentLoss.apply(states, weight, targets, smoothing, coefficient, needs_grad)


class _ConsistentLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, coefficient: float, needs_grad: bool
    ) -> Tensor:  # fmt: skip
        half = len(states) // 2
        total = torch.zeros((), dtype=torch.promote_types(states.dtype, torch.float32), device=states.device)
        grad_states, grad_weight = torch.zeros_like(states), torch.zeros_like(weight)
        narrow = in_bfloat16()
        with torch.autocast(states.device.type, enabled=False):
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            table = weight.to(torch.bfloat16) if narrow else wide
            for start in range(0, half, ROWS):
                # Whole blocks alone are worth bfloat16: see regard.nn.linear.
                used = table if half - start >= ROWS else wide
                places = [slice(first + start, first + min(start + ROWS, half)) for first in (0, half)]
                rows = [states[place].to(used.dtype) for place in places]
                log_p, log_q = (torch.log_softmax((some @ used.mT).to(total.dtype), -1) for some in rows)
                loss, slopes = _pair(log_p, log_q, targets[places[0]], smoothing, coefficient)
                total += loss
                for place, some, slope in zip(places, rows, slopes, strict=True) if needs_grad else ():
                    grad_states[place] = slope.to(used.dtype) @ used
                    grad_weight += slope.to(used.dtype).mT @ some
        ctx.grads = grad_states, grad_weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight = ctx.grads
        return grad_states * grad.to(grad_states.dtype), grad_weight * grad, None, None, None, None


def _pair(
    log_p: Tensor, log_q: Tensor, targets: Tensor, smoothing: float, coefficient: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The loss of some rows of both passes, and its gradients by their logits."""
    p, q, apart = log_p.exp(), log_q.exp(), log_p - log_q
    forward = (p * apart).sum(-1, keepdim=True)
    backward = -(q * apart).sum(-1, keepdim=True)
    slope_p = p * (apart - forward) + p - q
    slope_q = -q * (apart + backward) + q - p
    loss = coefficient / 4 * (forward + backward).sum()
    slopes = []
    for logs, shares, slope in ((log_p, p, slope_p), (log_q, q, slope_q)):
        hit = logs.gather(-1, targets[:, None])
        loss = loss - ((1 - smoothing) * hit + smoothing * logs.mean(-1, keepdim=True)).sum() / 2
        wanted = shares - smoothing / logs.shape[-1]
        wanted.scatter_add_(-1, targets[:, None], torch.full_like(hit, smoothing - 1))
        slopes.append(wanted / 2 + coefficient / 4 * slope)
    return loss, (slopes[0], slopes[1])
