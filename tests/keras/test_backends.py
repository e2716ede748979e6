"""Every test of this folder, and the examples of the docstrings, on each of Keras' backends that regard computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regard._choice import BACKENDS

FOLDER = Path(__file__).parent
MORE = {"torch": [str(FOLDER.parent / "check" / "test_keras.py")]}


# PyTorch's process runs the same tests as NumPy's, and one more.
SLOW = {"numpy"}


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BACKENDS]
)
def test_all_tests_pass_on(backend):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(FOLDER)]
    command += MORE.get(backend, [])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        command, env=environment | {"KERAS_BACKEND": backend}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
