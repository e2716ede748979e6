"""Where a run may be written, and how it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from regard._errors import ConfigError
from regard.tasks import make_task
from regard.tasks.translate import Translate
from regard.training import checkpoints, runs
from regard.training.loop import Position
from regard.training.presets import Facts, fill
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe
from regard.training.stopping import Stop
from training.conftest import SMALL


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begin(folder, train, dev, **options):
    reporter = Reporter(folder / "metrics.jsonl", Silence())
    return runs.begin(Translate(), Recipe(steps=2, **SMALL), train, dev, folder, reporter, **options)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "metrics.jsonl", "words.json", "tokenizer.json", "state/notes.txt"]
)
def test_files_that_no_run_wrote_are_left_alone(data, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf8")
    train = shutil.copy(data[0], tmp_path / "train.jsonl")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="was not written by a run"):
        begin(tmp_path, train, data[1])
    assert contents(tmp_path) == before


def test_the_folder_of_the_data_serves_where_no_name_is_taken(data, tmp_path):
    for path in data:
        shutil.copy(path, tmp_path)
    before = contents(tmp_path)
    begin(tmp_path, tmp_path / "train.jsonl", tmp_path / "dev.jsonl").run()
    assert before.items() <= contents(tmp_path).items()


def test_data_inside_a_run_is_not_overwritten_by_it(data, tmp_path):
    begin(tmp_path, data[0], None)
    held_out = tmp_path / checkpoints.STATE / runs.DEV
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="is data and would be replaced by the run"):
        begin(tmp_path, data[0], held_out, overwrite=True)
    assert contents(tmp_path) == before


def test_a_run_that_never_came_to_its_config_is_begun_again(data, tmp_path):
    begin(tmp_path, *data)
    (tmp_path / checkpoints.CONFIG).unlink()
    begin(tmp_path, *data).run()
    assert runs.holds_run(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_update_and_its_state_is_saved(trainer_of, number):
    trainer = trainer_of(steps=50, evaluations=1)
    update = trainer.update

    def signalled(progress):
        update(progress)
        if trainer.position.step == 7:
            os.kill(os.getpid(), number)

    trainer.update = signalled
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(number) == before
    assert checkpoints.saved_step(trainer.folder) == 7


def test_a_second_signal_interrupts_at_once():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_where_scores_are_equal_the_loss_decides():
    position = Position(step=1)
    assert position.compare(0.0, 5.0)
    position.step = 2
    assert position.compare(0.0, 4.0)
    assert (position.best_step, position.stale) == (2, 0)
    position.step = 3
    assert not position.compare(0.0, 4.5)
    assert position.compare(1.0, 9.0)
    assert not position.compare(0.5, 1.0)
    assert (position.best_step, position.stale) == (3, 1)


def test_an_update_has_room_for_some_examples_however_long():
    short, _ = fill(Recipe(steps=1), Facts(3000, 3000 * 60), {})
    long, choices = fill(Recipe(steps=1), Facts(3000, 3000 * 5_000), {})
    assert long.tokens == 20_000 > short.tokens
    assert "room for 16 examples" in [choice.reason for choice in choices]


def test_a_run_whose_fields_have_their_own_names_is_resumed(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"body": f"a {kind} ran", "kind": kind} for kind in ("cat", "dog")] * 6
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    recipe = Recipe(
        steps=4, vocabulary=300, dim=16, heads=2, hidden=16, encoder_layers=1, save_steps=2, evaluations=1, threads=1,
        text="body", label="kind",
    )  # fmt: skip
    trainer = runs.begin(
        make_task("classify"), recipe, file, file, tmp_path / "run", Reporter(None, Silence())
    )
    for _ in range(2):
        trainer.update(trainer.progress())
    trainer.save()
    again = runs.resume(make_task("classify"), tmp_path / "run", Reporter(None, Silence()))
    assert again.position.step == 2
    assert [one.fields for one in again.dev] == [one.fields for one in trainer.dev]
    assert again.run().step == 4
