"""In which forms a picture is saved, by the ending of the name."""

from __future__ import annotations

from pathlib import Path

from regard._errors import RegardError

ENDINGS = (".html", ".svg", ".png")


def ending(path: Path) -> str:
    """The ending of a picture's name, in lower case; RegardError where no picture is saved by it."""
    found = path.suffix.lower()
    if found not in ENDINGS:
        raise RegardError(
            f"unknown picture format: expected .html, .svg or .png, received {path.name!r}; let the name end in one of them"
        )
    return found
