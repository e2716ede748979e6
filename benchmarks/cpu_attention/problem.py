"""A work item's arrays, and the layouts in which contenders want them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cpu_attention.items import Item

BUCKETS = 32


@dataclass(frozen=True)
class Problem:
    """An item's arrays, packed: query (total, H, D), key and value (total, Hk, D), and the output's gradient."""

    item: Item
    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    table: Tensor | None  # (buckets, H), of a relative bias
    backend: str | None


def make_problem(item: Item, backend: str | None = None, dtype: str = "float32") -> Problem:
    """Draw the arrays of an item, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: str = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))

    queries, keys = sum(item.lengths), sum(item.key_lengths)
    return Problem(
        item,
        query=draw(queries, item.heads, item.size),
        key=draw(keys, item.key_heads, item.size),
        value=draw(keys, item.key_heads, item.size),
        gradient=draw(queries, item.heads, item.size),
        table=draw(BUCKETS, item.heads, dtype="float32") if item.bias == "relative" else None,
        backend=backend,
    )


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready: `forward(*inputs)` is what is timed; `pack` brings a result back to (total, H, D)."""

    forward: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    gradient: Tensor
    pack: Callable[[Tensor], Tensor]

    def call(self, what: str) -> Callable[[], Any]:
        """What is timed in a pass: the output alone, without gradients, or the gradients of all inputs."""
        for array in self.inputs:
            array.requires_grad_(what == "f+b")
        return self._gradients if what == "f+b" else lambda: self.forward(*self.inputs)

    def _gradients(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.forward(*self.inputs), self.inputs, self.gradient)


class Layout(Protocol):
    """Brings packed arrays into a contender's form, and back."""

    def __init__(self, lengths: tuple[int, ...]) -> None: ...
    def lay(self, packed: Tensor) -> Tensor: ...
    def pack(self, laid: Tensor) -> Tensor: ...


def prepared(problem: Problem, layout: type[Layout], forward: Callable[..., Tensor]) -> Prepared:
    """Lay out the arrays of a problem for a contender."""
    queries, keys = layout(problem.item.lengths), layout(problem.item.key_lengths)
    inputs = [queries.lay(problem.query), keys.lay(problem.key), keys.lay(problem.value)]
    if problem.table is not None:
        inputs.append(problem.table)
    leaves = tuple(array.detach() for array in inputs)
    return Prepared(forward, leaves, queries.lay(problem.gradient), queries.pack)


class Rows:
    """(total, H, D), packed as it is."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths

    def lay(self, packed: Tensor) -> Tensor:
        return packed

    def pack(self, laid: Tensor) -> Tensor:
        return laid


class Batch(Rows):
    """(B, N, H, D) of sequences of one length: the packed array seen another way."""

    def lay(self, packed: Tensor) -> Tensor:
        return packed.unflatten(0, (len(self.lengths), -1))

    def pack(self, laid: Tensor) -> Tensor:
        return laid.flatten(0, 1)


class HeadsFirst(Rows):
    """(B, H, N, D), contiguous, zeros behind each sequence's end: SDPA's best form."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        super().__init__(lengths)
        self.longest = max(lengths)
        ends = [row * self.longest + np.arange(length) for row, length in enumerate(lengths)]
        self.rows = torch.from_numpy(np.concatenate(ends))

    def lay(self, packed: Tensor) -> Tensor:
        padded = packed.new_zeros(len(self.lengths) * self.longest, *packed.shape[1:])
        padded[self.rows] = packed
        return padded.unflatten(0, (len(self.lengths), self.longest)).transpose(1, 2).contiguous()

    def pack(self, laid: Tensor) -> Tensor:
        return laid.transpose(1, 2).flatten(0, 1)[self.rows]
