"""How far a run is, and the learning rate that goes with it."""

from __future__ import annotations


def learning_rate_share(progress: float, warmup: float) -> float:
    """The share of the peak learning rate at `progress` in [0, 1]: a linear rise, then a linear fall to 0.

    >>> [learning_rate_share(p, 0.5) for p in (0.25, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup))


def stage(progress: float, pretrain: float | None) -> tuple[bool, float]:
    """Whether a run that has spent `progress` of its budget is still pretraining, and how far it is with what it does now.

    >>> [stage(p, 0.5) for p in (0.25, 0.5, 1.0)]
    [(True, 0.5), (False, 0.0), (False, 1.0)]
    """
    pretrain = pretrain or 0.0
    if progress < pretrain:
        return True, progress / pretrain
    return False, (progress - pretrain) / (1 - pretrain)
