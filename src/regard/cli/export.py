"""`regard export`: a trained model for another program."""

from __future__ import annotations

from pathlib import Path

from regard.cli._output import give


def export(run: Path, /, *, to: str, out: Path) -> None:
    """Write a trained model in the format of another program.

    Args:
        run: A run folder.
        to: The format: ctranslate2 or onnx.
        out: The folder to write to.
    """
    from regard._load import load
    from regard.export import export as write

    for path in write(load(run), to, out):
        give(f"{path.stat().st_size:>12,}  {path}")
