"""Rules of the operators: `vmap`, and the gradient of a bias given that of the array it is lowered to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard._biases import Alibi, Bias, RelativeBias

# Where the arguments of both operators stand: `attention` has no more than these.
_BEFORE = {"attention": 0, "attention_backward": 5}
_KEY, _VALUE, _BIAS, _SINKS, _SEED, _ARRAYS, _NUMBERS, _Q_PLACES, _K_PLACES = range(1, 10)


def bias_gradient(bias: Bias, distances: range, grad: Tensor) -> Tensor:
    """The gradient of a bias's own array, given that of `bias.lowered(distances)`."""
    array: Tensor = next(iter(vars(bias).values()))
    if isinstance(bias, Alibi):
        away = torch.arange(distances.start, distances.stop, device=grad.device).abs()
        return -(grad * away).sum(1).to(array.dtype)
    if isinstance(bias, RelativeBias):
        buckets = bias._buckets(np.arange(distances.start, distances.stop, dtype=np.int64))
        summed = grad.new_zeros(array.shape)
        summed.index_add_(0, torch.as_tensor(buckets, device=grad.device), grad.mT)
        return summed.to(array.dtype)
    return grad.reshape(array.shape)


def mapped(name: str) -> Callable[..., tuple[tuple[Tensor, ...], Any]]:
    """The rule for `vmap` of an operator: one call with a leading dimension more where that means the same, else one by one."""
    before = _BEFORE[name]

    def rule(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[tuple[Tensor, ...], Any]:
        run = getattr(torch.ops.regard, name)
        arguments, dims, size = list(given), list(in_dims), info.batch_size
        if _folds(arguments[before:]):
            found = run(*_folded(arguments, dims, size, before))
            split = tuple(array.unflatten(0, (size, -1)) if array.ndim > 1 else array for array in found)
            return split, tuple(0 if array.ndim > 1 else None for array in found)
        each = [run(*_chosen(arguments, dims, number)) for number in range(size)]
        return tuple(torch.stack(arrays) for arrays in zip(*each, strict=True)), (0,) * len(each[0])

    return rule


def _folds(call: list[Any]) -> bool:
    """Whether nothing depends on which sequence it is: padded arrays, masks by formula, no bias, sinks and dropout."""
    plain = all(call[place] is None for place in (_BIAS, _SINKS, _SEED)) and not call[_ARRAYS]
    return plain and bool(call[_Q_PLACES])


def _folded(arguments: list[Any], dims: list[Any], size: int, before: int) -> list[Any]:
    """The arguments with the mapped dimension as the first of the leading ones."""
    folded = list(arguments)
    tensors = {number for number, given in enumerate(arguments) if isinstance(given, Tensor)}
    q_places, k_places = arguments[before + _Q_PLACES], arguments[before + _K_PLACES]
    folded[before + _Q_PLACES] = [size, *q_places]
    if not before and dims[_KEY] is None and dims[_VALUE] is None:
        tensors -= {_KEY, _VALUE}  # queries may share keys; gradients of keys are each example's own
    else:
        folded[before + _K_PLACES] = [size, *([1] * (len(q_places) - len(k_places))), *k_places]
    for number in tensors:
        folded[number] = _in_front(arguments[number], dims[number], size).flatten(0, 1)
    return folded


def _in_front(array: Tensor, dim: int | None, size: int) -> Tensor:
    return array.expand(size, *array.shape) if dim is None else array.movedim(dim, 0)


def _chosen(arguments: list[Any], dims: list[Any], number: int) -> list[Any]:
    """The arguments of one example."""
    return [_select(given, dim, number) for given, dim in zip(arguments, dims, strict=True)]


def _select(given: Any, dim: Any, number: int) -> Any:
    if isinstance(given, list | tuple) and isinstance(dim, list | tuple):
        return [_select(array, some, number) for array, some in zip(given, dim, strict=True)]
    return given.select(dim, number) if isinstance(given, Tensor) and isinstance(dim, int) else given
