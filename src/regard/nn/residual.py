"""The residual stream: a branch is dropped, added and the sum normalized in one pass over memory, and so on the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.nn._fused import BYTES, NOTHING, Drop, address, is_fused, kernel, threads
from regard.nn._sequences import Sequences, like, values_of
from regard.nn.feedforward import Dropout
from regard.nn.linear import dtype_of_products
from regard.nn.norm import RMSNorm, computes, gradient, normalize


def add_and_normalize(
    x: Tensor, branch: Tensor, eps: float, drop: Drop = NOTHING, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """`total = x + drop(branch)` and `total / sqrt(mean(total ** 2) + eps)`.

    Arguments: x (..., dim); branch, as x or in bfloat16; `dtype` of the normalized, by default that of x.
    """
    dtype = dtype or x.dtype
    if not _fits(x, branch) or not computes(x, dtype):
        total = x + drop.anew(branch).to(x.dtype)
        return total, normalize(total, eps, dtype)
    if torch.is_grad_enabled() and (x.requires_grad or branch.requires_grad):
        return _AddAndNormalize.apply(x, branch, eps, drop, dtype)
    return _compute(x, branch, eps, drop, dtype)[:2]


def add_dropped(x: Tensor, branch: Tensor, drop: Drop = NOTHING) -> Tensor:
    """`x + drop(branch)` for x (..., dim) and a branch as x or in bfloat16."""
    if not _fits(x, branch):
        return x + drop.anew(branch).to(x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or branch.requires_grad):
        return _AddDropped.apply(x, branch, drop)
    return _compute(x, branch, None, drop)[0]


def _fits(x: Tensor, branch: Tensor) -> bool:
    return computes(x, branch.dtype) and x.shape == branch.shape and is_fused(x, branch)


def _compute(
    x: Tensor, branch: Tensor, eps: float | None, drop: Drop, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The total, the normalized and the inverse root mean square; without `eps` only the first has numbers."""
    x, branch = x.detach().contiguous(), branch.detach().contiguous()
    shape = x.shape if eps is not None else (0,)
    total, normalized = torch.empty_like(x), torch.empty(shape, dtype=dtype or x.dtype)
    inverse = torch.empty(shape[:-1], dtype=x.dtype)
    given = eps is not None
    kernel().residual(
        BYTES[branch.dtype], BYTES[normalized.dtype], x.shape[:-1].numel(), x.shape[-1], address(x), address(branch),
        address(total), given and address(normalized), given and address(inverse), eps or 0.0, *drop.arguments(), threads(),
    )  # fmt: skip
    return total, normalized, inverse


class _AddAndNormalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, eps: float, drop: Drop, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, normalized, inverse = _compute(x, branch, eps, drop, dtype)
        ctx.eps, ctx.drop, ctx.branch_dtype = eps, drop, branch.dtype
        ctx.save_for_backward(total, inverse)
        ctx.set_materialize_grads(False)
        return total, normalized

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad_normalized: Tensor | None) -> tuple[Any, ...]:
        total, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative follows operations that have one
            grad = None if grad_normalized is None else gradient(total, grad_normalized, ctx.eps)
            if grad_total is not None:
                grad = grad_total if grad is None else grad + grad_total
            found = grad, None if grad is None else ctx.drop(grad).to(ctx.branch_dtype)
        else:
            found = backward(total, inverse, grad_total, grad_normalized, ctx.drop, ctx.branch_dtype)
        return *found, None, None, None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, drop: Drop) -> Tensor:
        ctx.drop, ctx.branch_dtype = drop, branch.dtype
        return _compute(x, branch, None, drop)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            return grad, ctx.drop(grad).to(ctx.branch_dtype), None
        return *backward(None, None, grad, None, ctx.drop, ctx.branch_dtype), None


def backward(
    total: Tensor | None,
    inverse: Tensor | None,
    grad_total: Tensor | None,
    grad_normalized: Tensor | None,
    drop: Drop,
    branch_dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and of the branch."""
    given = grad_total if grad_normalized is None else grad_normalized
    if given is None:
        return None, None
    wide = given.dtype if total is None else total.dtype
    added, normalized = (
        None if grad is None else grad.contiguous() for grad in (grad_total, grad_normalized)
    )
    grad_x = added if normalized is None else torch.empty(given.shape, dtype=wide)
    is_copy = branch_dtype == wide and drop.factor == 1
    grad_branch = grad_x if is_copy else torch.empty(given.shape, dtype=branch_dtype)
    kernel().residual_backward(
        BYTES[branch_dtype], BYTES[wide if normalized is None else normalized.dtype], given.shape[:-1].numel(),
        given.shape[-1], address(total), 0, address(inverse), address(added), address(normalized),
        0 if normalized is None else address(grad_x), 0 if is_copy else address(grad_branch), *drop.arguments(), threads(),
    )  # fmt: skip
    return grad_x, grad_branch


@dataclass(frozen=True, eq=False)
class Stream:
    """What flows from block to block of a stack: the sum so far, and the last branch with what to drop of it, not added yet.

    So every branch is added where its sum is normalized, also when that is in the next block.
    """

    x: Sequences
    last: tuple[Tensor, Drop] | None = None

    @classmethod
    def of(cls, x: Sequences | Stream) -> Stream:
        """A stream itself, or one that begins."""
        return x if isinstance(x, Stream) else cls(x)

    def normalized(self, norm: RMSNorm, *, leaves: bool = False) -> tuple[Stream, Sequences]:
        """The stream with everything added, and its normalization: as linear layers read it, or in the stream's dtype as it `leaves`."""
        values = values_of(self.x)
        dtype = values.dtype if leaves else dtype_of_products(values)
        if self.last is None:
            return self, like(self.x, norm(values, dtype))
        branch, drop = self.last
        total, normalized = add_and_normalize(values, branch, norm.eps, drop, dtype)
        return Stream(like(self.x, total)), like(self.x, normalized)

    def add(self, branch: Tensor, dropout: Dropout) -> Stream:
        """The stream with one branch more; it must have been normalized, so that nothing else is left to add."""
        return Stream(self.x, (branch, dropout.drawn()))

    def like(self, x: Sequences | Stream) -> Any:
        """The stream itself where x is one, else its sum in the form of x."""
        if isinstance(x, Stream):
            return self
        return self.x if self.last is None else like(self.x, add_dropped(values_of(self.x), *self.last))
