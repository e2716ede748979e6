"""A call of the operators as its numbers are known: the plan made of them, and who computes it."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard._arrays import host_integers
from regard._biases import Bias
from regard._choice import no_backend
from regard._form import Parts, planned
from regard._lowering import kernel, missing
from regard._plan import Plan
from regard.backends.torch import function, native


class Call:
    """The plan, the room that computes it, and the arrays with the bias as backends read it."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        seed: Tensor | None,
        arrays: list[Tensor],
        numbers: list[int],
        q_places: list[int],
        k_places: list[int],
        scale: float | None,
        softcap: float | None,
        dropout_p: float,
        form: str,
    ) -> None:
        shapes = (
            (*q_places, *query.shape[-3 + bool(q_places) :]),
            (*k_places, *key.shape[-3 + bool(k_places) :]),
        )
        rest = (tuple(numbers), *shapes, scale, softcap, dropout_p)
        parts, self.plan = _made(form, arrays, rest)
        self.room = _room(parts.backends, query.device)
        self.seed = None if seed is None else int(seed)
        self.bias: Bias | None = None
        lowered = None
        if bias is not None:
            self.bias = parts.bias[0](bias, *parts.bias[1:])
            self.bias.check(self.plan.spans, self.plan.heads)
            lowered = function.brought(self.bias.lowered(self.plan.distances), query)
        self.arrays = (query, key, value, lowered, sinks)


def _made(form: str, arrays: list[Tensor], rest: tuple[Any, ...]) -> tuple[Parts, Plan]:
    if any(array.dtype == torch.bool for array in arrays):
        return planned(form, arrays, *rest)
    stored = tuple((host_integers(array, "an array of the call"), array.shape) for array in arrays)
    return _remembered(form, tuple((numbers.tobytes(), shape) for numbers, shape in stored), *rest)


# The layers of a model make the same call again and again, forward and backward.
@lru_cache(maxsize=8)
def _remembered(form: str, stored: tuple[tuple[bytes, Any], ...], *rest: Any) -> tuple[Parts, Plan]:
    arrays = [np.frombuffer(numbers, np.int64).reshape(shape) for numbers, shape in stored]
    return planned(form, arrays, *rest)


def _room(names: Sequence[str], device: torch.device) -> Any:
    reasons = []
    for name in names:
        if name == "tiled":
            return function
        if device.type != "cpu":
            reasons.append(f"'native' computes on a CPU, these arrays are on {device.type}")
        elif kernel() is None:
            reasons.append(f"'native' {missing}")
        else:
            return native
    raise no_backend("torch", reasons)


# PyTorch keeps what is registered with it, and so this memory, longer than the kernel's own objects may live.
atexit.register(_remembered.cache_clear)
