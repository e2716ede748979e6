"""The two READMEs say the same, and what they show works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"
# The READMEs point at each other; every other link is the same in both.
LANGUAGE_LINKS = {"README.md", "README.zh-CN.md"}

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!--\s*not run:\s*\S[^>]*-->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced code block of a README."""

    language: str
    code: str
    runs: bool


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(m[1], m[2], not NOT_RUN.search(text[: m.start()])) for m in FENCE.finditer(text)]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def heading_levels(path: Path) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) \S", prose(path), re.MULTILINE)]


def links(path: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(path))
    targets += re.findall(r'(?:href|src)="([^"]+)"', prose(path))
    return sorted(target for target in targets if target not in LANGUAGE_LINKS)


def table_shapes(path: Path) -> list[int]:
    return [row.count("|") for row in prose(path).splitlines() if row.startswith("|")]


@pytest.mark.parametrize(
    "part", [heading_levels, links, blocks, table_shapes], ids=lambda part: part.__name__
)
def test_the_readmes_are_equal_in(part):
    assert part(ENGLISH) == part(CHINESE)


def test_the_readmes_point_at_each_other():
    assert "(README.zh-CN.md)" in ENGLISH.read_text(encoding="utf-8")
    assert "(README.md)" in CHINESE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_local_links_lead_somewhere(path):
    for link in links(path):
        if "://" not in link and not link.startswith(("#", "mailto:")):
            assert (ROOT / link.partition("#")[0]).exists(), link


def shell_commands(code: str) -> list[list[str]]:
    """The commands of a shell block that call `regard`, comments and continuations resolved."""
    lines = code.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [command for command in commands if command and command[0] == "regard"]


def run_command(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"}
    result = subprocess.run(
        [sys.executable, "-c", "import sys; from regard.cli import main; sys.exit(main())", *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__readme__"}
    for block in blocks(ENGLISH):
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.code, str(ENGLISH), "exec"), namespace)
        elif block.language in {"bash", "sh", "shell", "console"}:
            for command in shell_commands(block.code):
                run_command(command, tmp_path)


def test_blocks_know_whether_they_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n1\n```\n\n<!-- not run: takes an hour -->\n```bash\nregard train\n```\n", encoding="utf-8"
    )
    assert blocks(page) == [Block("python", "1\n", runs=True), Block("bash", "regard train\n", runs=False)]


def test_shell_blocks_give_the_commands_of_regard():
    code = "pip install regard\nregard predict runs/x \\\n  'A dog.'   # a comment\n$ regard inspect runs/x\n"
    assert shell_commands(code) == [
        ["regard", "predict", "runs/x", "A dog."],
        ["regard", "inspect", "runs/x"],
    ]
