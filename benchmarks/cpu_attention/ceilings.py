"""What this machine can do at most, measured beside everything else: arithmetic and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def product() -> float:
    """GFLOP/s of a product of 1024 x 1024 matrices in float32."""
    left, right = _matrices()
    return 2 * 1024**3 / _seconds(lambda: torch.mm(left, right)) / 1e9


def fused_multiply_add() -> float:
    """GFLOP/s of nothing but multiply-adds: one thread's, times the threads; without the kernel, that of the product."""
    probe = _kernel_probe()
    return product() if probe is None else probe(0.02) * torch.get_num_threads() / 1e9


def reading() -> float:
    """GB/s of a sum over 256 MB."""
    array = _large()
    return array.nbytes / _seconds(array.sum) / 1e9


def copying() -> float:
    """GB/s of a copy of 256 MB, what is read and what is written counted."""
    array = _large()
    target = torch.empty_like(array)
    target.copy_(array)  # the first touch of its pages
    return 2 * array.nbytes / _seconds(lambda: target.copy_(array)) / 1e9


def all_ceilings(repeats: int = 5) -> dict[str, float]:
    """The best of some repeats of each."""
    probes = {"mm": product, "fma": fused_multiply_add, "read": reading, "copy": copying}
    return {name: max(probe() for _ in range(repeats)) for name, probe in probes.items()}


def fma_source() -> str:
    """Where the figure of multiply-adds comes from."""
    if _kernel_probe() is None:
        return "that of mm: no kernel to probe it"
    return f"one thread's x threads, {instruction_set()}"


def instruction_set() -> str:
    """The instructions that our kernel uses."""
    try:
        from regard import _kernel
    except ImportError:
        return "none"
    return _kernel.instruction_set()


@cache
def _kernel_probe() -> Callable[[float], float] | None:
    """What runs multiply-adds in registers for some seconds and says operations a second."""
    try:
        from regard import _kernel
    except ImportError:
        return None
    return getattr(_kernel, "fma_peak", None)


@cache
def _matrices() -> tuple[Tensor, Tensor]:
    return torch.randn(1024, 1024), torch.randn(1024, 1024)


@cache
def _large() -> Tensor:
    return torch.ones(2**26)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
