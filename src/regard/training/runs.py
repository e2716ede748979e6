"""Starting a run in a new folder, and taking one up again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from regard._errors import CheckpointError, ConfigError
from regard.data.records import Record, Source, read_records
from regard.data.store import TokenStore
from regard.training import checkpoints, workers
from regard.training.loop import Trainer
from regard.training.memory import keep_freed_memory
from regard.training.presets import Choice, Facts, fill
from regard.training.progress import Reporter
from regard.training.recipe import Recipe, read_toml, recipe_from, write_toml
from regard.training.task import Task

LEARN_FROM = 1_000_000  # records that the vocabulary is learnt from
TOKENS = "tokens"


def begin(task: Task, recipe: Recipe, train: Source, dev: Source, folder: Path, reporter: Reporter) -> Trainer:
    """A trainer in a new run folder; ConfigError when the folder has a run already.

    All records are checked before the first step: DataError names file, line, what is wrong and how to mend it.
    """
    if (folder / checkpoints.CONFIG).exists() or (folder / checkpoints.MODEL).exists():
        raise ConfigError(
            f"{folder} holds a run already; nothing was changed. Go on with it by --resume, replace it by --overwrite, "
            "or name another folder with --out."
        )
    set_up(recipe)
    recipe, choices = resolve(task, recipe, train)
    dev_records = list(read_records(dev, task.fields, max_characters=recipe.max_characters))
    folder.mkdir(parents=True, exist_ok=True)
    task.learn(itertools.islice(_records(task, recipe, train), LEARN_FROM), recipe)
    store = TokenStore.write(folder / checkpoints.STATE / TOKENS, task.encode(_records(task, recipe, train)), task.streams)
    task.save(folder)
    data = {"train": _named(train), "dev": _named(dev)}
    config = write_toml({"run": {"task": task.name}, "data": data, "recipe": recipe.given()})
    checkpoints.write_in_place(folder / checkpoints.CONFIG, lambda path: path.write_text(config, encoding="utf8") and None)
    trainer = Trainer(task, recipe, folder, store, dev_records, reporter)
    if workers.rank() == 0:
        checkpoints.save_weights(folder, trainer.model)
    reporter.note(describe(trainer, choices))
    return trainer


def resume(task: Task, folder: Path, reporter: Reporter) -> Trainer:
    """The trainer of an interrupted run, exactly where it saved its state last."""
    config = read_config(folder)
    recipe = recipe_from(config["recipe"], str(folder / checkpoints.CONFIG))
    set_up(recipe)
    task.load(folder)
    dev = list(read_records(_source(config["data"]["dev"]), task.fields, max_characters=recipe.max_characters))
    trainer = Trainer(task, recipe, folder, TokenStore.open(folder / checkpoints.STATE / TOKENS), dev, reporter)
    trainer.resume()
    reporter.note(f"resuming {folder} at step {trainer.position.step}")
    return trainer


def read_config(folder: Path) -> dict[str, Any]:
    """The tables of a run's config.toml; CheckpointError when there is no run."""
    path = folder / checkpoints.CONFIG
    if not path.exists():
        raise CheckpointError(f"{folder} holds no run: {checkpoints.CONFIG} is missing. Expected a folder that `regard train` wrote.")
    config = read_toml(path)
    for table in ("run", "data", "recipe"):
        if table not in config:
            raise CheckpointError(f"{path} is cut short: the table [{table}] is missing. Restore it, or train again.")
    return config


def resolve(task: Task, recipe: Recipe, train: Source) -> tuple[Recipe, list[Choice]]:
    """Read the training data once, checking every record, and fill the recipe from its size."""
    examples = characters = 0
    for record in _records(task, recipe, train):
        examples += 1
        characters += sum(len(record.fields[name]) for name in task.fields)
    return fill(recipe, Facts(examples, characters))


def set_up(recipe: Recipe) -> None:
    """Threads, memory and workers, before any tensor is made."""
    keep_freed_memory()
    workers.start_workers()
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)


def describe(trainer: Trainer, choices: list[Choice]) -> str:
    """What is about to be trained, for people."""
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    lengths = trainer.store.lengths
    tokens = int(lengths.sum())
    lines = [
        f"{len(lengths):,} examples, {tokens:,} tokens, {parameters:,} parameters",
        *(f"  {choice.option} = {choice.value:g}  ({choice.reason})" for choice in choices),
    ]
    return "\n".join(lines)


def _records(task: Task, recipe: Recipe, source: Source) -> Iterator[Record]:
    return read_records(source, task.fields, max_characters=recipe.max_characters)


def _named(source: Source) -> Any:
    if isinstance(source, str | Path):
        return ",".join(str(Path(part).resolve()) for part in str(source).split(","))
    return [str(Path(part).resolve()) for part in source]


def _source(named: Any) -> Source:
    return named if isinstance(named, str) else tuple(named)
