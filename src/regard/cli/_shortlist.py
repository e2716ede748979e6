"""`--shortlist FILE`: what a model may write, learned from pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def shortlist_option(predictor: Any, path: Path | None) -> dict[str, Any]:
    """The keyword of a prediction with the shortlist in a file, or none."""
    if path is None:
        return {}
    from regard.decoding.shortlist import Shortlist

    return {"shortlist": Shortlist.load(path, len(predictor.task.tokenizer))}
