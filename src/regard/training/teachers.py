"""Learning from a finished run of the same task: what a teacher decides, and where a run folder keeps it.

The losses themselves are those of `regard.nn.distillation`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from regard._errors import ConfigError
from regard.training import checkpoints
from regard.training.recipe import Recipe
from regard.training.task import Task

TEACHER = "teacher"  # in the folder of the state
KEPT = checkpoints.CONFIG, checkpoints.MODEL


def agreed(task: Task, recipe: Recipe, named: Any, teacher: Recipe) -> Recipe:
    """The recipe with those options that a teacher decides, because both read and write the same pieces.

    Arguments:
        task: the student's.
        recipe: the student's, with the teacher's folder.
        named: the name of the teacher's task.
        teacher: the teacher's recipe.

    Raises:
        ConfigError: the teacher has learned another task, or an option was given otherwise.
    """
    refuse_other_task(task, named, str(recipe.teacher), "a teacher knows another task", "--teacher")
    decided: dict[str, Any] = getattr(task, "taught", {})
    theirs = {name: _or(getattr(teacher, name), usual) for name, usual in decided.items()}
    return following(
        recipe,
        theirs,
        str(recipe.teacher),
        "student and teacher read and write alike",
        "train another teacher",
    )


def refuse_other_task(task: Task, named: Any, run: str, reason: str, flag: str) -> None:
    """ConfigError, with the reason, where the run that a flag names is of another task than this one."""
    if named != task.name:
        raise ConfigError(
            f"{reason}. Expected: a run of {task.name!r}. Received: {run}, a run of {named!r}. "
            f"To mend it: name a run of {task.name!r} with {flag}, or leave it out."
        )


def following(recipe: Recipe, decisions: dict[str, Any], run: str, reason: str, remedy: str) -> Recipe:
    """The recipe with options as another run has them; ConfigError, with reason and remedy, where one was given otherwise."""
    usual = Recipe()
    for name, value in decisions.items():
        given = getattr(recipe, name)
        if given not in (getattr(usual, name), value):
            raise ConfigError(
                f"{reason}. Expected: {name} = {value}, as in {run}. Received: {given}. "
                f"To mend it: leave --{name.replace('_', '-')} out, or {remedy}."
            )
    return recipe.replace(**decisions)


def keep(folder: Path, place: Path) -> None:
    """Copy what a teacher is made of, so that a run goes on without the teacher's folder, whatever becomes of it."""
    place.mkdir()
    for name in KEPT:
        shutil.copyfile(folder / name, place / name)


def _or(value: Any, usual: Any) -> Any:
    return usual if value is None else value
