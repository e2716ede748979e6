"""Beginning with a finished run of the same task: its vocabulary and labels, its sizes, and its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from regard.training import checkpoints
from regard.training.options import EVERY
from regard.training.recipe import Recipe
from regard.training.task import Task
from regard.training.teachers import following, refuse_other_task

DECIDED = (
    *("vocabulary", "lowercase", "unspaced", "units", "context", "languages", "text", "label", "init"),
    *("dim", "heads", "hidden", "encoder_layers", "decoder_layers", "encoder", "decoder", "side", "patch"),
    *("window", "stride", "longest_answer", "matches", "ngrams"),
)  # fmt: skip
"""The options by which weights and what is learned beside them differ in form."""


def begun(task: Task, recipe: Recipe, named: Any, earlier: Recipe) -> Recipe:
    """The recipe with those options that the run decides with which it begins.

    Arguments:
        task: the new run's.
        recipe: the new run's, with the folder of the earlier one.
        named: the name of the earlier one's task.
        earlier: the recipe of the earlier one.

    Raises:
        ConfigError: the earlier one is of another task, or an option was given otherwise.
    """
    refuse_other_task(task, named, str(recipe.begin), "a run begins with one of its own task", "--begin")
    known = {*EVERY, *task.recipe_options}
    decisions = {name: getattr(earlier, name) for name in DECIDED if name in known}
    return following(
        recipe,
        decisions,
        str(recipe.begin),
        "a run has the form of that with which it begins",
        "train without --begin",
    )


def copy_learned(earlier: Path, folder: Path) -> None:
    """Give a run folder what another run learned of its data beside the weights."""
    for name in checkpoints.LEARNED:
        if (earlier / name).exists():
            shutil.copyfile(earlier / name, folder / name)
