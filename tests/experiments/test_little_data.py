"""The driver of the runs: what is made, what is left alone, and the table."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from regard.cli import main
from regard.samples import sample_path
from regard.training import runs

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "little_data" / "run.py"
TINY = (
    *(
        "dim=16",
        "heads=2",
        "hidden=16",
        "encoder_layers=1",
        "decoder_layers=1",
        "vocabulary=400",
        "tokens=512",
    ),
    *("dev_examples=2", "evaluations=1", "threads=1", "lowercase"),
)


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("little_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "little_data", module)
    spec.loader.exec_module(module)
    return module


def result(recipe, seed, value):
    return {
        "recipe": recipe,
        "seed": seed,
        "steps": 10 + seed,
        "dev": value + 1,
        "test": {"bleu": value, "chrf": 99.0},
    }


def test_the_table_says_mean_spread_and_difference_of_equal_seeds(script):
    found = [
        result("plain", 0, 10.0),
        result("plain", 1, 14.0),
        result("r_drop", 1, 15.0),
        result("r_drop", 2, 99.0),
    ]
    lines = script.table(found, ["plain", "pretrain", "r_drop"]).splitlines()
    assert lines[2:] == [
        "| plain | 2 | 12.00 ± 2.83 |  | 13.00 ± 2.83 | 10 |",
        "| r_drop | 2 | 57.00 ± 59.40 | +1.00 | 58.00 ± 59.40 | 12 |",
    ]
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")


def test_a_difference_over_seeds_has_the_interval_of_student(script):
    found = [result("plain", seed, 10.0) for seed in range(3)]
    found += [result("pretrain", seed, 7.70 + 2.32 * (seed - 1)) for seed in range(3)]
    (line,) = script.table(found, ["pretrain"]).splitlines()[2:]
    # Student's t with two degrees of freedom: 4.303 standard errors to either side.
    assert "| -2.30 ± 2.32 [-8.06, +3.46] |" in line
    assert script.interval([1.0]) == ""
    twelve = [float(number) for number in range(12)]
    assert script.interval(twelve) == " [+3.15, +7.85]"  # as of ten seeds, a little wide


def test_every_recipe_is_one_of_ours(script):
    for name, options in script.RECIPES.items():
        runs.recipe_from(options | ({"init": "folder"} if name == "init" else {}), "here")


def test_options_are_spelled_as_flags(script):
    given = {"bpe_dropout": 0.1, "lowercase": True, "matches": False, "average": 0}
    expected = ["--bpe-dropout", "0.1", "--lowercase", "--no-matches", "--average", "0"]
    assert list(script.spelled(given)) == expected


def test_several_training_files_are_read_together_or_in_turn(script, tmp_path):
    for name, count in (("a", 2), ("b", 4)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{name}{number}\n" for number in range(count)))
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    given = ["--train", *files, "--dev", "d", "--test", "t", "--out", str(tmp_path)]
    assert script.training_data(script.parsed(given)) == ",".join(files)
    part = script.training_data(script.parsed([*given, "--examples", "5"]))
    assert Path(part).read_text(encoding="utf8").split() == ["a0", "b0", "a1", "b1", "b2"]


def test_a_recipe_begins_with_the_folder_that_is_named(script, tmp_path, monkeypatch, capsys):
    called = []

    def here(*arguments):
        called.append([str(argument) for argument in arguments])
        if arguments[0] == "train":
            folder = Path(arguments[arguments.index("--out") + 1])
            folder.mkdir()
            end = {"end": "x", "step": 1, "best": 1.0, "seconds": 6}
            (folder / "metrics.jsonl").write_text(json.dumps(end) + "\n")
        return json.dumps({"f1": 1.5})

    monkeypatch.setattr(script, "regard", here)
    given = ["--task", "answer", "--train", "a", "b", "--dev", "d", "--test", "t", "--out", str(tmp_path)]
    given += ["--seeds", "1", "--recipes", "no_matches", "last_weights", "init"]
    script.main([*given, "--init", "m"])
    train, scored = called[0], called[1]
    assert train[:6] == ["train", "answer", "--train", "a,b", "--dev", "d"]
    assert scored == ["evaluate", str(tmp_path / "no_matches-1"), "--data", "t", "--json"]
    assert ("--no-matches" in called[0], called[2][-4:-2]) == (True, ["--average", "0"])
    assert called[4][-4:-2] == ["--init", "m"]
    for wrong, message in ((given, "needs --init"), (["--out", str(tmp_path)], "there is no data")):
        with pytest.raises(SystemExit):
            script.main(wrong)
        assert message in capsys.readouterr().err


def test_runs_are_made_once_and_interrupted_ones_go_on(script, tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name, path in sample_path("translate").items():
        if name != "train":
            path = shutil.copy(path, data / f"{name}.jsonl.gz")
    shutil.copy(sample_path("translate")["train"], data / "train.jsonl.gz")
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)
    called = []

    def here(*arguments):
        called.append([str(argument) for argument in arguments])
        if called[-1][0] == "evaluate":
            return json.dumps({"bleu": 1.5, "chrf": 2.0})
        with contextlib.redirect_stderr(io.StringIO()):
            assert main(called[-1]) == 0
        return ""

    monkeypatch.setattr(script, "regard", here)
    arguments = ["--data", str(data), "--examples", "60", "--out", str(out), "--steps", "3", "--seeds", "5"]
    arguments += ["--recipes", "plain", "pretrain", *(part for one in TINY for part in ("--option", one))]
    script.main(arguments)
    assert [call[0] for call in called] == ["train", "evaluate"] * 2
    assert len((out / "train-60.jsonl").read_text(encoding="utf8").splitlines()) == 60
    recipe = runs.read_config(out / "pretrain-5")["recipe"]
    assert (recipe["pretrain"], recipe["seed"], recipe["steps"], recipe["lowercase"]) == (0.2, 5, 3, True)
    (one,) = [one for one in script.results(out) if one["recipe"] == "pretrain"]
    assert (one["steps"], one["test"]["bleu"]) == (3, 1.5)

    called.clear()
    (out / "plain-5" / "result.json").unlink()
    script.main(arguments)
    assert [call[:2] for call in called] == [["train", "--resume"], ["evaluate", str(out / "plain-5")]]
    with pytest.raises(SystemExit, match="says other conditions"):
        script.main([*arguments, "--steps", "4"])
