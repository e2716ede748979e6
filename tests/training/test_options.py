from __future__ import annotations

from dataclasses import fields

import pytest

from regard._errors import ConfigError
from regard.tasks import TASKS, make_task
from regard.training import runs
from regard.training.options import EVERY, NEEDS, given_options, refuse_unknown
from regard.training.recipe import Recipe

# A value of each option that is not its own; 3 does for the others.
OTHERS = {
    "lowercase": True,
    "flip": True,
    "matches": False,
    "ngrams": False,
    "encoder": "recurrent",
    "decoder": "recurrent",
    "unspaced": "scripts",
    "units": "bytes",
    "documents": "lines",
    "patch": 4,
    "r_drop": 1.0,
    "tint": 1.0,
    "text": "x",
    "label": "x",
    "languages": "en",
    "init": "x",
    "unlabelled": "x",
    "warp": 0.5,
    "coverage": 1.0,
    "bpe_dropout": 0.1,
    "pretrain": 0.1,
    "cider_finish": 0.1,
    "layer_decay": 0.5,
    "init_learning_rate": 0.5,
    "teacher": "x",
    "teacher_share": 0.3,
}
BEGUN = {"init": "x"}
BESIDE = {
    "variants": {"bpe_dropout": 0.1},
    "init_learning_rate": BEGUN,
    "layer_decay": BEGUN,
    "frozen_layers": BEGUN,
    "teacher_share": {"teacher": "x"},
}
SPECIAL = [field.name for field in fields(Recipe) if field.name not in EVERY]
KNOWN_BY = {
    "lowercase": {"translate", "summarize", "roles", "classify", "caption"},
    "decoder": {"translate", "summarize"},
    "encoder": {"translate", "summarize", "roles", "answer", "classify"},
    "init": {"roles", "answer", "classify"},
    "unspaced": {"answer"},
    "stride": {"answer"},
    "longest_answer": {"answer"},
    "matches": {"answer"},
    "window": {"answer", "summarize"},
    "ngrams": {"classify"},
    "r_drop": set(TASKS),
    "teacher": {"translate", "summarize", "caption", "generate"},
    "units": {"generate"},
    "cider_finish": {"caption"},
    "flip": {"classify", "caption"},
}


def recipe_with(name):
    return Recipe(steps=1, **{name: OTHERS.get(name, 3)}, **BESIDE.get(name, {}))


@pytest.mark.parametrize("task", TASKS)
def test_every_option_is_obeyed_or_refused_by_name(task):
    made = make_task(task)
    assert set(made.recipe_options) <= set(SPECIAL)
    for name in SPECIAL:
        if name in made.recipe_options:
            refuse_unknown(made, recipe_with(name))
            continue
        flag = f"--{name.replace('_', '-')}"
        with pytest.raises(
            ConfigError, match=rf"'{task}' knows no such option\. Expected.*{name} = .*{flag}"
        ):
            refuse_unknown(made, recipe_with(name))


@pytest.mark.parametrize("name", KNOWN_BY)
def test_who_obeys_what(name):
    assert {task for task in TASKS if name in make_task(task).recipe_options} == KNOWN_BY[name]


@pytest.mark.parametrize("task", TASKS)
def test_presets_choose_what_the_task_obeys(task):
    made = make_task(task)
    if task in ("classify", "caption"):
        made.reader.sides.append(16)
    for examples in (10, 10_000, 200_000):
        assert made.sizes(examples).keys() <= {*EVERY, *made.recipe_options}


def test_what_is_as_it_would_be_anyway_was_not_given():
    assert given_options(Recipe(steps=3, matches=True, encoder="attention", variants=8)) == ["steps"]


@pytest.mark.parametrize("name", NEEDS)
def test_what_says_nothing_by_itself(name):
    task = "translate" if name == "teacher_share" else "classify"
    recipe = Recipe(steps=1, **{name: OTHERS.get(name, 3)})
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(
        ConfigError, match=rf"{name} says nothing without {NEEDS[name]}\. Expected: .* too.*leave {flag} out"
    ):
        refuse_unknown(make_task(task), recipe)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("generate", {"vocabulary": 300}, "only subwords have a vocabulary"),
        (
            "classify",
            {"init": "x", "hidden": 8},
            "above a pretrained encoder classes have no layer with a width",
        ),
    ],
)
def test_options_that_do_not_go_together(task, options, message):
    with pytest.raises(ConfigError, match=f"{message}.*Expected.*Received.*To mend it: leave"):
        make_task(task).configure(Recipe(steps=1, **options))


def test_options_are_looked_at_before_the_data(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"Received: cider_finish = 0\.1, unspaced = runs\. To mend it: leave --cider-finish and --unspaced out",
    ):
        runs.prepare(
            make_task("roles"),
            Recipe(steps=1, unspaced="runs", cider_finish=0.1),
            tmp_path / "none.jsonl",
            None,
        )
