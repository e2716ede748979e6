"""What lets one code path serve packed and padded sequences."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from regard._arrays import is_traced
from regard._packed import Packed, _unchecked

Sequences = Packed | Tensor


def values_of(x: Sequences) -> Tensor:
    """The tokens' values: (total, ...) when packed, (..., T, ...) otherwise."""
    return x.values if isinstance(x, Packed) else x


def like(x: Sequences, values: Tensor) -> Sequences:
    """`values` in the form of `x`."""
    return x.with_values(values) if isinstance(x, Packed) else values


def form_of(x: Sequences) -> Sequences:
    """What `like` needs of x, without its values: who keeps it does not keep them."""
    return _unchecked(torch.empty(0), x.offsets) if isinstance(x, Packed) else torch.empty(0)


def positions_of(x: Sequences, start: int = 0) -> Tensor:
    """The position of every token in its sequence: (total,) when packed, (T,) otherwise."""
    values = values_of(x)
    if not isinstance(x, Packed):
        return torch.arange(start, start + values.shape[-2], device=values.device)
    if is_traced(values):
        # Nothing here has a shape that depends on numbers; tokens past the last offset count on.
        bounds = torch.as_tensor(x.offsets, device=values.device)
        token = torch.arange(values.shape[0], device=values.device)
        return token - bounds[torch.searchsorted(bounds[1:].contiguous(), token, right=True)] + start
    offsets = x.offsets.astype(np.int64)
    within = np.arange(start, start + offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return torch.from_numpy(within).to(values.device)
