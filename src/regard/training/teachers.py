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
        ConfigError: the task cannot be taught, the teacher has learned another one, or an option was given otherwise.
    """
    decided: dict[str, Any] | None = getattr(task, "taught", None)
    if decided is None:
        raise ConfigError(
            f"the task {task.name!r} has no teacher. Expected: a task that writes, such as 'translate'. "
            f"Received: teacher {recipe.teacher}. To mend it: leave --teacher out."
        )
    if named != task.name:
        raise ConfigError(
            f"a teacher knows another task. Expected: a run of {task.name!r}. Received: {recipe.teacher}, a run of {named!r}. "
            f"To mend it: name a run of {task.name!r} with --teacher, or leave it out."
        )
    theirs = {name: _or(getattr(teacher, name), usual) for name, usual in decided.items()}
    for name, value in theirs.items():
        given = getattr(recipe, name)
        if given not in (None, False, value):
            raise ConfigError(
                f"student and teacher read and write alike. Expected: {name} = {value}, as in {recipe.teacher}. "
                f"Received: {given}. To mend it: leave --{name.replace('_', '-')} out, or train another teacher."
            )
    return recipe.replace(**theirs)


def keep(folder: Path, place: Path) -> None:
    """Copy what a teacher is made of, so that a run goes on without the teacher's folder, whatever becomes of it."""
    place.mkdir()
    for name in KEPT:
        shutil.copyfile(folder / name, place / name)


def _or(value: Any, usual: Any) -> Any:
    return usual if value is None else value
