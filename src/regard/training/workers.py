"""Several processes, one global batch (torch.distributed)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def start_workers() -> None:
    """Join the group that `torchrun` started, where it did; one process alone needs none."""
    if _started() > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def cores(threads: int | None = None) -> int:
    """How many cores compute: the threads of this process, or so many, by the processes that `torchrun` started."""
    return (threads or torch.get_num_threads()) * _started()


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Until all processes have come here."""
    if world() > 1:
        dist.barrier()


def total(number: float) -> float:
    """The sum of a number over all processes."""
    if world() == 1:
        return number
    shared = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(shared)
    return float(shared)


def first(number: float) -> float:
    """The number that process 0 has, in all of them: a decision by the clock must be one decision."""
    if world() == 1:
        return number
    shared = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


def gathered(items: Sequence[Any]) -> list[Any]:
    """All processes' items, in all of them: process r gave those numbered r, r + world, ..., and so they are merged."""
    if world() == 1:
        return list(items)
    parts: list[list[Any]] = [[] for _ in range(world())]
    dist.all_gather_object(parts, list(items))
    merged: list[Any] = [None] * sum(len(part) for part in parts)
    for number, part in enumerate(parts):
        merged[number :: len(parts)] = part
    return merged


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over all processes; a missing one counts as zero."""
    if world() == 1:
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
