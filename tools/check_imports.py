"""Refuse an import in `src/` that neither the standard library, a dependency nor an extra provides."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Distributions whose import name differs from their own.
IMPORT_NAMES = {"pillow": "PIL"}
# What only the tests and checks need may not be imported by the package.
NOT_FOR_USERS = {"dev"}


def provided_names(project: dict) -> set[str]:
    """The top-level import names that a user can install by naming `regard` or one of its extras."""
    requirements = list(project["dependencies"])
    for extra, wanted in project["optional-dependencies"].items():
        requirements += [] if extra in NOT_FOR_USERS else wanted
    names = {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every absolute import, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def undeclared_imports(root: Path = ROOT) -> list[str]:
    """One line for each import that nothing declares."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = provided_names(project) | set(sys.stdlib_module_names) | {"regard"}
    return [
        f"{path.relative_to(root)}:{line}: `{name}` is imported, but no dependency or extra in pyproject.toml declares it"
        for path in sorted((root / "src").rglob("*.py"))
        for line, name in imported_names(path.read_text(encoding="utf-8"))
        if name not in allowed
    ]


if __name__ == "__main__":
    problems = undeclared_imports()
    print("\n".join(problems) or "Every import in src/ is declared.")
    sys.exit(bool(problems))
