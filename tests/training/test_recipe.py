from __future__ import annotations

import tomllib

import pytest

from regard._errors import CheckpointError, ConfigError
from regard.training.recipe import Recipe, read_toml, recipe_from, write_toml


def test_a_recipe_survives_its_file(tmp_path):
    recipe = Recipe(
        steps=7, lowercase=True, learning_rate=1e-05, dim=96, dropout=0.0, precision="bf16", seed=-3
    )
    path = tmp_path / "config.toml"
    path.write_text(write_toml({"recipe": recipe.given()}), encoding="utf8")
    assert recipe_from(read_toml(path)["recipe"], str(path)) == recipe


@pytest.mark.parametrize(
    "value",
    [
        "plain", "", 'qu"ote', "back\\slash", "line\nbreak", "tab\t", "carriage\rreturn", "\x00\x1f\x7f", "一只狗",
        1, -5, 0.1, 1e-300, 1e22, float("inf"), True, False, [], ["a", 'b"', "c\\"], [1, 2],
    ],
)  # fmt: skip
def test_toml_is_read_as_it_was_written(value):
    assert tomllib.loads(write_toml({"table": {"name": value}}))["table"]["name"] == value


def test_toml_leaves_none_out_and_refuses_what_it_cannot_write():
    assert tomllib.loads(write_toml({"a": {"x": None, "y": 1}, "b": {}})) == {"a": {"y": 1}, "b": {}}
    with pytest.raises(CheckpointError, match=r"cannot write set to config.toml"):
        write_toml({"a": {"x": {1}}})


WRONG = {
    "unknown": (
        {"stesp": 5},
        "here: unknown option 'stesp'; did you mean 'steps'\\?.* Known: minutes, steps",
    ),
    "far off": ({"zzz": 5}, "unknown option 'zzz'. Known"),
    "text for a number": ({"steps": "5"}, "here: option 'steps' must be int | None. Received '5'"),
    "fraction for a whole number": ({"steps": 5.5}, "option 'steps' must be int"),
    "truth for a number": ({"steps": True}, "option 'steps' must be int"),
    "number for truth": ({"lowercase": 1}, "option 'lowercase' must be bool. Received 1"),
    "number for text": ({"precision": 16}, "option 'precision' must be str. Received 16"),
    "list": ({"dim": [1]}, "option 'dim' must be int"),
    "two budgets": (
        {"steps": 5, "minutes": 1.0},
        "one budget. Expected minutes or steps. Received both; leave one out",
    ),
    "precision": ({"precision": "fp16"}, "must be auto, fp32 or bf16. Received 'fp16'"),
    "dropped merges": ({"bpe_dropout": 1.0}, "must be a number from 0 to below 1. Received 1.0"),
    "divergence": ({"r_drop": -1.0}, "the option 'r_drop' must be 0 or more"),
    "all for pretraining": ({"pretrain": 1.0}, "must be a number from 0 to below 1"),
    "texts for nothing": (
        {"unlabelled": "a.txt", "pretrain": 0.0},
        "Expected: a share of the budget for it, 0.2 for a fifth. Received: unlabelled and pretrain 0",
    ),
    "growing decay": ({"layer_decay": 1.5}, "the option 'layer_decay' must be at most 1"),
    "two vocabularies": (
        {"init": "folder", "vocabulary": 4000, "bpe_dropout": 0.1},
        "Received: init and vocabulary, bpe_dropout. Leave out one or the other",
    ),
    "encoder": ({"encoder": "lstm"}, "'encoder' must be attention or recurrent. Received 'lstm'"),
    "a recurrent one": ({"init": "folder", "encoder": "recurrent"}, "Received: init and encoder"),
    "dropout": ({"dropout": 1.0}, "must be a number from 0 to below 1. Received 1.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_refused(name):
    options, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        recipe_from(options, "here")


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    "name",
    [
        "minutes", "steps", "vocabulary", "dim", "heads", "hidden", "encoder_layers", "tokens", "accumulate", "threads",
        "evaluations", "dev_examples", "patience", "save_steps", "save_minutes", "clip", "max_characters", "learning_rate",
        "matrix_learning_rate",
    ],
)  # fmt: skip
def test_what_must_be_above_zero_is(name, value):
    with pytest.raises(ConfigError, match=f"{name}.* must be a number above 0. Received {value}"):
        recipe_from({name: value}, "here")


def test_whole_numbers_serve_as_fractions():
    assert recipe_from({"minutes": 3}, "here").minutes == 3


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"missing.toml does not exist; expected a TOML file"):
        read_toml(tmp_path / "missing.toml")
    path = tmp_path / "wrong.toml"
    for content in (b"[recipe\n", b"a = \n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"wrong.toml is not TOML"):
            read_toml(path)
