"""The example of an exported model translates as the model does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import regard
from regard.export import export
from regard.samples import sample_path
from regard.tasks import make_task
from regard.training import runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make install")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "translate_onnx.py"
SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 2, "vocabulary": 400}
TEXTS = ["A dog runs.", "Where are you going in the middle of the night?", "42"]


def test_the_example_translates_as_the_model_does(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)
    dev = sample_path("translate")["dev"]
    runs.begin(
        make_task("translate"),
        Recipe(steps=1, **SIZES),
        dev,
        None,
        tmp_path / "run",
        Reporter(None, Silence()),
    )
    predictor = regard.load(tmp_path / "run")
    export(predictor, "onnx", tmp_path / "model")
    spec = importlib.util.spec_from_file_location("translate_onnx", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    translator = module.Translator(tmp_path / "model")
    for text in TEXTS:
        assert translator([text]) == [predictor(text, beam=1).text]
    result = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "model", *TEXTS], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n".join(translator(TEXTS)) + "\n"
