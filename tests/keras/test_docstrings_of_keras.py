"""The examples of what imports Keras, in docstrings and pages, which need a process with the backend."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import regard
import regard.compat.keras
import regard.keras

MODULES = "", ".attention", ".blocks", ".feedforward", ".multihead", ".pooling", ".weights"


@pytest.mark.parametrize("name", [*(f"regard.keras{part}" for part in MODULES), "regard.compat.keras"])
def test_examples_give_what_they_say(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"np": np, "keras": keras, "regard": regard})
    assert result.attempted > 0
    assert result.failed == 0


def test_the_code_of_the_page_runs():
    text = (Path(__file__).resolve().parents[2] / "docs" / "attention.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(import keras\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(code, "attention.md", "exec"), {"np": np})


@pytest.mark.parametrize("name", regard.keras.__all__)
def test_every_public_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(regard.keras, name))
