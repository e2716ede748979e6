"""Trained models in the formats of other programs, which need neither PyTorch nor this package to run them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from regard._errors import ConfigError, nearest

FORMATS = {"ctranslate2": "CTranslate2, a C++ runtime for translation", "onnx": "ONNX Runtime and its like"}
LAYERS = {"attention_to_onnx": "attention", "block_to_onnx": "blocks"}  # what writes a layer, and its file


def export(predictor: Any, to: str, folder: Path) -> list[Path]:
    """Write the model of a run in another program's format.

    Arguments:
        predictor: what `regard.load` gives, of a translation run.
        to: the format, a key of `FORMATS`.
        folder: where to write; it may exist, if it holds nothing else than an earlier export.

    Returns:
        The files written.

    Raises:
        ConfigError: the run is no translator, the format is unknown, its package is not installed, the model cannot be expressed in it, or the folder
            holds other files.
    """
    if to not in FORMATS:
        raise ConfigError(
            f"there is no format {to!r}{nearest(to, FORMATS)}. Expected: {' or '.join(FORMATS)}."
        )
    if predictor.task.name != "translate":
        raise ConfigError(
            f"only translators can be written for other programs yet. Expected: a run of translate. "
            f"Received: one of {predictor.task.name}."
        )
    return list(importlib.import_module(f"regard.export.{to}").write(predictor, folder))


def __getattr__(name: str) -> Any:
    # Layers bring PyTorch along, which the list of formats does without.
    if name in LAYERS:
        return getattr(importlib.import_module(f"regard.export.{LAYERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
