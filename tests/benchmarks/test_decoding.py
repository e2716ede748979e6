"""The benchmark of decoding runs, and its parts make a whole."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from regard._lowering import kernel
from regard.samples import sample_path
from regard.tasks import make_task
from regard.training import runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 1, "vocabulary": 400}


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
def test_it_prints_speeds_scores_and_shares(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    decoding = importlib.import_module("decoding")
    dev = str(sample_path("translate")["dev"])
    runs.begin(
        make_task("translate"), Recipe(steps=1, **SIZES), dev, None, tmp_path, Reporter(None, Silence())
    )
    options = ("--sentences", "3", "--single", "2", "--rounds", "1")
    monkeypatch.setattr(sys, "argv", ["decoding.py", "--run", str(tmp_path), "--data", dev, *options])
    decoding.main()
    printed = capsys.readouterr().out
    rows = re.findall(
        r"^\| (PyTorch|fp32|bf16|int8) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", printed, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["PyTorch", "fp32", "bf16", "int8"] * 2
    assert all(float(row[2]) > 0 for row in rows)
    shares = re.findall(r"^\w+, (?:all|one): (.*)$", printed, re.MULTILINE)
    assert len(shares) == 12
    for line in shares:
        assert 96 <= sum(int(share) for share in re.findall(r"(-?\d+)%", line)) <= 104
