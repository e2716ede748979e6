"""What was measured so far, kept in one file, and the one table made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

Results = dict[str, dict[str, Any]]  # by contender: facts, speed, quality by budget, decode by setting
FILE = "results.json"


def read(folder: Path) -> Results:
    """The results of earlier commands; none at first."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf8")) if path.exists() else {}


def add(folder: Path, name: str, kind: str, found: dict[str, Any]) -> None:
    """Keep what was found; what had another key stays."""
    results = read(folder)
    results.setdefault(name, {}).setdefault(kind, {}).update(found)
    (folder / FILE).write_text(json.dumps(results, indent=1), encoding="utf8")


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Their time by ours, the median over rounds, from what each did a second in each round: above 1, ours is faster."""
    return median(our / their for our, their in zip(ours, theirs, strict=True))


def table(results: Results) -> str:
    """Everything in Markdown, a row for each contender; what was not measured is a dash."""
    budgets = sorted({key for row in results.values() for key in row.get("quality", {})}, key=_order)
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "parameters": lambda row: _number(row, ("facts", "parameters")),
        "tokens/s": lambda row: _number(row, ("speed", "rate")),
        "times ours": lambda row: _number(row, ("speed", "ratio"), "{:.2f}"),
        "padding": lambda row: _number(row, ("speed", "padding"), "{:.1%}"),
        "tokens an update": lambda row: _number(row, ("speed", "tokens")),
        "training, MiB": lambda row: _number(row, ("speed", "peak_mib")),
    }
    for budget in budgets:
        if budget.endswith("updates"):
            columns[f"dev loss, {budget}"] = _cell("quality", budget, "dev_loss", "{:.3f}")
        else:
            columns[f"BLEU, {budget}"] = _cell("quality", budget, "bleu", "{:.2f}")
            columns[f"chrF, {budget}"] = _cell("quality", budget, "chrf", "{:.2f}")
    for title, key, form in (
        ("greedy, sentences/s", "greedy 64", "{:,.0f}"),
        ("beam 5, sentences/s", "beam 5 64", "{:,.0f}"),
        ("one, greedy, sentences/s", "greedy 1", "{:,.1f}"),
        ("one, beam 5, sentences/s", "beam 5 1", "{:,.1f}"),
    ):
        columns[title] = _cell("decode", key, "rate", form)
    columns["one, beam 5, ms"] = _cell("decode", "beam 5 1", "milliseconds", "{:.1f}")
    columns["decoding, MiB"] = lambda row: _number(row, ("decode", "peak_mib"))
    kept = {
        title: cell for title, cell in columns.items() if any(cell(row) != "-" for row in results.values())
    }
    lines = ["| | " + " | ".join(kept) + " |", "| --- |" + " --: |" * len(kept)]
    for name, row in results.items():
        lines.append(f"| {name} | " + " | ".join(cell(row) for cell in kept.values()) + " |")
    return "\n".join(lines)


def _cell(kind: str, key: str, name: str, form: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _number(row, (kind, key, name), form)


def _number(row: dict[str, Any], path: tuple[str, ...], form: str = "{:,.0f}") -> str:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return "-" if value is None else form.format(value)


def _order(budget: str) -> tuple[str, float]:
    number, unit = budget.split()
    return unit, float(number)
