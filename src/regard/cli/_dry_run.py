"""`regard train --dry-run`: what would be trained, measured by a few real updates in a folder that vanishes."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from regard.data.records import Source
from regard.training import runs
from regard.training.loop import Trainer, steps_of
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe
from regard.training.task import Task

WARM_UP, TIMED, LONGEST = 2, 10, 10.0  # updates, updates, seconds


def dry_run(task: Task, recipe: Recipe, train: Source, dev: Source | None) -> str:
    """The plan of a run as text."""
    plan = runs.prepare(task, recipe, train, dev)
    with tempfile.TemporaryDirectory() as folder:
        trainer = runs.create(task, plan, Path(folder), Reporter(None, Silence()))
        seconds = _seconds_of_update(trainer)
        facts = [*_facts(trainer, plan), *_budget(trainer, seconds), *_memory()]
        del trainer  # lets go of the files in the folder
    return "\n".join([*facts, "", "recipe", *_reasons(plan, recipe)])


def _facts(trainer: Trainer, plan: runs.Prepared) -> list[str]:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    examples, tokens = trainer.learning.size()
    held_out = "" if plan.dev is not None else ", held out of the training data"
    return [
        f"task        {trainer.task.name}",
        f"train       {plan.train}: {examples:,} examples, {tokens:,} tokens",
        *(f"            {remark}" for remark in getattr(trainer.task, "remarks", [])),
        f"dev         {plan.dev or plan.train}: {len(plan.dev_records):,} examples{held_out}",
        f"parameters  {parameters:,}",
    ]


def _seconds_of_update(trainer: Trainer) -> float:
    times: list[float] = []
    for number, seconds in enumerate(steps_of(trainer, WARM_UP + TIMED)):
        if number >= WARM_UP or seconds > LONGEST:
            times.append(seconds)
        if sum(times) > LONGEST:
            break
    return statistics.median(times)


def _budget(trainer: Trainer, seconds: float) -> list[str]:
    recipe = trainer.recipe
    steps = recipe.steps or max(1, int(60 * (recipe.minutes or 0) / seconds))
    epochs = steps * (recipe.tokens or 0) / max(1, trainer.learning.size()[1])
    return [
        f"update      {seconds:.3f} s, the median of a few on this machine",
        f"expected    {steps:,} updates in {steps * seconds / 60:.1f} minutes, {epochs:.1f} epochs",
        f"            less what {recipe.evaluations} evaluations take",
    ]


def _memory() -> list[str]:
    if sys.platform == "win32":
        return []
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, kilobytes elsewhere
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return [f"memory      {most / 2**20:,.0f} MiB, the most that this process held in these updates"]


def _reasons(plan: runs.Prepared, asked: Recipe) -> list[str]:
    chosen = {choice.option: choice.reason for choice in plan.choices}
    given = asked.given().items() - Recipe().given().items()
    reasons = {**chosen, **{name: "given" for name, _ in given}}
    values = plan.recipe.given().items()
    return [f"  {name} = {value}  ({reasons.get(name, 'default')})" for name, value in values]
