from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import ConfigError, DataError
from regard.nn import TextEncoder
from regard.tasks.translate import Translate
from regard.training import pretraining, runs
from regard.training.pretraining import SPANS, hidden_places, reader
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe
from training.conftest import SMALL


def plainly_hidden(lengths, examples, key):
    """A loop over texts and places; a span is cut where its text ends."""
    begin_share = 1 - 0.8 ** (1 / 2.15)
    found = []
    for length, example in zip(lengths, examples, strict=True):
        hidden = [False] * length
        for place in range(length):
            number = np.array([example * pretraining.PLACE + place])
            begin, size = (pretraining.uniform(pretraining.derived(key, use), number)[0] for use in (0, 1))
            if begin < begin_share:
                span = 1 + sum(size >= share for share in SPANS)
                hidden[place : place + span] = [True] * len(hidden[place : place + span])
        found += hidden
    return found


@given(lengths=st.lists(st.integers(0, 9), max_size=6), key=st.integers(0, 2**60))
def test_hidden_places_are_those_of_a_plain_loop(lengths, key):
    examples = np.arange(len(lengths)) * 7 + 3
    found = hidden_places(np.array(lengths, np.int64), examples, key)
    assert found.tolist() == plainly_hidden(lengths, examples, key)


def test_a_fifth_is_hidden_in_spans():
    hidden = hidden_places(np.full(2000, 100), np.arange(2000), 5)
    assert abs(hidden.mean() - pretraining.HIDDEN) < 0.01
    followed = hidden[1:][hidden[:-1]].mean()
    assert followed > 0.5  # alone it would be a fifth
    assert (hidden != hidden_places(np.full(2000, 100), np.arange(2000), 6)).any()


def test_what_is_hidden_does_not_depend_on_the_batch(trainer_of):
    phase = trainer_of(pretrain=0.5).pretraining
    together, alone = phase.batch(np.array([4, 9]), 3), phase.batch(np.array([9]), 3)
    length = int(together.tokens.lengths[0])
    assert together.tokens.values[length:].tolist() == alone.tokens.values.tolist()


def test_hidden_tokens_are_unknown_ones_and_ends_are_seen(trainer_of):
    trainer = trainer_of(pretrain=0.5)
    phase, tokenizer = trainer.pretraining, trainer.task.tokenizer
    indices = np.arange(len(trainer.texts))
    batch = phase.batch(indices, 0)
    texts = torch.from_numpy(trainer.texts.gather(indices)["text"][0].astype(np.int64))
    assert (batch.tokens.values[batch.places] == tokenizer.unk).all()
    assert torch.equal(texts[batch.places], batch.targets)
    assert tokenizer.eos not in batch.targets
    seen = torch.ones(len(texts), dtype=torch.bool)
    seen[batch.places] = False
    assert torch.equal(batch.tokens.values[seen], texts[seen])
    assert phase.counted(batch) == len(batch.targets) > 0
    assert phase.tokens(batch) == len(texts)


def test_the_loss_is_the_cross_entropy_of_what_was_hidden(trainer_of):
    trainer = trainer_of(pretrain=0.5)
    trainer.model.eval()
    batch = trainer.pretraining.batch(np.arange(40), 2)
    states = trainer.model.encode(batch.tokens).values
    scores = F.linear(states, trainer.model.embedding.weight)[batch.places]
    expected = F.cross_entropy(scores, batch.targets, reduction="sum")
    torch.testing.assert_close(trainer.pretraining.loss(batch, 0.0), expected)


def test_an_update_has_gradients_of_the_encoder_alone(trainer_of):
    trainer = trainer_of(pretrain=0.9)
    found = []
    trainer._step = lambda share: found.extend(
        name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None
    )
    trainer.update(0.5)
    expected = {id(parameter) for parameter in trainer.pretraining.parameters()}
    assert found == [
        name for name, parameter in trainer.model.named_parameters() if id(parameter) in expected
    ]
    assert not any(name.startswith("decoder") for name in found)


def test_first_the_encoder_learns_then_everything(trainer_of):
    """The decoder stays until the task begins; no score is taken before."""
    trainer = trainer_of(
        steps=40, pretrain=0.5, evaluations=2, matrix_learning_rate=0.05, learning_rate=0.02, average=0.0
    )
    start = {name: value.clone() for name, value in trainer.model.named_parameters()}
    facts = []
    trainer.reporter.step = lambda **given: facts.append(given)
    for _ in range(20):
        trainer.update(trainer.progress())
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, start[name]) == name.startswith("decoder"), name
    assert facts[19]["loss"] < facts[0]["loss"] - 1
    assert trainer.batches.state_dict()["batch"] == 0
    trainer.run()
    assert any(not torch.equal(value, start[name]) for name, value in trainer.model.named_parameters())
    shares = [fact["share"] for fact in facts]
    assert max(shares[:20]) == pytest.approx(max(shares[20:]))  # both rise to the peak and fall
    assert [shares[0], shares[20]] == pytest.approx([0.5, 0.5])
    events = [json.loads(line) for line in (trainer.folder / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "dev"] == [30, 40]


def test_unlabelled_texts_come_to_those_of_the_task(trainer_of, tmp_path, data):
    file = tmp_path / "more.txt"
    file.write_text("the old dog sings\na quiet tree\n", encoding="utf8")
    trainer = trainer_of(pretrain=0.2, unlabelled=str(file))
    assert len(trainer.texts) == len(trainer.store) + 2
    last = trainer.texts.gather([len(trainer.texts) - 1])["text"][0]
    assert trainer.task.tokenizer.decode(last) == "a quiet tree"
    records = tmp_path / "more.jsonl"
    records.write_text('{"source": "the old dog"}\n', encoding="utf8")
    assert len(trainer_of(pretrain=0.2, unlabelled=str(records)).texts) == len(trainer.store) + 1


def test_bad_unlabelled_texts_are_met_at_the_door(trainer_of, tmp_path):
    file = tmp_path / "more.jsonl"
    file.write_text('{"source": "the old dog"}\n{"sauce": "a"}\n', encoding="utf8")
    with pytest.raises(DataError, match=r"more.jsonl, line 2: the field 'source' is missing"):
        trainer_of(pretrain=0.2, unlabelled=str(file))
    assert not list(tmp_path.glob("run*"))


def test_unlabelled_texts_in_the_run_folder_are_not_overwritten(data, tmp_path):
    folder = tmp_path / "run"
    (folder / "state").mkdir(parents=True)
    file = folder / "state" / "more.txt"
    file.write_text("a dog\n", encoding="utf8")
    recipe = Recipe(**SMALL, steps=5, pretrain=0.2, unlabelled=str(file))
    with pytest.raises(ConfigError, match="nothing was changed"):
        runs.begin(Translate(), recipe, *data, folder, Reporter(None, Silence()))
    assert file.exists()


class WithoutTexts(Translate):
    readings = None


class WithoutEncoder(Translate):
    def model(self, recipe):
        return torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("task", "message"),
    [(WithoutTexts(), "has no texts to pretrain on"), (WithoutEncoder(), "Linear has none. Leave pretrain")],
)
def test_what_cannot_be_pretrained_is_refused_before_anything_is_written(trainer_of, tmp_path, task, message):
    with pytest.raises(ConfigError, match=message):
        trainer_of(task, pretrain=0.2)
    assert not list(tmp_path.glob("run*"))


def test_a_text_encoder_is_found_under_its_name():
    model = torch.nn.Module()
    model.encoder = TextEncoder(20, dim=8, heads=2, hidden=8, layers=1)
    encode, parts, embedding = reader(model)
    assert encode is model.encoder
    assert parts == [model.encoder]
    assert embedding is model.encoder.embedding
