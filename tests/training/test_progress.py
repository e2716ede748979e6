from __future__ import annotations

import json
import subprocess
import sys

import pytest

from regard.training import progress
from regard.training.progress import Lines, Reporter, Silence, _clock
from regard.training.recipe import Recipe


class Listening:
    def __init__(self):
        self.heard = []

    def update(self, progress, text):
        self.heard.append(("update", progress, text))

    def line(self, text):
        self.heard.append(("line", text))

    def close(self):
        self.heard.append(("close",))


def fed(metrics, display, steps, recipe=None):
    reporter = Reporter(metrics, display)
    reporter.start(recipe or Recipe(steps=100), 0.0)
    for step in steps:
        reporter.step(step=step, loss=float(step), tokens=10, share=0.5, progress=step / 100, epoch=0)
    return reporter


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def test_every_line_of_the_metrics_is_an_event(tmp_path):
    path, display = tmp_path / "metrics.jsonl", Listening()
    reporter = fed(path, display, range(1, 46))
    reporter.dev(45, 2.5, {"bleu": 12.3456789, "chrf": 30.0}, better=True)
    reporter.finish(45, 61.0, 12.3456789, 45)
    events = read(path)
    assert [event["event"] for event in events] == ["step", "step", "dev", "step", "end"]
    assert [event["step"] for event in events] == [20, 40, 45, 45, 45]
    assert events[3]["loss"] == pytest.approx(43.0)  # of the five that were left
    assert events[0]["loss"] == pytest.approx(10.5)
    assert events[0].keys() == {
        "event",
        "seconds",
        "step",
        "loss",
        "tokens_per_second",
        "learning_rate_share",
        "epoch",
    }
    assert events[2]["bleu"] == 12.34568
    shown = "\n".join(str(part) for part in display.heard)
    assert "best so far" in shown
    assert "45 updates in 1:01; best dev score 12.3 at step 45" in shown
    assert ("close",) in display.heard


def test_going_on_forgets_what_comes_again(tmp_path):
    """Interrupted after 55 steps, resumed at 30: the same lines as without interruption."""
    whole = tmp_path / "whole.jsonl"
    fed(whole, Silence(), range(1, 81))
    path = tmp_path / "metrics.jsonl"
    reporter = fed(path, Silence(), range(1, 31))
    state = json.loads(json.dumps(reporter.state()))
    for step in range(31, 56):
        reporter.step(step=step, loss=float(step), tokens=10, share=0.5, progress=step / 100, epoch=0)
    resumed = Reporter(path, Silence())
    resumed.restore(state)
    resumed.start(Recipe(steps=100), 3.0)
    for step in range(31, 81):
        resumed.step(step=step, loss=float(step), tokens=10, share=0.5, progress=step / 100, epoch=0)
    times = {"seconds": 0, "tokens_per_second": 0}
    assert [event | times for event in read(path)] == [event | times for event in read(whole)]


def test_without_a_file_nothing_is_written():
    reporter = fed(None, Silence(), range(1, 30))
    reporter.dev(1, 1.0, {"bleu": 1.0}, better=False)
    assert reporter.state()["written"] == 0


def test_lines_are_rare_and_go_to_stderr(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = Lines(seconds=10)
    for _ in range(25):
        now[0] += 1
        lines.update(0.5, "text")
    lines.line("at once")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == " 50%  text\n" * 3 + "at once\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00"), (36061, "10:01:01")]
)
def test_clock(seconds, text):
    assert _clock(seconds) == text


@pytest.mark.parametrize("minutes", [None, 2.0])
def test_the_time_left_is_told(minutes):
    display = Listening()
    recipe = Recipe(steps=100) if minutes is None else Recipe(minutes=minutes)
    fed(None, display, range(1, 21), recipe)
    (_, share, text) = display.heard[-1]
    assert share == 0.2
    assert "step 20  loss 10.500" in text
    assert text.endswith("left")
    if minutes is not None:
        assert "1:36 left" in text


def test_keeping_freed_memory_does_no_harm():
    """In a process of its own: the settings last."""
    code = (
        "from regard.training.memory import keep_freed_memory\n"
        "import numpy as np, platform\n"
        "kept = keep_freed_memory()\n"
        "assert kept == (platform.libc_ver()[0] == 'glibc'), kept\n"
        "for _ in range(20):\n"
        "    assert (np.ones(1 << 21) + 1).sum() == 1 << 22\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60
    )
