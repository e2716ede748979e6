"""A toy task that reads with whatever encoder the recipe asks for, begun from a small pretrained folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import pretrained_folders as folders
from regard._errors import CheckpointError, ConfigError
from regard.metrics.translation import Score
from regard.nn import PretrainedEncoder, TextEncoder, mean_pool
from regard.nn.loss import vocabulary_loss
from regard.tasks._encoder import learn_tokenizer, load_tokenizer, make_encoder
from regard.tasks.translate import Translate
from regard.training import checkpoints, fine_tuning, runs
from regard.training.options import BEGUN
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SENTENCES = [
    "a dog ran .",
    "who ran ?",
    "dogs",
    "a cafe .",
    "who ?",
    "a dog .",
    "who ran a cafe ?",
    "dogs ran .",
]
RECIPE = {"steps": 4, "evaluations": 1, "tokens": 40, "precision": "fp32", "threads": 1, "seed": 3}


class Pooled(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, 2)

    def forward(self, tokens):
        return mean_pool(self.encoder(tokens))


class Asks(Translate):
    """Whether a sentence is a question."""

    name = "asks"
    streams = ("source", "label")
    recipe_options = (*Translate.recipe_options, *BEGUN)

    def sizes(self, examples):
        return {"vocabulary": 300, "dim": 8, "encoder_layers": 1, "heads": 2, "hidden": 8, "dropout": 0.0}

    def learn(self, records, recipe):
        self.tokenizer = learn_tokenizer((record.fields["source"] for record in records), recipe)

    def load(self, folder):
        self.tokenizer = load_tokenizer(folder)

    def encode(self, records):
        for record in records:
            ids = self.tokenizer.encode(record.fields["source"])
            yield ids, [int("?" in record.fields["source"])]

    def model(self, recipe):
        return Pooled(make_encoder(recipe, self.tokenizer))

    def loss(self, model, batch, smoothing):
        return vocabulary_loss(model(batch["source"]), model.head.weight, batch["label"].values, smoothing)

    def counted(self, batch):
        return len(batch["label"].values)

    def predict(self, model, inputs, **options):
        return []

    def score(self, predictions, records, **options):
        return [Score("accuracy", 0.0, "")]


@pytest.fixture
def begun(tmp_path):
    """Begins runs of the toy task from a pretrained folder `m`."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"source": one, "target": "x"}) + "\n" for one in SENTENCES))

    def begin(kind="bert", task=None, **options):
        pretrained = folders.write_folder(tmp_path / kind, folders.CONFIGS[kind])
        recipe = Recipe(**(RECIPE | {"init": str(pretrained)} | options))
        reporter = Reporter(tmp_path / "run" / "metrics.jsonl", Silence())
        return runs.begin(task or Asks(), recipe, data, data, tmp_path / "run", reporter), pretrained

    return begin


@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert"])
def test_a_run_begins_with_the_weights_of_the_folder(begun, kind):
    trainer, folder = begun(kind)
    expected = PretrainedEncoder.load(folder).state_dict()
    found = trainer.model.encoder.pretrained.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    marked = trainer.model.encoder.marked(trainer.learning.batch(np.arange(2), 0)["source"])
    for ids in marked.tokens.unpack():
        pieces = trainer.task.tokenizer.pieces(ids.tolist())
        assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
        assert not {"[CLS]", "[SEP]"} & set(pieces[1:-1])
    assert (trainer.recipe.vocabulary, trainer.recipe.dim) == (None, None)


def test_a_run_needs_the_folder_no_longer_once_it_began(begun):
    trainer, folder = begun()
    for _ in range(2):
        trainer.update(trainer.progress())
    trainer.save()
    shutil.rmtree(folder)
    resumed = runs.resume(Asks(), trainer.folder, Reporter(None, Silence()))
    trainer.run()
    resumed.run()
    for one, other in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    config = runs.read_config(trainer.folder)
    assert config["recipe"]["init"] == str(folder)
    task = Asks()
    task.load(trainer.folder)
    model = task.model(runs.recipe_of(config, trainer.folder))
    checkpoints.load_weights(trainer.folder, model)
    assert list(task.encode(trainer.dev)) == trainer.dev_store


def test_layers_learn_with_falling_rates_and_frozen_ones_not_at_all(begun):
    trainer, _ = begun(frozen_layers=1, init_learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1)
    muon, adam = trainer.optimizers
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(trainer.model.head.weight)]
    assert [group["initial_lr"] for group in adam.param_groups] == [3e-3, 1e-3, 1e-3]
    assert [group["weight_decay"] for group in adam.param_groups] == [0.0, 0.0, 0.1]
    assert all(parameter.ndim == 2 for parameter in adam.param_groups[2]["params"])
    assert all(parameter.ndim == 1 for parameter in adam.param_groups[1]["params"])
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    for _ in range(3):
        trainer.update(0.05)
    changed = {
        name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])
    }
    learning = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert "head.weight" in changed
    assert learning - changed <= {"head.bias", "encoder.gate"}  # they are no part of this loss
    assert all(name.startswith(("head", "encoder.pretrained.blocks.1")) for name in changed)


def test_the_rates_fall_from_layer_to_layer(begun):
    trainer, _ = begun(init_learning_rate=1e-3, layer_decay=0.5, steps=10**6)
    rates = [group["initial_lr"] for group in trainer.optimizers[1].param_groups]
    assert rates == [3e-3, 2.5e-4, 5e-4, 1e-3]
    trainer.update(0.025)  # half of the way up
    assert [group["lr"] for group in trainer.optimizers[1].param_groups] == pytest.approx(
        [rate / 2 for rate in rates], rel=1e-4
    )


def test_what_is_added_reaches_the_first_layer(begun):
    trainer, _ = begun()
    encoder = trainer.model.encoder.eval()
    batch = trainer.learning.batch(torch.arange(3).numpy(), 0)["source"]
    extra = torch.randn(len(batch.values), encoder.dim)
    with torch.no_grad():
        plain, shut = (encoder(batch, given).values for given in (None, extra))
        encoder.gate.fill_(0.5)
        marked, places = encoder.marked(batch)
        added = torch.zeros(len(marked.values), encoder.dim).index_copy(0, places, extra / 2)
        half = encoder.pretrained(marked, extra=added).values[places]
        torch.testing.assert_close(shut, plain)
        torch.testing.assert_close(encoder(batch, extra).values, half)
        assert not torch.allclose(half, plain)


def test_without_init_the_same_task_reads_with_an_encoder_of_its_own(begun):
    trainer, _ = begun(init=None)
    assert isinstance(trainer.model.encoder, TextEncoder)
    assert not (trainer.folder / "encoder").exists()


def test_a_run_from_nothing_replaces_one_that_was_not(begun):
    trainer, _ = begun()
    data = trainer.folder.parent / "data.jsonl"
    again = runs.begin(
        Asks(), Recipe(**RECIPE), data, data, trainer.folder, Reporter(None, Silence()), overwrite=True
    )
    assert not (trainer.folder / "encoder").exists()
    assert type(again.task.tokenizer).__name__ == "Tokenizer"


def test_what_cannot_begin_so_is_refused_before_anything_is_written(begun, tmp_path):
    with pytest.raises(
        ConfigError, match=r"EncoderDecoder has no place for a pretrained encoder. Leave it out"
    ):
        begun(task=Translating())
    with pytest.raises(
        ConfigError, match=r"has 2 layers. Expected: at most as many frozen_layers. Received: 3"
    ):
        begun(frozen_layers=3)
    with pytest.raises(ConfigError, match=r"Pooled has none. Leave pretrain and unlabelled out"):
        begun(pretrain=0.5)
    with pytest.raises(CheckpointError, match="is no folder"):
        begun(init=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"config.json"):
        begun(init=str(tmp_path))
    assert not (tmp_path / "run" / "config.toml").exists()


class Translating(Asks):
    sizes, model = Translate.sizes, Translate.model


def test_beside_a_pretrained_encoder_no_size_of_its_own_is_chosen(tmp_path):
    recipe = Recipe(init=str(folders.write_folder(tmp_path / "m", folders.CONFIGS["bert"])))
    sizes = {"dim": 128, "dropout": 0.15, "pretrain": 0.25, "decoder_layers": 3, "window": 320}
    assert fine_tuning.sizes_beside(recipe, sizes) == {"decoder_layers": 1, "window": 320}
    assert fine_tuning.sizes_beside(Recipe(), sizes) == sizes
