"""Muon for the matrices inside a model, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.nn import CrossAttention, SelfAttention
from regard.nn._fused import address, is_fused, kernel, threads
from regard.nn.linear import has_bfloat16
from regard.training.adamw import AdamW
from regard.training.optimizer import Optimizer, with_gradients

# Of three quintic steps, each the closest to 1 (in the largest error) over the singular values that the one before leaves, from
# 0.02 to 1 at first: Amsel et al. 2025, "The Polar Express". Four steps, from 0.003 on, changed the loss of a translator after
# 200 updates by less than 0.002 nats with either of two seeds.
COEFFICIENTS = (
    (7.7110, -22.1138, 16.2487),
    (3.2153, -2.4112, 0.5013),
    (2.2183, -1.5940, 0.4107),
)

TINY = 1e-36  # of no gradient at all, nothing comes
MARGIN = 1.02  # above what rounding to bfloat16 takes from a bound


class Muon(Optimizer):
    """Momentum whose every step is made orthogonal (Jordan et al. 2024): `W -= lr * scale * orthogonal(momentum)`.

    Pieces of one shape go through the iteration together. A matrix that `heights` names by its `id` is cut into pieces of so many
    rows first, as projections to heads are; any other that holds several squares one above the other, as a recurrent layer's, into
    those. Each piece is orthogonal for itself.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        heights: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__([{"params": matrices}], lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.heights = heights or {}
        # By pieces: the momenta of all their matrices in one array, and its parts.
        self._momenta: dict[tuple[int, int], tuple[Tensor, list[Tensor]]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for matrix in with_gradients(group):
                height = self.heights.get(id(matrix)) or _height(matrix)
                alike.setdefault((height, matrix.shape[1]), []).append(matrix)
            for piece, matrices in alike.items():
                self._update(matrices, piece, group)

    def _update(self, matrices: list[Tensor], piece: tuple[int, int], group: dict[str, Any]) -> None:
        """One step of matrices that are cut into pieces of one shape; the rows of all lie in one array, one below the other."""
        together = self._directions(matrices, piece, group["momentum"])
        steps = orthogonal(together.view(-1, *piece)).reshape(-1, piece[1]).to(matrices[0].dtype)
        scale = max(1, piece[0] / piece[1]) ** 0.5
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(
            matrices, steps.split([matrix.shape[0] for matrix in matrices]), alpha=-group["lr"] * scale
        )

    def _directions(self, matrices: list[Tensor], piece: tuple[int, int], momentum: float) -> Tensor:
        """Nesterov's look ahead, after the momenta have taken in the gradients, in bfloat16 where the CPU has instructions for it."""
        together = torch.cat([matrix.grad for matrix in matrices if matrix.grad is not None])
        momenta = self._momenta_of(matrices, piece)
        momenta.lerp_(together, 1 - momentum)
        together.lerp_(momenta, momentum)
        return together.to(torch.bfloat16) if has_bfloat16() else together

    def _momenta_of(self, matrices: list[Tensor], piece: tuple[int, int]) -> Tensor:
        """One array, whose parts are the states of these matrices: three operations move them all."""
        states = [self.state[matrix] for matrix in matrices]
        array, parts = self._momenta.get(piece, (torch.empty(0), []))
        if [id(state.get("momentum")) for state in states] != [id(part) for part in parts]:
            # At the first step, after states were restored, and where other matrices learn than before.
            array = torch.cat([self.state[one].get("momentum", torch.zeros_like(one)) for one in matrices])
            parts = list(array.split([len(one) for one in matrices]))
            self._momenta[piece] = array, parts
            for state, part in zip(states, parts, strict=True):
                state["momentum"] = part
        return array


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly: (B, m, n) with every singular value moved close to 1.

    A Newton-Schulz iteration in the dtype of the matrices: bfloat16's rounding is far below the iteration's own error. It begins with matrices
    divided by the fourth root of the sum of their singular values' fourth powers, the root of the norm of `X X^T`, which the iteration
    needs anyway: that bounds the largest singular value closer than the Frobenius norm does, and saves an iteration. In float32 on a CPU
    the kernel runs it on `X X^T` alone, of whose products it computes half, for they are symmetric.
    """
    if matrices.dtype == torch.float32 and is_fused(matrices):
        return _by_kernel(matrices.contiguous())
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    for number, (a, b, c) in enumerate(COEFFICIENTS):
        square = x @ x.mT
        if number == 0:
            largest = square.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] + TINY
            square /= largest  # or squares of its numbers would not be seen in float32
            wide = torch.promote_types(x.dtype, torch.float32)
            bound = (square.norm(dim=(1, 2), keepdim=True, dtype=wide) * MARGIN + TINY).to(x.dtype)
            square /= bound
        step = torch.baddbmm(square, square, square, beta=b, alpha=c)
        step.diagonal(dim1=1, dim2=2).add_(a)  # a x + step x in one product, without a copy of x
        if number == 0:
            step *= (
                bound * largest + TINY
            ).rsqrt()  # of the small square matrices: dividing x itself takes longer
        x = step @ x
    return x.mT if tall else x


def _by_kernel(matrices: Tensor) -> Tensor:
    out = torch.empty_like(matrices)
    kernel().orthogonal(address(matrices), address(out), *matrices.shape, COEFFICIENTS, MARGIN, threads())
    return out


def split_parameters(model: nn.Module, apart: Iterable[Tensor] = ()) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices of linear and recurrent layers, for Muon, and the rest: embeddings, norms, biases.

    Those that stand `apart` and those that do not learn are in neither.
    """
    left_out = {id(parameter) for parameter in apart}
    learning = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
    inner = [matrix for module in model.modules() for matrix in _matrices(module)]
    matrices: dict[int, Tensor] = {
        id(matrix): matrix for matrix in inner if id(matrix) in learning.keys() - left_out
    }
    rest: list[Tensor] = [learning[number] for number in learning if number not in matrices.keys() | left_out]
    return list(matrices.values()), rest


def _matrices(module: nn.Module) -> list[Tensor]:
    if isinstance(module, nn.Linear):
        return [module.weight]
    if isinstance(module, nn.RNNBase):
        return [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 2]
    return []


def heights_of_heads(model: nn.Module) -> dict[int, int]:
    """Rows that one head has in each projection to heads, by the `id` of the matrix.

    A head is a map of its own: made orthogonal apart from the others, its steps take a fifth of the arithmetic.
    """
    heights: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            projections = [layer for layer in module.children() if isinstance(layer, nn.Linear)]
            heights |= {
                id(layer.weight): module.head_dim for layer in projections if layer is not module.output
            }
    return heights


def make_optimizers(
    model: nn.Module,
    matrix_learning_rate: float,
    learning_rate: float,
    weight_decay: float,
    pretrained: Sequence[dict[str, Any]] = (),
) -> tuple[Muon, AdamW]:
    """Muon for the matrices of layers and AdamW for the rest; decay for matrices only.

    `pretrained` are groups of parameters with learning rates of their own: they go to AdamW whatever they are, for what an
    encoder knows would not outlive steps of Muon's size. Every group has its peak under "initial_lr".
    """
    matrices, rest = split_parameters(model, (one for group in pretrained for one in group["params"]))
    muon = Muon(matrices, matrix_learning_rate, weight_decay=weight_decay, heights=heights_of_heads(model))
    inner = {id(matrix) for module in model.modules() for matrix in _matrices(module)}
    if weight_decay:
        pretrained = [part for group in pretrained for part in _decaying(group, inner, weight_decay)]
    adam = AdamW([{"params": rest}, *pretrained], lr=learning_rate)
    for group in (*muon.param_groups, *adam.param_groups):
        group["initial_lr"] = group["lr"]
    return muon, adam


def _decaying(group: dict[str, Any], inner: set[int], weight_decay: float) -> list[dict[str, Any]]:
    """A group in up to two parts: of the second, the matrices inside layers, every one decays."""
    matrices = [one for one in group["params"] if id(one) in inner]
    others = [one for one in group["params"] if id(one) not in inner]
    parts = [
        {**group, "params": others},
        {**group, "params": matrices, "weight_decay": weight_decay},
    ]
    return [part for part in parts if part["params"]]


def _height(matrix: Tensor) -> int:
    """Rows of the squares that a matrix holds one above the other, or all of its rows."""
    rows, columns = matrix.shape
    return columns if rows > columns and rows % columns == 0 else rows
