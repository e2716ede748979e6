"""`regard train`: one command from a file to a run folder."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading

import pytest

from regard.cli._options import documented
from regard.training import runs
from regard.training.loop import Trainer
from regard.training.recipe import Recipe


def files(data, out):
    return ("--train", data / "train.jsonl", "--dev", data / "dev.jsonl", "--out", out)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_option_of_the_recipe_is_a_flag_with_its_docstring(regard_command):
    shown = " ".join(regard_command("train", "--help").out.replace("│", " ").split())
    texts = documented(Recipe)
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')} " in shown
        assert " ".join(texts[field.name].split())[:40] in shown


def test_a_run_leaves_the_folder_of_the_design(trained):
    names = {path.name for path in trained.iterdir()}
    files = {"model.safetensors", "config.toml", "tokenizer.json", "words.json", "metrics.jsonl"}
    assert names == {*files, "state"}
    config = runs.read_config(trained)
    assert config["run"] == {"task": "translate"}
    assert config["recipe"]["dim"] == 16


def test_recurrent_layers_are_trained_used_and_described_like_any_other(
    regard_command, refused, data, tmp_path, tiny
):
    folder, kinds = tmp_path / "run", ("--encoder", "recurrent", "--decoder", "recurrent")
    result = regard_command("train", "translate", *files(data, folder), *tiny, *kinds, "--quiet")
    assert (result.code, result.err) == (0, "")
    assert runs.read_config(folder)["recipe"]["encoder"] == "recurrent"
    assert regard_command("predict", folder, "A dog runs.").out.count("\n") == 1
    result = regard_command("evaluate", folder, "--data", data / "dev.jsonl", "--beam", 2, "--json")
    assert json.loads(result.out)["count"] == 8
    assert regard_command("train", "--resume", "--out", folder, "--quiet").code == 0
    assert "received RecurrentEncoderBlock" in refused(
        "export", folder, "--to", "onnx", "--out", tmp_path / "out"
    )


def test_training_tells_its_progress_on_stderr(regard_command, data, tmp_path, tiny):
    result = regard_command("train", "translate", *files(data, tmp_path / "run"), *tiny)
    assert result.code == 0
    assert result.out == ""
    assert "200 examples" in result.err
    assert "best dev score" in result.err


def test_quiet_is_quiet(regard_command, data, tmp_path, tiny):
    result = regard_command("train", "translate", *files(data, tmp_path / "run"), *tiny, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_a_part_is_held_out_where_there_is_no_dev_data(regard_command, refused, data, tmp_path, tiny):
    folder = tmp_path / "run"
    result = regard_command("train", "translate", "--train", data / "train.jsonl", "--out", folder, *tiny)
    assert result.code == 0
    held_out = (folder / "state" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    train = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    parted = {json.loads(line)["source"] for line in held_out}
    assert json.loads(held_out[0])["source"] == json.loads(train[0])["source"]
    assert sum(json.loads(line)["source"] in parted for line in train) == len(held_out)
    assert 8 <= len(held_out) <= 12
    assert f"{200 - len(held_out)} examples" in result.err
    assert regard_command("train", "--resume", "--out", folder).code == 0
    single = tmp_path / "single.tsv"
    single.write_text("A dog.\t一只狗。\n", encoding="utf-8")
    assert "--dev" in refused("train", "translate", "--train", single, "--out", tmp_path / "other")


def test_dev_data_alone_is_refused(refused, data):
    assert "--train" in refused("train", "translate", "--dev", data / "dev.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"), [((), "no task"), (("translat",), "did you mean 'translate'?")]
)
def test_the_task_must_be_known(refused, arguments, message):
    assert message in refused("train", *arguments)


def test_a_recipe_comes_from_a_file_and_the_command_line_wins(monkeypatch, regard_command, data, tmp_path):
    config = tmp_path / "recipe.toml"
    config.write_text("steps = 7\ndim = 32\nlowercase = true\n", encoding="utf-8")
    seen = []
    monkeypatch.setattr("regard.cli.train._train", lambda task, recipe, *rest: seen.append(recipe))
    regard_command("train", "translate", "--config", config, "--dim", "64", "--no-lowercase")
    regard_command("train", "translate", "--config", config, "--minutes", "3")
    assert seen == [Recipe(steps=7, dim=64, lowercase=False), Recipe(minutes=3, dim=32, lowercase=True)]


def test_the_config_of_a_run_is_a_recipe(monkeypatch, regard_command, trained):
    seen = []
    monkeypatch.setattr("regard.cli.train._train", lambda task, recipe, *rest: seen.append(recipe))
    regard_command("train", "translate", "--config", trained / "config.toml")
    assert seen == [runs.recipe_of(runs.read_config(trained), trained)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 3\n", "did you mean 'steps'?"),
        ("steps = 'many'\n", "'steps' must be"),
        ("steps = 0\n", "'steps' must be a number above 0"),
        ("steps = \n", "is not TOML"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(refused, tmp_path, text, message):
    config = tmp_path / "recipe.toml"
    config.write_text(text, encoding="utf-8")
    assert message in refused("train", "translate", "--config", config)
    assert "does not exist" in refused("train", "translate", "--config", tmp_path / "none.toml")


def test_a_dry_run_says_what_would_happen_and_writes_nothing(regard_command, data, tmp_path, tiny):
    result = regard_command("train", "translate", *files(data, tmp_path / "run"), *tiny, "--dry-run")
    assert result.code == 0
    for part in (
        "parameters  ",
        "expected    4 updates",
        "memory      ",
        "dim = 16  (given)",
        "(for 200 examples)",
    ):
        assert part in result.out
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_unasked(refused, regard_command, data, run, tiny):
    before = contents(run)
    message = refused("train", "translate", *files(data, run), *tiny)
    assert "holds a run already" in message
    assert "--overwrite" in message
    assert contents(run) == before
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    assert (
        regard_command("train", "translate", *files(data, run), *tiny, "--seed", "1", "--overwrite").code == 0
    )
    assert runs.read_config(run)["recipe"]["seed"] == 1
    assert (run / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("spoil", [("--dim", "15"), ("--vocabulary", "10"), ("--train", "none.jsonl")])
def test_nothing_is_lost_where_the_new_run_cannot_begin(refused, data, run, spoil, tiny):
    before = contents(run)
    options = (
        dict(zip(tiny[::2], tiny[1::2], strict=True)) | {"--train": data / "train.jsonl"} | dict([spoil])
    )
    flags = [part for pair in options.items() for part in pair]
    refused("train", "translate", "--dev", data / "dev.jsonl", "--out", run, "--overwrite", *flags)
    assert contents(run) == before


def test_a_finished_run_resumes_to_its_end(regard_command, run):
    before = contents(run)
    result = regard_command("train", "--resume", "--out", run)
    assert result.code == 0
    assert "at step 4" in result.err
    assert contents(run).keys() == before.keys()


@pytest.mark.parametrize(
    "options", [("--dim", "8"), ("--train", "x.jsonl"), ("--overwrite",), ("--steps", "9")]
)
def test_a_resumed_run_takes_no_other_options(refused, run, options):
    assert options[0] in refused("train", "--resume", "--out", run, *options)


def test_a_run_of_another_task_is_not_resumed(regard_command, refused, run):
    message = refused("train", "roles", "--resume", "--out", run)
    assert "Expected: 'translate', or no task. Received: 'roles'" in message
    assert f"regard train --resume --out {run}" in message
    assert regard_command("train", "translate", "--resume", "--out", run).code == 0


@pytest.mark.parametrize("inside", [(), ("deep", "run")])
def test_a_file_is_no_run_folder(monkeypatch, refused, data, tmp_path, inside):
    file = tmp_path / "notes.txt"
    file.write_text("mine", encoding="utf-8")
    monkeypatch.setattr(runs, "prepare", None)  # nothing is read
    message = refused("train", "translate", *files(data, file.joinpath(*inside)), "--overwrite")
    assert f"{file} is a file" in message
    assert "--out" in message
    assert file.read_text(encoding="utf-8") == "mine"


def test_resume_needs_a_run(refused, tmp_path):
    assert "holds no run" in refused("train", "--resume", "--out", tmp_path)
    assert "--out" in refused("train", "--resume")


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(monkeypatch, regard_command, data, tmp_path, tiny):
    folder = tmp_path / "run"

    def interrupt(self):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(Trainer, "evaluate", interrupt)
    result = regard_command("train", "translate", *files(data, folder), *tiny)
    assert result.code == 130
    assert "the state of step 2 is saved" in result.err
    assert f"regard train --resume --out {folder}" in result.err
    resumed = regard_command("train", "--resume", "--out", folder)
    assert resumed.code == 0
    assert "4 updates" in resumed.err


def test_switches_that_do_not_go_together_are_refused(refused):
    words = ["--unlabelled", "more.txt", "--pretrain", "0"]
    assert "Received: unlabelled and pretrain 0" in refused("train", "translate", *words)
    assert "Received: init and dim" in refused("train", "translate", "--init", "folder", "--dim", "64")
