"""Whether the kernel may do a layer's elementwise work, and how it is told what to drop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from regard._arrays import is_traced_torch
from regard._lowering import kernel, threads

__all__ = ["BYTES", "NOTHING", "Drop", "address", "is_fused", "kernel", "threads"]

BYTES = {torch.float64: 8, torch.float32: 4, torch.bfloat16: 2}


def is_fused(*tensors: Tensor) -> bool:
    """Whether the kernel may compute with these: on a CPU, seen by no tracer, transform or forward-mode derivative."""
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0 or is_traced_torch(tensors[0]):
        return False
    return kernel() is not None and all(map(_is_read, tensors))


def _is_read(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.dtype in BYTES and not tensor.is_neg()


def address(array: Tensor | None) -> int:
    """Where the numbers of a tensor begin; 0 for none."""
    return 0 if array is None else array.data_ptr()


@dataclass(frozen=True, eq=False)
class Drop:
    """Entries whose random byte is below `threshold` become 0, the others are scaled so that the mean stays, times `scale`.

    Entry i of a row is decided by byte `i % 64 // 16` of word `i // 64 * 16 + i % 16` of the row; words are hashes of their
    numbers and the seed. The kernel computes the same.
    """

    threshold: int = 0
    seed: int | Tensor = 0
    scale: float = 1.0

    @property
    def factor(self) -> float:
        """Of the entries that stay."""
        return self.scale * 256 / (256 - self.threshold)

    def arguments(self) -> tuple[int, int, float]:
        """As the kernel takes them."""
        return int(self.seed), self.threshold, self.factor

    def __call__(self, x: Tensor) -> Tensor:
        """What the kernel computes, by PyTorch's operations, some dozen to an entry: for second derivatives."""
        return self._applied(x, self.kept)

    def anew(self, x: Tensor) -> Tensor:
        """As much of x dropped, but which entries PyTorch's generator decides now: where the kernel does not compute."""
        return self._applied(x, self._drawn)

    def _applied(self, x: Tensor, kept: Callable[[Tensor], Tensor]) -> Tensor:
        if self.threshold == 0:
            return x if self.scale == 1 else x * self.scale
        return x * (kept(x) * self.factor).to(x.dtype)

    def _drawn(self, x: Tensor) -> Tensor:
        words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 8),), device=x.device)
        return (words.view(torch.uint8)[: x.numel()] >= self.threshold).view(x.shape)

    def kept(self, x: Tensor) -> Tensor:
        """Which entries of x (..., dim) stay: a function of the seed and of their places."""
        size = x.shape[-1] if x.ndim else 1
        blocks = -(-size // 64)
        rows = x[..., 0].numel() if size else 0
        number = torch.arange(rows * blocks * 16, device=x.device) & 0xFFFFFFFF
        first = _mixed(torch.as_tensor(self.seed) & 0xFFFFFFFF)
        second = _mixed((torch.as_tensor(self.seed) >> 32 & 0xFFFFFFFF) ^ first ^ 0x9E3779B9)
        words = _mixed(_mixed(number ^ first) ^ second).view(rows, blocks, 1, 16)
        shifts = torch.arange(0, 32, 8, device=x.device).view(4, 1)
        found = (words >> shifts & 0xFF).flatten(1)[:, :size]
        return (found >= self.threshold).view(x.shape)


NOTHING = Drop()


def _mixed(word: Any) -> Any:
    """A hash of 32-bit words held as int64 ("lowbias32", Wellons 2018)."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    word = (word ^ (word >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return word ^ (word >> 16)
