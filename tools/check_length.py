"""Refuse a source file of more than 400 lines, which holds two ideas, and C++ wider than 140 columns."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 400
SUFFIXES = {".py", ".html", ".css", ".js"}
WIDTH = 140


def long_files(root: Path = ROOT) -> list[str]:
    """One line for each file under `src/` that is too long."""
    problems = []
    for path in sorted((root / "src").rglob("*")):
        if path.suffix in SUFFIXES:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LIMIT:
                problems.append(f"{path.relative_to(root)}: {lines} lines; at most {LIMIT}: split it by idea")
    return problems


def wide_lines(root: Path = ROOT) -> list[str]:
    """One line for each line under `csrc/` that is too wide; the formatter knows the width of Python."""
    return [
        f"{path.relative_to(root)}:{number}: {len(line)} columns; at most {WIDTH}"
        for path in sorted((root / "csrc").rglob("*.*"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > WIDTH
    ]


if __name__ == "__main__":
    problems = long_files() + wide_lines()
    print(
        "\n".join(problems)
        or f"No file in src/ has more than {LIMIT} lines, no line in csrc/ more than {WIDTH} columns."
    )
    sys.exit(bool(problems))
