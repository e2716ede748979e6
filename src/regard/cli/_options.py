"""The options of a recipe as flags: names, types and help all come from `Recipe` itself."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter

from regard._errors import ConfigError
from regard.training.recipe import Recipe, read_toml, recipe_from

BUDGETS = ("minutes", "steps")


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


FLAGS = {"penalty": "length_penalty"}  # keywords of tasks whose flags have other names


def known_options(task: str, known: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the keywords of a task; ConfigError where it does not know one."""
    chosen = {name: value for name, value in given.items() if value is not None and value is not False}
    unknown = {FLAGS.get(name, name): value for name, value in chosen.items() if name not in known}
    refuse(unknown, f"the task {task!r} has no such option")
    return chosen


def used_options(task: Any, given: dict[str, Any]) -> dict[str, Any]:
    """By their flags' names, the options that a prediction with those that were given uses, defaults included."""
    defaults = inspect.signature(task.predict).parameters
    names = [name for name in task.options if name != "attention"]
    return {FLAGS.get(name, name): given.get(name, defaults[name].default) for name in names}


def refuse(given: dict[str, Any], reason: str) -> None:
    """ConfigError when options were given that cannot be used."""
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{reason}. Received: {names}. Leave it out.")
