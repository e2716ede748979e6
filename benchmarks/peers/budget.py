"""A training budget in minutes or updates, and the learning rate that is sized for it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Minutes by the clock, or updates; `progress` is what is spent, in [0, 1]."""

    minutes: float | None
    updates: int | None
    done: int = 0
    _begin: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the budget was made."""
        return time.perf_counter() - self._begin

    @property
    def progress(self) -> float:
        """The share that is spent."""
        if self.updates is not None:
            return min(1.0, self.done / self.updates)
        return min(1.0, self.seconds / (60 * (self.minutes or 1)))


def cosine(progress: float, warmup: float) -> float:
    """The share of the peak learning rate: a linear rise, then half a cosine down to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
