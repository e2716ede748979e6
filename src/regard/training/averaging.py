"""A running average of the weights, whose memory grows with the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """An exponential average over about the last `share` of all steps so far (power-law averaging: Karras et al. 2024).

    `average += (1 - (1 - 1 / t) ** (1 / share)) * (weights - average)` after step t: no length of run needs to be known.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.share = share
        self.followed = [parameter.detach() for parameter in model.parameters()]
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after step number `step`, counted from 1."""
        follow = 1 - (1 - 1 / step) ** (1 / self.share)
        torch._foreach_lerp_(list(self.weights.values()), self.followed, follow)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, the model has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights with the average; a second call exchanges them back."""
        for average, weights in zip(self.weights.values(), self.followed, strict=True):
            held = average.clone()
            average.copy_(weights)
            weights.copy_(held)
