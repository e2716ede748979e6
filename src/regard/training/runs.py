"""Starting a run in a new folder, and taking one up again."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from regard._errors import CheckpointError, ConfigError
from regard.data.records import Record, Source, source_paths
from regard.data.store import TokenStore
from regard.training import checkpoints, continuing, fine_tuning, teachers, workers
from regard.training.held_out import group_of, spacing, told_apart, too_little
from regard.training.loop import Trainer
from regard.training.memory import keep_freed_memory, release_freed_memory
from regard.training.options import refuse_unknown
from regard.training.presets import Choice, Facts, fill
from regard.training.pretraining import streams_of, texts_of, unlabelled
from regard.training.progress import Reporter
from regard.training.recipe import Recipe, read_toml, recipe_from, write_toml
from regard.training.task import Task
from regard.training.variants import encodings

LEARN_FROM = 1_000_000  # records that the vocabulary is learned from
ASIDE = ".regard-begin-"  # in the run folder
TOKENS, TEXTS, DEV, BEGUN = "tokens", "texts", "dev.jsonl", "begun"  # in the folder of the state
OURS = (
    *(checkpoints.CONFIG, checkpoints.MODEL, checkpoints.METRICS, checkpoints.STATE, fine_tuning.ENCODER),
    *checkpoints.LEARNED,
)
TABLES = ("run", "data", "recipe", "end")


@dataclass(frozen=True)
class Prepared:
    """A run that is checked and ready to begin: nothing is left open, nothing is written."""

    train: Source
    dev: Source | None
    recipe: Recipe
    choices: list[Choice]
    dev_records: list[Record]
    every: int
    """Without dev data, one group of training records in so many is held out for it; 0: none is."""


def begin(
    task: Task,
    recipe: Recipe,
    train: Source,
    dev: Source | None,
    folder: Path,
    reporter: Reporter,
    overwrite: bool = False,
) -> Trainer:
    """A trainer in a new run folder; ConfigError when the folder has a run already and `overwrite` is not asked for.

    All records are checked before anything is written: DataError names file, line, what is wrong and how to mend it.
    Without `dev` a small part of `train` is held out and written to the run folder.
    """
    if not overwrite and holds_run(folder):
        raise ConfigError(
            f"{folder} holds a run already; nothing was changed. Go on with it by --resume, replace it by --overwrite, "
            "or name another folder with --out."
        )
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(
            f"{there} is a file, and a run is written to a folder; nothing was changed. Name a folder with --out."
        )
    taught_by = None if recipe.teacher is None else Path(recipe.teacher) / checkpoints.MODEL
    begun_with = None if recipe.begin is None else Path(recipe.begin) / checkpoints.MODEL
    _refuse_foreign(folder, train, dev, recipe.unlabelled, recipe.init, taught_by, begun_with)
    return create(task, prepare(task, recipe, train, dev), folder, reporter)


def prepare(task: Task, recipe: Recipe, train: Source, dev: Source | None) -> Prepared:
    """Read all data once, checking every record, and fill the recipe from its size."""
    recipe = fine_tuning.located(_following(task, recipe, "begin", continuing.begun))
    refuse_unknown(task, recipe)
    recipe = _following(task, recipe, "teacher", teachers.agreed)
    task.configure(recipe)
    examples = characters = 0
    groups = set[int | None]()
    for record in _records(task, recipe, train):
        examples += 1
        characters += task.characters(record)
        if dev is None:
            groups.add(group_of(task, record))
    refuse_unknown(task, recipe)  # once more: it may depend on what there is to read
    every = 0 if dev is not None else spacing(examples if None in groups else len(groups), train)
    facts = Facts(examples, characters, fine_tuning.width(recipe))
    recipe, choices = fill(recipe, facts, fine_tuning.sizes_beside(recipe, task.sizes(examples)))
    deque(unlabelled(task, recipe), maxlen=0)
    if dev is None:
        dev_records = [one for one, held in told_apart(task, _records(task, recipe, train), every) if held]
        if not dev_records:
            raise too_little(train, f"{examples} without one that shows nothing new")
    else:
        dev_records = list(_records(task, recipe, dev))
    if hasattr(task, "check_scored"):
        task.check_scored(dev_records[: recipe.dev_examples])
    return Prepared(train, dev, recipe, choices, dev_records, every)


def create(task: Task, prepared: Prepared, folder: Path, reporter: Reporter) -> Trainer:
    """Write a run folder and give its trainer; what stood there of another run goes, when nothing can fail any more.

    config.toml is written last: a folder without it holds no run.
    """
    set_up(prepared.recipe)
    recipe, state = prepared.recipe, folder / checkpoints.STATE
    if workers.rank() == 0:
        if recipe.begin is None:
            task.learn(itertools.islice(_training_records(task, prepared), LEARN_FROM), recipe)
        else:
            task.load(Path(recipe.begin))
        release_freed_memory()  # before what is kept comes to lie between what was freed
        model = task.model(recipe)  # refuses sizes that do not go together
        fine_tuning.check_place(model, recipe)
        examples = encodings(task, lambda: _learnable_records(task, prepared), recipe)
        texts = _texts(task, model, prepared)
        if recipe.teacher is not None:
            _teacher(task, Path(recipe.teacher))  # refuses a damaged one
        deque(task.encode(prepared.dev_records), maxlen=0)  # refuses what the training data does not know
        stores = [(TOKENS, examples, task.streams)]
        stores += [] if texts is None else [(TEXTS, texts, streams_of(task))]
        with _aside(folder) as place:  # encoding may meet what reading did not, such as a damaged picture
            for name, sequences, streams in stores:
                TokenStore.write(place / name, sequences, streams)
            if recipe.teacher is not None:
                teachers.keep(Path(recipe.teacher), place / teachers.TEACHER)
            _clear(folder)
            for made in list(place.iterdir()):
                made.rename(state / made.name)
        if recipe.begin is None:
            task.save(folder)
        else:
            continuing.copy_learned(Path(recipe.begin), folder)
        fine_tuning.keep_shape(recipe, folder)
    workers.wait()
    task.load(folder)
    trainer = _trainer(task, recipe, folder, prepared.dev_records, reporter)
    if recipe.begin is None:
        fine_tuning.fill_encoder(trainer.model, recipe)
    else:
        checkpoints.load_weights(Path(recipe.begin), trainer.model)
    if workers.rank() == 0:
        checkpoints.save_weights(folder, trainer.model)
        trainer.save()
        _write_dev(prepared, folder)
        _write_config(task, prepared, folder)
    reporter.note(describe(trainer, prepared))
    return trainer


def resume(task: Task, folder: Path, reporter: Reporter) -> Trainer:
    """The trainer of an interrupted run, exactly where it saved its state last."""
    config = read_config(folder)
    recipe = recipe_of(config, folder)
    set_up(recipe)
    kept, named = folder / checkpoints.STATE / DEV, config["data"].get("dev")
    if named is None or kept.exists():  # runs of before kept only what they had held out
        named = str(kept)
    task.load(folder)  # which knows what the fields of its records are named
    dev = list(_records(task, recipe, named if isinstance(named, str) else tuple(named)))
    trainer = _trainer(task, recipe, folder, dev, reporter)
    trainer.resume()
    reporter.note(f"resuming {folder} at step {trainer.position.step}")
    return trainer


def holds_run(folder: Path) -> bool:
    """Whether a run stands in a folder; its config.toml is written last."""
    return (folder / checkpoints.CONFIG).exists()


def read_config(folder: Path) -> dict[str, Any]:
    """The tables of a run's config.toml; CheckpointError when there is no run, or the file is damaged."""
    path = folder / checkpoints.CONFIG
    if not path.exists():
        raise CheckpointError(
            f"{folder} holds no run: {checkpoints.CONFIG} is missing. Expected a folder that `regard train` wrote."
        )
    try:
        config = read_toml(path)
    except ConfigError as error:
        raise CheckpointError(f"{error} It may be cut short: restore it, or train again.") from error
    for table in TABLES:
        if not isinstance(config.get(table), dict):
            raise CheckpointError(
                f"{path} is cut short: the table [{table}] is missing. Restore it, or train again."
            )
    return config


def recipe_of(config: dict[str, Any], folder: Path) -> Recipe:
    """The recipe in the tables of a run's config.toml."""
    return fine_tuning.kept(recipe_from(config["recipe"], str(folder / checkpoints.CONFIG)), folder)


def set_up(recipe: Recipe) -> None:
    """Threads, memory and workers, before any tensor is made."""
    keep_freed_memory()
    workers.start_workers()
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)


def describe(trainer: Trainer, prepared: Prepared) -> str:
    """What is about to be trained, for people."""
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    examples, tokens = trainer.learning.size()
    lines = [f"{examples:,} examples, {tokens:,} tokens, {parameters:,} parameters"]
    lines += getattr(trainer.task, "remarks", [])
    if prepared.recipe.begin is not None:
        lines.append(f"begins with the weights of {prepared.recipe.begin}")
    if trainer.pretraining is not None:
        texts, pieces = trainer.pretraining.size()
        share = prepared.recipe.pretrain or 0.0
        lines.append(f"the first {share:.0%} {trainer.pretraining.learns} {texts:,} texts, {pieces:,} tokens")
    if trainer.teacher is not None:
        size = sum(parameter.numel() for parameter in trainer.teacher.parameters())
        lines.append(f"taught by {prepared.recipe.teacher}, {size:,} parameters")
    if prepared.dev is None:
        lines.append(
            f"{len(prepared.dev_records):,} more are held out for the dev score, in {trainer.folder / checkpoints.STATE / DEV}"
        )
    reasons = [f"  {choice.option} = {choice.value:g}  ({choice.reason})" for choice in prepared.choices]
    return "\n".join(lines + reasons)


def _trainer(task: Task, recipe: Recipe, folder: Path, dev: list[Record], reporter: Reporter) -> Trainer:
    """The trainer of what stands in a folder, which the task has loaded."""
    state = folder / checkpoints.STATE
    texts = TokenStore.open(state / TEXTS) if recipe.pretrain else None
    teacher = None if recipe.teacher is None else _teacher(task, state / teachers.TEACHER)
    return Trainer(task, recipe, folder, TokenStore.open(state / TOKENS), dev, reporter, texts, teacher)


def _texts(task: Task, model: nn.Module, prepared: Prepared) -> Iterator[tuple[Sequence[int], ...]] | None:
    """What the model is pretrained on, where it is."""
    if not prepared.recipe.pretrain:
        return None
    return texts_of(task, model, _training_records(task, prepared), prepared.recipe)


def _following(task: Task, recipe: Recipe, option: str, decide: Callable[..., Recipe]) -> Recipe:
    """The recipe with the whole path of the run that an option names, where it does, and with what that run decides."""
    if getattr(recipe, option) is None:
        return recipe
    folder = Path(getattr(recipe, option)).resolve()
    config = read_config(folder)
    recipe = recipe.replace(**{option: str(folder)})
    return decide(task, recipe, config["run"].get("task"), recipe_of(config, folder))


def _teacher(task: Task, folder: Path) -> nn.Module:
    """The model in a teacher's folder, or in what is kept of it, which learns no more."""
    model = task.model(recipe_of(read_config(folder), folder))
    checkpoints.load_weights(folder, model)
    return model.eval().requires_grad_(requires_grad=False)


def _records(task: Task, recipe: Recipe, source: Source) -> Iterator[Record]:
    return task.read(source, recipe.max_characters)


def _training_records(task: Task, prepared: Prepared) -> Iterator[Record]:
    records = _records(task, prepared.recipe, prepared.train)
    if not prepared.every:
        return records
    return (record for record, held in told_apart(task, records, prepared.every) if not held)


def _learnable_records(task: Task, prepared: Prepared) -> Iterator[Record]:
    """Those of training; DataError where one asks for what the run cannot learn with which this one begins."""
    records = _training_records(task, prepared)
    if prepared.recipe.begin is None or not hasattr(task, "check_learnable"):
        return records
    return map(task.check_learnable, records)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A place in a run folder for what is written before the folder is cleared; afterwards it is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(ASIDE + "*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with TemporaryDirectory(prefix=ASIDE, dir=folder) as place:
            yield Path(place)
    finally:
        with suppress(OSError):  # it holds something else
            folder.rmdir()


def _clear(folder: Path) -> None:
    """Take away what a run wrote, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (checkpoints.CONFIG, checkpoints.MODEL, checkpoints.METRICS):
        (folder / name).unlink(missing_ok=True)
    for name in (checkpoints.STATE, fine_tuning.ENCODER):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / checkpoints.STATE).mkdir()
    checkpoints.write_text(folder / checkpoints.STATE / BEGUN, "A run of regard began here.\n")


def _refuse_foreign(folder: Path, *sources: Source | None) -> None:
    """ConfigError where a run would overwrite files that no run wrote, or its own data."""
    if not holds_run(folder) and not (folder / checkpoints.STATE / BEGUN).exists():
        for name in OURS:
            if (folder / name).exists():
                raise ConfigError(
                    f"{folder / name} was not written by a run, and a run there would replace it; nothing was changed. "
                    "Name another folder with --out."
                )
    for source in sources:
        for path in [] if source is None else _paths(source):
            if any(
                path == ours or ours in path.parents for ours in ((folder / name).resolve() for name in OURS)
            ):
                raise ConfigError(
                    f"{path} is data and would be replaced by the run; nothing was changed. "
                    "Copy it elsewhere, or name another folder with --out."
                )


def _write_dev(prepared: Prepared, folder: Path) -> None:
    """The dev records, so that a run which is resumed is scored on the same, wherever their file is by then."""
    lines = [json.dumps(record.fields, ensure_ascii=False) + "\n" for record in prepared.dev_records]
    checkpoints.write_text(folder / checkpoints.STATE / DEV, "".join(lines))


def _write_config(task: Task, prepared: Prepared, folder: Path) -> None:
    data = {"train": _named(prepared.train), "dev": None if prepared.dev is None else _named(prepared.dev)}
    tables = {"run": {"task": task.name}, "data": data, "recipe": prepared.recipe.given(), "end": {}}
    checkpoints.write_text(folder / checkpoints.CONFIG, write_toml(tables))


def _named(source: Source) -> Any:
    paths = [str(path) for path in _paths(source)]
    return paths[0] if len(paths) == 1 else paths


def _paths(source: Source) -> list[Path]:
    """The whole paths of the files that a source names."""
    return [path.resolve() for path in source_paths(source)]
