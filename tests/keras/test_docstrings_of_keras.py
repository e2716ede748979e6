"""The examples of what imports Keras, which tests/test_docstrings.py leaves to a process with the backend."""

from __future__ import annotations

import doctest
import importlib
import inspect

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


@pytest.mark.parametrize("name", regard.keras.__all__)
def test_every_public_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(regard.keras, name))
