"""The least that an optimizer is: groups of parameters with their settings, and a state of every parameter.

`torch.optim.Optimizer` imports PyTorch's compiler with the first step: 70 MB of memory and seconds of waiting for what is never used here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor


class Optimizer:
    """Has `param_groups` and `state` in the form of PyTorch's optimizers."""

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        self.param_groups = [{**settings, **group, "params": list(group["params"])} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def with_gradients(group: dict[str, Any]) -> list[Tensor]:
    """The parameters of a group that have a gradient."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]
