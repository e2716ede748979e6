"""Refuse a source file of more than 400 lines: it holds two ideas."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 400
SUFFIXES = {".py", ".html", ".css", ".js", ".h", ".cpp"}


def long_files(root: Path = ROOT) -> list[str]:
    """One line for each file under `src/` that is too long."""
    problems = []
    for path in sorted((root / "src").rglob("*")):
        if path.suffix in SUFFIXES:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LIMIT:
                problems.append(f"{path.relative_to(root)}: {lines} lines; at most {LIMIT}: split it by idea")
    return problems


if __name__ == "__main__":
    problems = long_files()
    print("\n".join(problems) or f"No file in src/ has more than {LIMIT} lines.")
    sys.exit(bool(problems))
