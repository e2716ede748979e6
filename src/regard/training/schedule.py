"""How far a run is, and the learning rate that goes with it."""

from __future__ import annotations


def learning_rate_share(progress: float, warmup: float) -> float:
    """The share of the peak learning rate at `progress` in [0, 1]: a linear rise, then a linear fall to 0.

    >>> [learning_rate_share(p, 0.5) for p in (0.25, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup)) if warmup < 1 else 1.0
