"""The command itself: fast, helpful, and quiet about its inside."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import regard
from regard.cli import _app, main

SOURCE = Path(__file__).resolve().parents[2] / "src"
COMMANDS = sorted(_app.COMMANDS)
FRAMEWORKS = ("torch", "tokenizers", "safetensors", "sacrebleu", "tensorflow", "jax", "onnx", "ctranslate2")


def fresh(code: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, **options
    )


def test_help_is_fast():
    """Beside the import of NumPy in seconds of the processor, which neither a busy nor a slow machine changes much: 2.1 times it."""

    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fresh(code).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [
        (seconds("from regard.cli import main; main(['--help'])"), seconds("import numpy")) for _ in range(3)
    ]
    assert min(shown for shown, _ in pairs) < 3.5 * min(imported for _, imported in pairs)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_no_framework(arguments):
    code = f"import sys; from regard.cli import main; main({arguments}); print(*sys.modules)"
    imported = set(fresh(code).stdout.splitlines()[-1].split())
    assert not imported & set(FRAMEWORKS)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_begins_with_examples(regard_command, arguments):
    result = regard_command(*arguments)
    assert result.code == 0
    assert result.out.startswith("Examples:\n  regard ")
    assert result.err == ""


def test_help_lists_the_commands(regard_command):
    assert all(f" {name} " in regard_command("--help").out for name in COMMANDS)


def test_the_version(regard_command):
    assert regard_command("--version").out == f"{regard.__version__}\n"


def test_an_unknown_command_names_the_nearest(refused):
    assert 'Did you mean "train"?' in refused("tran")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("train", "translate", "--minuts", "3"), "--minutes"),
        (("evaluate", "runs/x", "--data", "y", "--baem", "3"), "--beam"),
        (("predict", "runs/x", "--jsn"), "--json"),
        (("inspect", "runs/x", "--jsn"), "--json"),
    ],
)
def test_an_unknown_option_names_the_nearest(refused, arguments, nearest):
    assert f"Did you mean {nearest}?" in refused(*arguments)


def test_a_missing_argument_is_named(refused):
    assert "RUN" in refused("predict")
    assert "RUN" in refused("evaluate")


def test_a_value_of_the_wrong_kind_is_named(refused):
    assert "--steps" in refused("train", "translate", "--steps", "many")


@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_a_folder_without_a_run_is_refused(refused, tmp_path, command):
    assert "holds no run" in refused(command, tmp_path)


def failing(error):
    def run(_arguments):
        raise error

    return run


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    monkeypatch.setattr("regard.cli._run", failing(KeyboardInterrupt()))
    assert main([]) == 130
    assert capsys.readouterr().err == "regard: interrupted\n"


def test_a_file_that_cannot_be_written_is_a_message(monkeypatch, capsys):
    monkeypatch.setattr("regard.cli._run", failing(PermissionError(13, "Permission denied", "/x")))
    assert main([]) == 2
    assert capsys.readouterr().err == "regard: /x: Permission denied\n"


def test_a_package_that_is_missing_is_a_message(monkeypatch, capsys):
    monkeypatch.setattr("regard.cli._run", failing(ModuleNotFoundError("no torch", name="torch")))
    assert main([]) == 2
    assert "pip install 'regard[tasks]'" in capsys.readouterr().err


def test_a_fault_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr("regard.cli._run", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main([])


def test_a_closed_pipe_is_quiet():
    code = (
        "import sys, regard.cli\n"
        "from regard.cli._output import give\n"
        "regard.cli._run = lambda arguments: give('x' * 100_000)\n"
        "sys.exit(regard.cli.main([]))"
    )
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


def test_only_the_first_worker_speaks(monkeypatch, capsys):
    from regard.cli._output import give, tell

    monkeypatch.setenv("RANK", "1")
    assert main(["--version"]) == 0
    give("data")
    tell("a message")
    captured = capsys.readouterr()
    assert "data" not in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(("rank", "begins"), [("0", "regard: "), ("1", "rank 1: regard: ")])
def test_every_worker_says_its_error(regard_command, tmp_path, monkeypatch, rank, begins):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    missing = tmp_path / "missing.jsonl"
    result = regard_command("train", "classify", "--train", missing, "--out", tmp_path / "run")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(begins)
    assert str(missing) in result.err


def test_no_color_is_honored():
    code = "from regard.cli import main; main(['--help'])"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "NO_COLOR": "1", "FORCE_COLOR": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert b"\x1b[3" not in result.stdout
