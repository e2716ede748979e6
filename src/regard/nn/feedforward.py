"""The feed-forward half of a block, and dropout by random bytes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._errors import ConfigError
from regard.nn.linear import Linear


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): `(silu(x W_g) * x W_u) W_d`, gate and value projected in one product.

    Arguments:
        dim: width of the tokens going in and coming out.
        hidden: width between.
        bias: whether the projections add a bias.

    >>> regard.nn.FeedForward(8, hidden=16)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = Linear(dim, 2 * hidden, bias=bias)
        self.down = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Dropout(nn.Module):
    """`x * kept / (1 - p)` in training, by one random byte an entry (Srivastava et al. 2014); otherwise `x`.

    On a CPU PyTorch draws a float for every entry, which took a tenth of a training step; bytes take a tenth of that.

    Arguments:
        p: share of the entries that become 0, rounded to a multiple of 1/256.

    Raises:
        ConfigError: the share is not in [0, 1).

    >>> regard.nn.Dropout(0.25)(torch.ones(1000)).unique()
    tensor([0.0000, 1.3333])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= round(p * 256) < 256:
            raise ConfigError(f"dropout must be a share of at least 0 and below 1. Received {p}.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, in and out."""
        threshold = round(self.p * 256)
        if not self.training or threshold == 0:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = (words.view(torch.uint8)[: x.numel()] >= threshold).view(x.shape)
        return x * (kept * (256 / (256 - threshold))).to(x.dtype)
