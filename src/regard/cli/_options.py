"""The options of a recipe as flags: names, types and help all come from `Recipe` itself."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter

from regard._errors import ConfigError
from regard.training.recipe import Recipe, read_toml, recipe_from

BUDGETS = ("minutes", "steps")
FLAGS = {"penalty": "length_penalty"}  # options that go by another name on the command line
DEFAULTS = {"beam": 5, "penalty": 1.0, "precision": "fp32"}


def documented(kind: type) -> dict[str, str]:
    """The docstring that follows each field of a class."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    texts: dict[str, str] = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            texts[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return texts


def _make_flags() -> type:
    texts, hints = documented(Recipe), get_type_hints(Recipe)
    annotated: Any = Annotated  # type checkers want its parts written out
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(Recipe):
        default = "" if field.default in (None, False) else f" Default: {field.default}."
        negative = f"--no-{field.name.replace('_', '-')}" if hints[field.name] is bool else ()
        parameter = Parameter(help=texts[field.name] + default, negative=negative)
        kind = annotated[hints[field.name] | None, parameter]
        fields.append((field.name, kind, dataclasses.field(default=None)))
    flags = dataclasses.make_dataclass("RecipeFlags", fields, kw_only=True)
    flags.__module__ = __name__  # classes of the standard library's modules are no options to cyclopts
    return flags


RecipeFlags: Any = _make_flags()


def given_flags(flags: Any) -> dict[str, Any]:
    """What was given on the command line."""
    return {} if flags is None else {name: value for name, value in vars(flags).items() if value is not None}


def recipe_of_flags(flags: Any, config: Path | None) -> Recipe:
    """The recipe of a TOML file and the command line, which wins; a run's own config.toml serves too."""
    options: dict[str, Any] = {}
    if config is not None:
        table = read_toml(config)
        options = table["recipe"] if isinstance(table.get("recipe"), dict) else table
        recipe_from(options, str(config))  # so that a message names the file
    given = given_flags(flags)
    if any(name in given for name in BUDGETS):
        options = {name: value for name, value in options.items() if name not in BUDGETS}
    return recipe_from({**options, **given}, "command line")


def refuse(given: dict[str, Any], reason: str) -> None:
    """ConfigError when options were given that cannot be used."""
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{reason}. Received: {names}. Leave it out.")


def task_options(
    task: str, known: Sequence[str], given: dict[str, Any], defaults: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Options for a task from the flags of a command, None where a flag was not given; ConfigError names those of other tasks.

    `defaults` are the task's own, where they are not those of all others; None leaves it to the task.
    """
    usual = DEFAULTS | (defaults or {})
    names = {name: FLAGS.get(name, name) for name in given}
    other = {names[name]: value for name, value in given.items() if value is not None and name not in known}
    refuse(other, f"the task {task!r} knows no such option")
    chosen = {
        name: usual.get(name) if value is None else value for name, value in given.items() if name in known
    }
    return {name: value for name, value in chosen.items() if value is not None}


def name_fields(tasks: Sequence[Any], text: str | None, label: str | None) -> None:
    """Let tasks that have such fields read records by the names given, or else by those of the first; ConfigError for other tasks."""
    first = tasks[0]
    if not hasattr(first, "name_fields"):
        given = {name: value for name, value in (("text", text), ("label", label)) if value is not None}
        refuse(given, f"the task {first.name!r} knows no such option")
        return
    for task in tasks:
        task.name_fields(text or first.reader.text, label or first.reader.label)


def needed(task: Any, name: str, used_by: str) -> Any:
    """What a command uses of a task, an attribute that not all of them have; ConfigError for one that has it not."""
    if not hasattr(task, name):
        raise ConfigError(
            f"the task {task.name!r} has no {name!r}. Expected: a task that has it, such as 'translate'. "
            f"Received: {used_by} for {task.name!r}. To mend it: use regard evaluate without --by."
        )
    return getattr(task, name)
