"""Cross-entropy over a vocabulary, forward and backward in one pass, without keeping the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard._arrays import is_traced
from regard._errors import ShapeError
from regard._lowering import kernel, threads
from regard.nn._fused import is_fused
from regard.nn._products import product
from regard.nn.chances import of_vocabulary
from regard.nn.consistency import asked
from regard.nn.distillation import lesson
from regard.nn.linear import has_bfloat16, in_bfloat16

ROWS = 512  # rows of logits alive at once: fewer, and packing the vocabulary for their products counts

# What the kernel reads, and what it calls it.
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
    ) -> Tensor:
        narrow = in_bfloat16()
        theirs = narrow and has_bfloat16()
        kernel_products = is_fused(states) and states.dtype == weight.dtype == torch.float32
        if kernel_products:
            states, weight = states.contiguous(), weight.contiguous()
        total = torch.zeros((), dtype=torch.promote_types(states.dtype, torch.float32), device=states.device)
        grad_states = torch.empty_like(states) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        with torch.autocast(states.device.type, enabled=False):
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            table = weight.to(torch.bfloat16) if narrow else wide
            # One room for the logits of every block.
            room = torch.empty(min(ROWS, len(states)), len(weight), dtype=table.dtype, device=states.device)
            for start in range(0, len(states), ROWS):
                piece = slice(start, start + ROWS)
                # Of whole blocks alone, and on some CPUs, PyTorch's bfloat16 is quicker than the kernel's: see regard.nn.linear.
                whole = len(states) - start >= ROWS
                used = table if whole or kernel_products else wide
                own = kernel_products and not (theirs and whole)
                rows = states[piece].to(used.dtype)
                logits = _product(rows, used.mT, room, own)
                loss, slope = _piece(logits, targets[piece], smoothing, needs_grad)
                total += loss
                if grad_states is not None and grad_weight is not None and slope is not None:
                    slope = slope.to(used.dtype)
                    if own:
                        product(slope, used, grad_states[piece], rounds=narrow)
                    else:
                        grad_states[piece] = slope @ used
                    _add_product(grad_weight, slope.mT, rows, kernel_products)
        ctx.grads = grad_states, grad_weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight = ctx.grads
        # A training step passes 1 and scales all its gradients together: nothing to multiply here.
        if is_traced(grad) or grad.device.type != "cpu" or grad.item() != 1:
            grad_states, grad_weight = grad_states * grad.to(grad_states.dtype), grad_weight * grad
        return grad_states, grad_weight, None, None, None


def vocabulary_loss(states: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The summed cross-entropy of `softmax(states @ weight.T)` with the targets, label smoothing included.

    `sum_t (1 - e) * -log p_t[target_t] + e * mean_v -log p_t[v]` (Szegedy et al. 2016). Equal to
    `F.cross_entropy(states @ weight.T, targets, label_smoothing=e, reduction="sum")`, without a tensor of logits for
    all rows. Sums run in float32, or float64 for float64. Under bfloat16 autocast on a CPU the products run in bfloat16.

    Arguments: states (T, dim), weight (vocabulary, dim), targets (T,) integers, smoothing in [0, 1).

    Raises ShapeError where targets are not (T,), and where the kernel meets one outside the vocabulary; PyTorch's own
    operations raise their own error there.
    """
    if targets.shape != states.shape[:1] or states.ndim != 2:
        raise ShapeError(
            "targets that do not belong to the states. Expected: states (T, dim) and targets (T,). "
            f"Received: states {tuple(states.shape)} and targets {tuple(targets.shape)}. To mend it: flatten both."
        )

    def truth() -> Tensor:
        if (consistency := asked()) is not None:
            return consistency.loss(states, weight, targets, smoothing)
        needs_grad = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
        return _VocabularyLoss.apply(states, weight, targets, smoothing, needs_grad)

    if (now := lesson()) is not None:
        return now.loss(truth, of_vocabulary(states, weight), states.new_zeros(()))
    return truth()


def _product(rows: Tensor, table: Tensor, room: Tensor, own: bool) -> Tensor:
    """`rows @ table`, in `room` where it is of that kind."""
    if rows.dtype != room.dtype:
        return rows @ table
    out = room[: len(rows)]
    if own:
        return product(rows, table, out, rounds=rows.dtype == torch.bfloat16)
    return torch.mm(rows, table, out=out)


def _add_product(total: Tensor, a: Tensor, b: Tensor, own: bool) -> None:
    if own:
        product(a, b, total, add=True, rounds=a.dtype == torch.bfloat16)
    elif total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _piece(
    logits: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> tuple[Tensor | float, Tensor | None]:
    """The loss of some rows, and its gradient by their logits, which may take their place."""
    if is_fused(logits):
        return _by_kernel(logits, targets, smoothing, needs_grad)
    return _plain(logits, targets, smoothing, needs_grad)


def _by_kernel(
    logits: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> tuple[float, Tensor | None]:
    targets = targets.to(torch.int64).contiguous()
    try:
        loss = kernel().loss_rows(
            DTYPES[logits.dtype], logits.data_ptr(), logits.shape[1], *logits.shape, targets.data_ptr(), smoothing,
            needs_grad, threads(),
        )  # fmt: skip
    except IndexError as error:
        raise ShapeError(
            f"a target is outside the vocabulary. {error} To mend it: give targets of the vocabulary that weight has."
        ) from error
    return loss, logits if needs_grad else None


def _plain(
    logits: Tensor, targets: Tensor, smoothing: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The same by PyTorch's operations."""
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
