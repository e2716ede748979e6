"""What holds for the repository as a whole: light imports, a frozen public API, clean files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import check_imports
import check_length
import regard

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "tensorflow",
    "jax",
    "keras",
    "tokenizers",
    "safetensors",
    "sacrebleu",
    "rich",
    "cyclopts",
    "PIL",
    "onnx",
)

PUBLIC = [
    "Alibi",
    "Aux",
    "AuxOutput",
    "BackendError",
    "Causal",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dense",
    "DenseBias",
    "Documents",
    "Explanation",
    "Global",
    "Leak",
    "Leaks",
    "Lengths",
    "Mask",
    "Packed",
    "Prefix",
    "RegardError",
    "RelativeBias",
    "ShapeError",
    "Window",
    "attention",
    "check",
    "explain",
    "load",
    "merge",
    "rotary_table",
    "rotate",
]


def loaded_after(statement: str) -> set[str]:
    """The heavy modules that a fresh interpreter holds after `statement`."""
    script = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def tracked_files() -> list[Path]:
    """Files that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_import_regard_imports_no_framework():
    assert loaded_after("import regard") == set()


def test_results_have_a_public_place_that_costs_no_import():
    names = "set(tasks.__all__) <= set(dir(tasks)) and not hasattr(tasks, 'Answers')"
    assert loaded_after(f"from regard import tasks\nassert {names}") == set()
    loaded_after("from regard.tasks import *\nassert (Answer.__name__, Span.__name__) == ('Answer', 'Span')")


def test_numpy_attention_imports_no_framework():
    statement = "import numpy, regard\nx = numpy.ones((3, 1, 2), 'float32')\nregard.attention(x, x, x)"
    assert loaded_after(statement) == set()


def test_the_public_names_are_these():
    assert sorted(regard.__all__) == PUBLIC


def test_every_public_name_exists_and_says_what_it_is():
    for name in regard.__all__:
        assert (getattr(regard, name).__doc__ or "").strip(), name


def test_loading_a_run_without_pytorch_names_the_remedy():
    statement = """
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Without())
from regard import *
import regard
assert "load" in dir(regard) and hasattr(regard, "load")
try:
    load("a run")
except ConfigError as error:
    assert str(error) == "torch is not installed. To mend it: pip install 'regard[tasks]'", error
else:
    raise AssertionError("nothing was raised")
"""
    assert loaded_after(statement) == set()


def test_an_unknown_attribute_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'atention'"):
        regard.atention  # noqa: B018


def test_every_import_is_declared():
    assert check_imports.undeclared_imports() == []


def test_an_undeclared_import_is_found(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "room.py").write_text("def f():\n    import pandas.io\n    from . import other\n")
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (problem,) = check_imports.undeclared_imports(tmp_path)
    assert problem.startswith("src/room.py:2: `pandas` is imported")


def test_no_source_file_is_too_long():
    assert check_length.long_files() == []


def test_no_file_names_the_machine_it_was_written_on():
    own_words = ["/" + "work/", "/" + "root/"]
    for path in tracked_files():
        text = path.read_bytes()
        found = [word for word in own_words if word.encode() in text]
        assert not found, f"{path.relative_to(ROOT)} names {found}"


def test_text_files_end_in_one_newline():
    for path in tracked_files():
        if path.suffix in {".py", ".md", ".toml", ".txt", ".html"}:
            text = path.read_text(encoding="utf-8")
            assert not text or (text.endswith("\n") and not text.endswith("\n\n")), path.relative_to(ROOT)


def test_the_typing_marker_ships():
    assert (ROOT / "src" / "regard" / "py.typed").is_file()
