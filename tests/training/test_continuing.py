"""A run that begins with the weights of a finished one, of every kind of task."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import pretrained_folders as folders
import regard
from regard import samples
from regard._errors import ConfigError, DataError
from regard.tasks import make_task
from regard.training import checkpoints, runs
from regard.training.options import EVERY
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SMALL = Recipe(
    steps=4, vocabulary=300, dim=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=1, dropout=0.0, tokens=600,
    evaluations=1, dev_examples=4, precision="fp32", threads=1,
)  # fmt: skip
TASKS = ("translate", "summarize", "roles", "answer", "classify", "caption", "generate")


@pytest.fixture(autouse=True)
def _usual_memory(monkeypatch):
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)


def small(task, **options):
    """The small recipe with what the task obeys; texts are written in characters."""
    known = {*EVERY, *make_task(task).recipe_options} - ({"vocabulary"} if task == "generate" else set())
    return Recipe(**{name: value for name, value in SMALL.given().items() if name in known} | options)


def begin(task, recipe, folder, data=None):
    data = data or samples.sample_path(task)["dev"]
    return runs.begin(make_task(task), recipe, data, data, folder, Reporter(None, Silence()))


@pytest.mark.parametrize("task", TASKS)
def test_a_run_goes_on_with_the_weights_of_another(task, tmp_path):
    first = begin(task, small(task), tmp_path / "first")
    first.run()
    checkpoints.load_weights(tmp_path / "first", first.model)  # the best ones
    shapeless = {
        name: getattr(SMALL, name) for name in ("steps", "evaluations", "dev_examples", "tokens", "threads")
    }
    again = Recipe(**shapeless, precision="fp32", begin=str(tmp_path / "first"))
    second = begin(task, again, tmp_path / "second")
    before = dict(first.model.named_parameters())
    for name, parameter in second.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert second.recipe.dim == 16
    shutil.rmtree(tmp_path / "first")
    second.run()
    assert regard.load(tmp_path / "second").task.facts() == first.task.facts()


def test_labels_stay_and_new_ones_are_refused(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("label\ttext\n" + "cat\ta cat sat\ndog\ta dog ran\n" * 5, encoding="utf8")
    begin("classify", small("classify"), tmp_path / "first", file).run()
    again = small("classify", begin=str(tmp_path / "first"))
    file.write_text("label\ttext\n" + "cat\ta cat sat\ncow\ta cow ran\n" * 5, encoding="utf8")
    with pytest.raises(DataError, match="the label 'cow' was never seen in training"):
        begin("classify", again, tmp_path / "second", file)
    assert not (tmp_path / "second" / "config.toml").exists()


def test_what_the_other_run_cannot_learn_is_refused(tmp_path):
    fields = {"context": "Ada ran.", "question": "Who ran?", "answers": [{"text": "Ada", "start": 0}]}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(fields), encoding="utf8")
    begin("answer", small("answer"), tmp_path / "sure", file).run()
    file.write_text(json.dumps(fields) + "\n" + json.dumps(fields | {"answers": []}), encoding="utf8")
    again = small("answer", begin=str(tmp_path / "sure"))
    with pytest.raises(
        DataError, match=r"a\.jsonl, line 2: the run that training begins with always answers"
    ):
        begin("answer", again, tmp_path / "second", file)
    sentence = {"words": ["Ada", "ran"], "predicates": [1], "roles": [["B-ARG0", "B-V"]]}
    file.write_text(json.dumps(sentence), encoding="utf8")
    begin("roles", small("roles"), tmp_path / "one", file).run()
    file.write_text(json.dumps(sentence | {"roles": [["B-ARG1", "B-V"]]}), encoding="utf8")
    with pytest.raises(DataError, match="the role 'ARG1' was never seen in training"):
        begin("roles", small("roles", begin=str(tmp_path / "one")), tmp_path / "second", file)
    assert not (tmp_path / "second" / "config.toml").exists()


def test_a_reader_with_a_pretrained_encoder_goes_on_too(tmp_path):
    init = str(folders.write_folder(tmp_path / "m", folders.CONFIGS["bert"]))
    recipe = Recipe(
        init=init, steps=2, evaluations=1, tokens=1200, dev_examples=4, precision="fp32", threads=1
    )
    begin("answer", recipe, tmp_path / "first").run()
    shutil.rmtree(init)
    options = {"init_learning_rate": 1e-5, "frozen_layers": 1}
    again = recipe.replace(init=None, begin=str(tmp_path / "first"), **options)
    trainer = begin("answer", again, tmp_path / "second")
    assert not any(one.requires_grad for one in trainer.model.encoder.pretrained.words.parameters())
    expected = make_task("answer")
    expected.load(tmp_path / "first")
    config = runs.read_config(tmp_path / "first")
    model = expected.model(runs.recipe_of(config, tmp_path / "first"))
    checkpoints.load_weights(tmp_path / "first", model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(trainer.model.named_parameters())[name]), name
    trainer.run()
    assert regard.load(tmp_path / "second")(("Who?", "a dog ran .")).question == "Who?"


def test_what_does_not_go_with_the_other_run_is_refused(tmp_path):
    first = tmp_path / "first"
    begin("translate", small("translate"), first).run()
    with pytest.raises(
        ConfigError, match=r"Expected: dim = 16, as in .*first\. Received: 32\. .*leave --dim out"
    ):
        begin("translate", small("translate", dim=32, begin=str(first)), tmp_path / "second")
    with pytest.raises(ConfigError, match=r"frozen_layers says nothing without init"):
        runs.begin(
            make_task("answer"), Recipe(steps=1, frozen_layers=1), samples.sample_path("answer")["dev"], None, tmp_path / "second",
            Reporter(None, Silence()),
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"Expected: a run of 'roles'\. Received: .*, a run of 'translate'"):
        begin("roles", Recipe(steps=1, begin=str(first)), tmp_path / "second")
    data = samples.sample_path("translate")["dev"]
    with pytest.raises(ConfigError, match="is data and would be replaced by the run; nothing was changed"):
        runs.begin(
            make_task("translate"), Recipe(steps=1, begin=str(first)), data, data, first, Reporter(None, Silence()), overwrite=True
        )  # fmt: skip
    assert json.loads((first / "tokenizer.json").read_text(encoding="utf8"))
