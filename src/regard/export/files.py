"""The folder that an export writes, and the packages that exports need."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from regard._errors import ConfigError

TOKENIZER = "tokenizer.json"


def needed(module: str, package: str) -> Any:
    """The module of a package that only an export needs; ConfigError says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{package} is not installed, and an export to it needs it. To mend it: pip install 'regard[export]'"
        ) from error


def prepare(folder: Path, ours: Collection[str]) -> None:
    """Make the folder; ConfigError where it holds anything but the files of an earlier export, which will be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Expected: a folder to write to. Name another one with --out.")
    foreign = (
        sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    )
    if foreign:
        raise ConfigError(
            f"{folder} holds other files ({', '.join(foreign[:3])}{' ...' if len(foreign) > 3 else ''}); nothing was "
            "changed. Name another folder with --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
