"""The demo, in small: it trains, scores, translates and draws."""

from __future__ import annotations

import gzip
import importlib.util
import re
from pathlib import Path

import pytest

from regard.samples import SPLITS, sample_path
from regard.training.recipe import Recipe

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 2, "vocabulary": 400}


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_ends_with_translations_and_a_page(demo, monkeypatch, capsys, tmp_path):
    few = {}
    for split in SPLITS:
        few[split] = tmp_path / f"{split}.jsonl"
        with gzip.open(sample_path("translate")[split], "rt", encoding="utf-8") as file:
            few[split].write_text("".join(next(file) for _ in range(40)), encoding="utf-8")
    monkeypatch.setattr(demo, "sample_path", lambda task: few)
    monkeypatch.setattr(
        demo, "Recipe", lambda minutes: Recipe(minutes=minutes, evaluations=1, dev_examples=4, **SIZES)
    )
    demo.main(0.01, tmp_path / "run")
    shown = capsys.readouterr().out
    assert "40 held-out sentences  before  after" in shown
    assert shown.count("    model   ") == shown.count("    person  ") == 8
    page = (tmp_path / "run" / "attention.html").read_text(encoding="utf-8")
    assert any(f"{words} →" in page for words in re.findall(r"^  (\S.*)$", shown, re.MULTILINE))
    assert "http://" not in page.replace("http://www.w3.org", "")
