"""`regard train`: from a file of examples to a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from regard._errors import ConfigError
from regard.cli._options import RecipeFlags, given_flags, recipe_of_flags, refuse
from regard.cli._output import give, is_first, is_one_of_several, tell
from regard.data.records import Source
from regard.samples import sample_path
from regard.tasks import TASKS, make_task
from regard.training.recipe import Recipe

if TYPE_CHECKING:
    from regard.training.progress import Reporter

Data = tuple[Source, Source | None]


def train(
    task: str | None = None,
    /,
    *,
    train: str | None = None,
    dev: str | None = None,
    out: Path | None = None,
    config: Path | None = None,
    dry_run: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    flags: Annotated[RecipeFlags | None, Parameter(name="*", group="Recipe")] = None,
) -> None:
    """Train a model from a file of examples.

    Args:
        task: What to train: translate, summarize, roles, answer, classify, caption or generate.
        train: Training data: .jsonl, .csv or .tsv, two text files "a.en,a.de" for pairs, .conll for roles; several files
            as "a.csv,b.csv", also of questions or of plain text. Default: a sample.
        dev: Data for the score while training, in the same form. Default: a part of --train is held out.
        out: The run folder. Default: runs/ and the task's name.
        config: A TOML file of recipe options, or the config.toml of a run; the command line wins.
        dry_run: Say what would be trained, how large, how fast and why; write nothing.
        resume: Go on with an interrupted run, exactly; all options come from its folder.
        overwrite: Replace the run that stands in the folder.
        quiet: No progress; errors are still told.
        flags: The recipe.
    """
    if resume:
        others = {"train": train, "dev": dev, "config": config, "dry_run": dry_run, "overwrite": overwrite}
        given = {name: value for name, value in others.items() if value} | given_flags(flags)
        refuse(given, "a run that is resumed takes all options from its folder")
        _resume(task, out or _default_folder(task), quiet)
        return
    if task is None:
        raise ConfigError(
            f"there is no task. Expected one of: {', '.join(TASKS)}; for example `regard train translate`."
        )
    recipe = recipe_of_flags(flags, config)
    data = _data(task, train, dev, quiet)
    if dry_run:
        _dry_run(task, recipe, data)
    else:
        _train(task, recipe, data, out or _default_folder(task), overwrite, quiet)


def _data(task: str, train: str | None, dev: str | None, quiet: bool) -> Data:
    """Training and dev data: what is given, or the sample."""
    make_task(task)  # refuses an unknown one
    if train is not None:
        return train, dev
    if dev is not None:
        raise ConfigError(
            "there is dev data and no training data. Expected: --train too. Received: --dev only."
        )
    sample = sample_path(task)
    if not quiet:
        folder = sample["train"].parent
        tell(f"no --train: training on a sample that ships; its terms are in {folder / 'NOTICE.md'}")
    return sample["train"], sample["dev"]


def _dry_run(task: str, recipe: Recipe, data: Data) -> None:
    if is_one_of_several():
        raise ConfigError("a dry run measures one process. Received: several. Start it without torchrun.")
    from regard.cli._dry_run import dry_run

    give(dry_run(make_task(task), recipe, *data))


def _train(task: str, recipe: Recipe, data: Data, folder: Path, overwrite: bool, quiet: bool) -> None:
    from regard.training import runs

    with _told(folder, quiet) as reporter:
        runs.begin(make_task(task), recipe, *data, folder, reporter, overwrite).run()


def _resume(task: str | None, folder: Path, quiet: bool) -> None:
    from regard.training import runs

    begun = runs.read_config(folder)["run"].get("task", "")
    if task not in (None, begun):
        raise ConfigError(
            f"{folder} holds a run of another task. Expected: {begun!r}, or no task. Received: {task!r}. Name the folder of "
            f"that run with --out, or go on with this one: regard train --resume --out {folder}"
        )
    with _told(folder, quiet) as reporter:
        runs.resume(make_task(begun), folder, reporter).run()


@contextmanager
def _told(folder: Path, quiet: bool) -> Iterator[Reporter]:
    """What a person is told of a run: its progress, how to go on where it was interrupted, and how to use it."""
    reporter = _reporter(folder, quiet)
    try:
        yield reporter
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(_stopped(folder)) from stop
    finally:
        reporter.display.close()
    if not quiet:
        tell(f'use it: regard predict {folder} "..."   score it: regard evaluate {folder} --data FILE')


def _default_folder(task: str | None) -> Path:
    if task is None:
        raise ConfigError(
            "there is no run folder. Expected: --out FOLDER. Received: none, and no task either."
        )
    return Path("runs") / task


def _stopped(folder: Path) -> str:
    from regard.training import runs
    from regard.training.checkpoints import saved_step

    if not runs.holds_run(folder):
        return "interrupted before the run began"
    step = saved_step(folder)
    return f"interrupted; the state of step {step} is saved. To go on: regard train --resume --out {folder}"


def _reporter(folder: Path, quiet: bool) -> Reporter:
    from regard.training.checkpoints import METRICS
    from regard.training.progress import Reporter, Silence, best_display

    if not is_first():
        return Reporter(None, Silence())
    return Reporter(folder / METRICS, Silence() if quiet else best_display())
