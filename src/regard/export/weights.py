"""The weights of a translation model as NumPy arrays, each taken once, so that an export leaves none behind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.nn.blocks import DecoderBlock, EncoderBlock
from regard.nn.norm import RMSNorm
from regard.nn.rotary import Rotary
from regard.nn.transformer import EncoderDecoder, Shape

Array = NDArray[np.float32]
EPSILON, ROTARY_BASE = 1e-6, 10000.0  # of every norm, and of all positions


class Weights:
    """What an export reads of an `EncoderDecoder`.

    Arguments:
        model: the model of a run.

    Raises:
        ConfigError: the model is no encoder-decoder of the blocks that the exports know.
    """

    def __init__(self, model: Any) -> None:
        _check(model)
        self.shape: Shape = model.shape
        self._left = {
            name: parameter.detach().float().numpy() for name, parameter in model.named_parameters()
        }

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.shape.dim // self.shape.heads

    def take(self, name: str, *shape: int) -> Array:
        """The parameter of this name, which must have this shape."""
        array = self._left.pop(name, None)
        if array is None or array.shape != shape:
            received = "none" if array is None else array.shape
            raise ConfigError(
                f"the model cannot be exported: expected {name} of shape {shape}, received {received}."
            )
        return np.ascontiguousarray(array)

    def finish(self) -> None:
        """Raises ConfigError where a parameter was left behind: the export would compute something else."""
        if self._left:
            raise ConfigError(
                f"the model cannot be exported: there is no place for {', '.join(sorted(self._left))}. "
                "Only the blocks that `regard train translate` makes can be exported."
            )


def _check(model: Any) -> None:
    if type(model) is not EncoderDecoder:
        raise ConfigError(
            f"only translation models can be exported. Expected: an EncoderDecoder. Received: {type(model).__name__}."
        )
    for kind, stack in ((EncoderBlock, model.encoder), (DecoderBlock, model.decoder)):
        for block in stack.blocks:
            if type(block) is not kind:
                raise ConfigError(
                    f"the model cannot be exported: expected blocks of {kind.__name__}, received {type(block).__name__}."
                )
    for module in model.modules():
        eps, base = getattr(module, "eps", EPSILON), getattr(module, "base", ROTARY_BASE)
        if isinstance(module, RMSNorm | Rotary) and (eps, base) != (EPSILON, ROTARY_BASE):
            raise ConfigError(
                f"the model cannot be exported: expected norms with eps={EPSILON} and positions with base={ROTARY_BASE}, "
                f"received {type(module).__name__} with eps={eps} and base={base}."
            )
