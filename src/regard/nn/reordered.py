"""Linear layers of fixed weights: float32 products on a CPU by oneDNN, on weights that lie in its own order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard._arrays import is_traced
from regard.backends.torch.function import is_differentiated
from regard.nn.linear import Linear

# PyTorch sends float32 products to MKL, which on AMD's processors is slower than oneDNN, for few rows several times. These are
# the operators that `torch.compile` itself uses for fixed weights; where a release lacks them, the plain product serves.
ONEDNN: Any = torch.ops.mkldnn if hasattr(torch.ops.mkldnn, "_linear_pointwise") else None


class ReorderedLinear(Linear):
    """`Linear`, whose products, where no gradient is asked for, use a second copy of the weight in oneDNN's order.

    The copy is made at the first such product and dropped at the first product with a gradient, for training changes the weight.
    Whoever writes into `weight.data`, which PyTorch does not count as a change, has to call `forget()`.
    """

    _copy: Tensor | None = None
    _source: tuple[Tensor, int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if is_differentiated(x, self.weight):
            self.forget()
            return super().forward(x)
        if not self._serves(x):
            return super().forward(x)
        return ONEDNN._linear_pointwise(x, self._reordered(), self.bias, "none", [], "")

    def forget(self) -> None:
        """Drop the copy."""
        self._copy = self._source = None

    def _serves(self, x: Tensor) -> bool:
        return (
            ONEDNN is not None
            and x.dtype is self.weight.dtype is torch.float32
            and x.device.type == self.weight.device.type == "cpu"
            and not is_traced(x)
            and not torch.is_autocast_enabled("cpu")
            and not self.weight.is_inference()
            and bool(torch.backends.mkldnn.enabled)
            and torch.backends.mkldnn.is_available()
        )

    def _reordered(self) -> Tensor:
        weight = self.weight
        source = (weight, weight._version, weight.data_ptr())
        if self._copy is None or self._source is None or not _same(self._source, source):
            self._copy, self._source = ONEDNN._reorder_linear_weight(weight.detach(), None), source
        return self._copy

    def __getstate__(self) -> dict[str, Any]:
        """Without the copy, which PyTorch can neither copy nor pickle."""
        return {name: value for name, value in vars(self).items() if name not in ("_copy", "_source")}


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] is other[0] and one[1:] == other[1:]
