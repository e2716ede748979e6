"""The example of captions, in small: it trains, scores, shows and draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from regard.training.recipe import Recipe

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "caption.py"
SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 1, "vocabulary": 300}


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("caption_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_ends_with_captions_and_a_page(example, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        example,
        "Recipe",
        lambda minutes, evaluations: Recipe(minutes=minutes, evaluations=1, dev_examples=4, **SIZES),
    )
    example.main(0.01, tmp_path / "run")
    shown = capsys.readouterr().out
    assert "139 drawings whose captions are in no training record" in shown
    assert all(f"  {name:<8} " in shown for name in ("cider", "bleu4", "exact"))
    assert shown.count("  model   ") == shown.count("  person  ") == 8
    page = (tmp_path / "run" / "caption.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
