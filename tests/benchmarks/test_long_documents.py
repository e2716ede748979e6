"""The benchmark of long documents runs, and its columns are what they say."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_it_prints_seconds_and_memory(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("long_documents")
    monkeypatch.setattr(benchmark, "in_fresh_process", benchmark.measure)
    monkeypatch.setattr(benchmark.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    options = ("--lengths", "96", "200", "--window", "8", "--others", "100")
    monkeypatch.setattr(sys, "argv", ["long_documents.py", *options])
    benchmark.main()
    printed = capsys.readouterr().out
    assert "| tokens | window 8 | writing | full attention |" in printed
    assert re.search(r"^\| 96 (\| [\d.]+, \d+ ){3}\|$", printed, re.MULTILINE)
    assert re.search(r"^\| 200 (\| [\d.]+, \d+ ){2}\|  \|$", printed, re.MULTILINE)


def test_writing_is_as_long_as_the_summary(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("long_documents")
    monkeypatch.setattr(benchmark, "SUMMARY", 6)
    found = []
    searched = benchmark.search
    monkeypatch.setattr(
        benchmark, "search", lambda *given, **options: found.append(searched(*given, **options))
    )
    benchmark.our_writing(40, 8)()
    ((hypotheses,),) = found
    assert len(hypotheses) == benchmark.BEAM
    assert {len(one.tokens) for one in hypotheses} == {5}


def test_a_window_reads_less_than_the_whole(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("long_documents")
    losses = []
    monkeypatch.setattr(benchmark.torch.Tensor, "backward", lambda loss: losses.append(loss.item()))
    for window in (4, None):
        benchmark.torch.manual_seed(0)
        benchmark.our_step(64, window)()
    assert losses[0] != losses[1]
