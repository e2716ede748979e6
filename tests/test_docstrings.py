"""Every public name has an example in its docstring, and every example is run."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import regard
import regard.nn

SOURCE = Path(__file__).resolve().parents[1] / "src"
# Keras' backend is one for a process: tests/keras runs their examples, in a process for each.
WITH_KERAS = "regard.keras", "regard.compat.keras"
WITHOUT_EXAMPLE = {
    "Mask": "the base of the masks; each of them has one",
    "AuxOutput": "an answer; the example stands at Aux, which asks",
    "Explanation": "an answer; the example stands at explain",
    "Leak": "a part of an answer; the example stands at check",
    "Leaks": "an answer; the example stands at check",
    "Shape": "sizes; the example stands at EncoderDecoder",
    "load": "needs a trained run; tests/test_load.py and the README's test call it",
}


def modules_with_examples() -> list[str]:
    """Names of the modules whose text holds a prompt."""
    names = []
    for path in sorted((SOURCE / "regard").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.startswith(WITH_KERAS)]


def public_things() -> dict[str, object]:
    """The classes and functions of `regard` and `regard.nn` by their names, errors left out: they have no use of their own."""
    things = [*vars(regard.nn).items(), *((name, getattr(regard, name)) for name in regard.__all__)]
    return {
        name: thing
        for name, thing in things
        if inspect.isfunction(thing) or (inspect.isclass(thing) and not issubclass(thing, regard.RegardError))
    }


@pytest.mark.parametrize("name", public_things())
def test_every_public_name_has_an_example_or_a_reason_for_none(name):
    text = inspect.getdoc(public_things()[name]) or ""
    assert (">>> " in text) != (name in WITHOUT_EXAMPLE)


def test_only_public_names_are_excused():
    assert public_things().keys() >= WITHOUT_EXAMPLE.keys()


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {"np": np, "torch": torch, "regard": regard}
    with np.printoptions(precision=4, suppress=True):
        result = doctest.testmod(
            module, extraglobs=names, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
    assert result.attempted > 0
    assert result.failed == 0
