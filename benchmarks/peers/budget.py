"""A training budget in minutes or updates, and the learning rate that is sized for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile costs nothing."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin


def cosine(progress: float, warmup: float) -> float:
    """The share of the peak learning rate: a linear rise, then half a cosine down to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def linear(progress: float, warmup: float) -> float:
    """The share of the peak learning rate: a linear rise, then a linear fall to 0."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
