"""`regard inspect`: what a run is and how far it has come."""

from __future__ import annotations

import contextlib
import json as json_module
from pathlib import Path
from typing import Any

from regard.cli._output import give, give_json

NOT_SCORES = ("event", "seconds", "step", "dev_loss")


def inspect(run: Path, /, *, json: bool = False) -> None:
    """Say what a run is: its data, its recipe, its scores.

    Args:
        run: A run folder.
        json: One JSON object.
    """
    from regard._load import load
    from regard.training.checkpoints import METRICS

    predictor = load(run)
    events = read_events(run / METRICS)
    scored = [event for event in events if event["event"] == "dev"]
    facts = {
        "folder": str(run),
        "task": predictor.task.name,
        "parameters": sum(parameter.numel() for parameter in predictor.model.parameters()),
        **predictor.task.facts(),
        "attention": _backend(predictor.recipe),
        "data": predictor.config["data"],
        "recipe": predictor.recipe.given(),
        "finished": any(event["event"] == "end" for event in events),
        "scores": [{name: value for name, value in event.items() if name != "event"} for event in scored],
        "best": _best(scored, getattr(predictor.task, "descends", False)),
    }
    if json:
        give_json(facts)
    else:
        give(_text(facts))


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; one that a kill or a damaged disk left unreadable is none."""
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf8", errors="replace").splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if line.endswith("\n"):
                events.append(json_module.loads(line))
    return events


def _best(scored: list[dict[str, Any]], descends: bool) -> dict[str, Any] | None:
    """The event whose weights are kept, by the rule of the training."""
    from regard.training.loop import Position

    position, best = Position(), None
    for event in scored:
        score = _score(event)
        if position.compare(-score if descends else score, event["dev_loss"]):
            best = event
    return best


def _score(event: dict[str, Any]) -> float:
    """The score that decides: the first after the loss."""
    return next(float(value) for name, value in event.items() if name not in NOT_SCORES)


def _backend(recipe: Any) -> str:
    """Which backend computes the model's attention on this machine."""
    import torch

    import regard

    heads = recipe.heads or 1
    x = torch.zeros(2, heads, (recipe.dim or heads) // heads)
    return str(regard.explain(x, x, x, mask=regard.Causal(), cu_seqlens_q=[0, 2]).backend)


def _text(facts: dict[str, Any]) -> str:
    sizes = f"{facts['parameters']:,} parameters"
    if "vocabulary" in facts:
        sizes += f", {facts['vocabulary']:,} pieces"
    lines = [
        f"{facts['folder']}: {facts['task']}, {sizes}",
        f"attention  {facts['attention']}",
        *(f"{name:<10} {value}" for name, value in facts["data"].items()),
        "",
        "recipe",
        *(f"  {name} = {value}" for name, value in facts["recipe"].items()),
        "",
        "scores" if facts["scores"] else "no scores yet",
        *(_score_line(entry, facts["best"]) for entry in facts["scores"]),
        "finished"
        if facts["finished"]
        else f"not finished; to go on: regard train --resume --out {facts['folder']}",
    ]
    return "\n".join(lines)


def _score_line(entry: dict[str, Any], best: dict[str, Any] | None) -> str:
    shown = "  ".join(f"{name} {value}" for name, value in entry.items())
    return f"  {shown}{'  best' if best is not None and entry['step'] == best['step'] else ''}"
