"""Options of a recipe that a task has no use for are refused by name: what is given is obeyed or an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from regard._errors import ConfigError
from regard.training.recipe import Recipe

if TYPE_CHECKING:
    from regard.training.task import Task

EVERY = (
    *("minutes", "steps", "evaluations", "dev_examples", "patience", "save_minutes", "save_steps", "seed"),
    *("dim", "heads", "hidden", "dropout", "label_smoothing", "max_characters", "precision", "threads"),
    *("begin", "tokens", "accumulate", "learning_rate", "matrix_learning_rate", "weight_decay", "warmup", "clip", "average"),
)  # fmt: skip
"""What every task obeys."""
PIECES = ("vocabulary", "lowercase", "bpe_dropout", "variants")
"""What tasks with a vocabulary of their own obey."""
TEXTS = (*PIECES, "pretrain", "unlabelled", "encoder", "encoder_layers")
"""What tasks obey whose encoder reads texts."""
BEGUN = ("init", "init_learning_rate", "layer_decay", "frozen_layers")
"""What tasks obey that can begin with a pretrained encoder."""
PICTURES = ("encoder_layers", "side", "patch", "warp", "flip", "tint")
"""What tasks obey that read pictures."""
TAUGHT = ("teacher", "teacher_share")
"""What tasks obey that can learn from another run."""
NEEDS = {
    "variants": "bpe_dropout",
    "init_learning_rate": "init",
    "layer_decay": "init",
    "frozen_layers": "init",
    "teacher_share": "teacher",
}
"""What says nothing without another option."""


def given_options(recipe: Recipe) -> list[str]:
    """The options of a recipe that are not those it has by itself."""
    return [field.name for field in fields(recipe) if getattr(recipe, field.name) != field.default]


def refuse_unknown(task: Task, recipe: Recipe) -> None:
    """ConfigError names the options of a recipe that a task does not obey, and those that say nothing without another one."""
    given = given_options(recipe)
    known = {*EVERY, *task.recipe_options}
    expected = f"beside those of every task {', '.join(task.recipe_options)}"
    refuse_options(
        recipe,
        [name for name in given if name not in known],
        f"the task {task.name!r} knows no such option",
        expected,
    )
    for name in given:
        if name in NEEDS and NEEDS[name] not in given:
            need = NEEDS[name]
            refuse_options(recipe, [name], f"{name} says nothing without {need}", f"{need} too")


def refuse_options(recipe: Recipe, names: Iterable[str], reason: str, expected: str) -> None:
    """ConfigError where there are names of options that were given for nothing."""
    values = [f"{name} = {getattr(recipe, name)}" for name in names]
    if values:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
        raise ConfigError(
            f"{reason}. Expected: {expected}. Received: {', '.join(values)}. To mend it: leave {flags} out."
        )
