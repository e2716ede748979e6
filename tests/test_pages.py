"""The READMEs and the pages in docs say the same in both languages, and what they show works."""

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
# In the order in which a reader runs what they show.
ENGLISH = [ROOT / "README.md", ROOT / "docs" / "applications.md", ROOT / "docs" / "attention.md"]
PAIRS = [(page, page.with_suffix(".zh-CN.md")) for page in ENGLISH]
PAGES = [page for pair in PAIRS for page in pair]

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!--\s*not run:\s*\S[^>]*-->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

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
    return targets + re.findall(r'(?:href|src)="([^"]+)"', prose(path))


def targets(path: Path) -> list[str]:
    """The files that a page points at, in whichever language; each points at its own twin, too."""
    return sorted(link.partition("#")[0].replace(".zh-CN.md", ".md") for link in links(path))


def anchors(path: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (\S.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def table_shapes(path: Path) -> list[int]:
    return [row.count("|") for row in prose(path).splitlines() if row.startswith("|")]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
@pytest.mark.parametrize(
    "part", [heading_levels, targets, blocks, table_shapes], ids=lambda part: part.__name__
)
def test_the_languages_are_equal_in(part, pair):
    english, chinese = pair
    assert part(english) == part(chinese)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_the_languages_point_at_each_other(pair):
    english, chinese = pair
    assert f"({chinese.name})" in english.read_text(encoding="utf-8")
    assert f"({english.name})" in chinese.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_local_links_lead_somewhere(path):
    for link in links(path):
        if "://" not in link and not link.startswith("mailto:"):
            name, _, anchor = link.partition("#")
            page = path.parent / name if name else path
            assert page.exists(), link
            assert not anchor or anchor in anchors(page), link


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


def test_the_code_of_the_pages_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__pages__"}
    for page in ENGLISH:
        for block in blocks(page):
            if block.runs and block.language == "python":
                exec(compile(block.code, str(page), "exec"), namespace)
            elif block.runs and block.language in {"bash", "sh", "shell", "console"}:
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
