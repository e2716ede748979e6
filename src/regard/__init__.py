"""Self-attention as software: one exact operator for every array, without padding."""

from __future__ import annotations

from regard._attention import attention
from regard._aux import Aux, AuxOutput
from regard._biases import Alibi, DenseBias, RelativeBias
from regard._check.check import check
from regard._check.leaks import Leak, Leaks
from regard._errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    DataError,
    RegardError,
    ShapeError,
)
from regard._explain import Explanation, explain
from regard._load import load
from regard._masks import Causal, Dense, Documents, Global, Lengths, Mask, Prefix, Window
from regard._merge import merge
from regard._packed import Packed
from regard._positions import rotary_table, rotate

__all__ = [
    "attention",
    "check",
    "explain",
    "merge",
    "Packed",
    "Mask",
    "Causal",
    "Window",
    "Prefix",
    "Global",
    "Documents",
    "Lengths",
    "Dense",
    "Alibi",
    "RelativeBias",
    "DenseBias",
    "Aux",
    "AuxOutput",
    "Explanation",
    "Leak",
    "Leaks",
    "rotate",
    "rotary_table",
    "RegardError",
    "ShapeError",
    "BackendError",
    "DataError",
    "ConfigError",
    "CheckpointError",
    "load",
]

__version__ = "0.1.0"
