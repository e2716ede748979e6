"""A way to call the command line in this process, and one tiny trained run for all of its tests."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from regard.cli import main
from regard.samples import sample_path

TINY = (
    *("--dim", "16", "--heads", "2", "--hidden", "16", "--encoder-layers", "1", "--decoder-layers", "1"),
    *("--vocabulary", "400", "--tokens", "512", "--dev-examples", "2", "--evaluations", "2", "--steps", "4"),
)


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def regard_command(capsys, monkeypatch):
    """Run `regard` with these arguments, and these bytes as standard input."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(regard_command):
    """Run a command that must end with exit code 2 and one message, which is returned."""

    def run(*arguments: object, stdin: bytes = b"") -> str:
        result = regard_command(*arguments, stdin=stdin)
        assert result.code == 2
        assert result.err.startswith("regard: ")
        assert "Traceback" not in result.err
        return result.err

    return run


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Options of a run that takes a second."""
    return TINY


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with `train.jsonl` and `dev.jsonl`, a few pairs each."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 200), ("dev", 8)):
        with gzip.open(sample_path("translate")[split], "rt", encoding="utf-8") as file:
            lines = [next(file) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    files = ("--train", f"{data}/train.jsonl", "--dev", f"{data}/dev.jsonl", "--out", str(folder))
    assert main(["train", "translate", *files, *TINY, "--quiet"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the tiny run that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
