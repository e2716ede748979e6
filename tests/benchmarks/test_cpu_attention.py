"""The benchmark compares what is equal, counts what is kept, and prints what it measured."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "cpu_attention"]:
        del sys.modules[name]


def part(name):
    return importlib.import_module(f"cpu_attention.{name}")


ITEMS = {
    "ragged": {"lengths": (5, 1, 12)},
    "ragged causal": {"lengths": (5, 1, 12), "causal": True},
    "dense causal": {"lengths": (9, 9), "causal": True},
    "window": {"lengths": (20,), "causal": True, "window": 4},
    "decode": {"lengths": (2,) * 3, "caches": (11,) * 3, "key_heads": 2, "passes": ("forward",)},
    "bias": {"lengths": (200,), "bias": "relative"},
    "bias causal": {"lengths": (20,), "bias": "relative", "causal": True},
    "bias alibi": {"lengths": (20,), "bias": "alibi", "causal": True},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("title", ITEMS)
def test_every_peer_computes_what_ours_computes(title, dtype):
    items, compare, problem = part("items"), part("compare"), part("problem")
    item = items.Item(title, title.partition(" ")[0], heads=4, size=8, **{"key_heads": 4, **ITEMS[title]})
    # Compiling FlexAttention takes longer than all other tests together; jagged tensors refuse causality.
    left_out = {"flex", "jagged"} if item.causal else {"flex"}
    names = tuple({"ours", *items.PEERS[item.group]} - left_out)
    refusals = {}
    ready = compare.prepare(problem.make_problem(item, dtype=dtype), names, refusals)
    for what in item.passes:
        assert compare.disagreements(ready, what) == {}
    assert refusals == {}
    assert len(ready) > 1


def test_a_peer_that_computes_something_else_is_not_timed():
    items, compare, problem = part("items"), part("compare"), part("problem")
    causal = problem.make_problem(items.Item("x", "dense", (9,), causal=True))
    full = problem.make_problem(items.Item("x", "dense", (9,)))
    contenders = part("contenders").CONTENDERS
    reasons = compare.disagreements(
        {"ours": contenders["ours"](full), "sdpa": contenders["sdpa"](causal)}, "forward"
    )
    assert reasons["sdpa"].startswith("differs from ours by")


def test_a_row_says_what_was_measured():
    items, clock, table = part("items"), part("clock"), part("table")
    item = items.Item("small", "dense", (16,), heads=2, key_heads=2, size=8)
    rows = part("compare").compare(item, clock.Pace(budget=0.001, sample=1e-5, rounds=(2, 2)))
    assert [row.what for row in rows] == ["forward", "f+b"]
    for row in rows:
        assert row.seconds.keys() == {"ours", "sdpa"}
        assert row.ratios["sdpa"] == row.seconds["sdpa"] / row.seconds["ours"]
        assert "small" in table.line(row, 10)
        assert f"{row.ratios['sdpa']:.2f}" in table.line(row, 10)


def test_arithmetic_is_counted_for_kept_pairs_alone():
    items, compare, problem = part("items"), part("compare"), part("problem")
    item = items.Item("x", "dense", (6, 6), causal=True, heads=2, key_heads=2, size=8)
    made = problem.make_problem(item)
    ours = part("contenders").ours(made)
    pairs = 2 * 2 * (1 + 2 + 3 + 4 + 5 + 6)
    assert compare.operations(made, ours, "forward") == 2 * pairs * 16
    assert compare.operations(made, ours, "f+b") == 3.5 * 2 * pairs * 16


def test_batches_are_the_same_in_every_run():
    lengths = [(7 * n) % 31 + 1 for n in range(300)]
    first, second = (part("sentences").batches(lengths, (4,)) for _ in range(2))
    assert first == second
    assert max(first["4-sorted"]) - min(first["4-sorted"]) <= 1


def test_the_exponent_is_the_slope_of_the_longer_points():
    points = [{"length": 2**n, "seconds": 1 + 4.0 ** (n - 20)} for n in range(20)]
    points += [{"length": 2**n, "seconds": 4.0**n} for n in range(20, 40)]
    assert part("growth").exponent(points, "seconds") == pytest.approx(2)
