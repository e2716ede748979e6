from __future__ import annotations

import numpy as np
import pytest
import torch

from regard._errors import ConfigError
from regard.data.packing import pack_streams
from regard.nn.loss import vocabulary_loss
from regard.tasks.translate import Translate
from regard.training.variants import variants_of


def test_variants_are_several_ways_to_cut_each_example(trainer_of):
    plain, trainer = trainer_of(), trainer_of(bpe_dropout=0.3, variants=3)
    count = len(plain.store)
    assert len(trainer.store) == 3 * count
    assert trainer.learning.size()[0] == count
    tokenizer, cuts = trainer.task.tokenizer, set()
    for example in (0, 100):
        expected = plain.store.gather([example])
        for variant in range(3):
            found = trainer.store.gather([example + variant * count])
            for name, (ids, _) in found.items():
                assert tokenizer.decode(ids) == tokenizer.decode(expected[name][0])
                cuts.add(tuple(ids.tolist()))
    assert len(cuts) > 6


def test_dev_records_and_predictions_are_cut_as_ever(trainer_of):
    trainer = trainer_of(bpe_dropout=0.5)
    assert trainer.dev_store == list(Translate.encode(trainer.task, trainer.dev))
    assert type(trainer.task.tokenizer).__name__ == "Tokenizer"


def test_an_epoch_has_every_example_in_one_way(trainer_of):
    trainer = trainer_of(bpe_dropout=0.1, variants=4)
    seen = []
    while trainer.batches.epoch == 0:
        seen += next(trainer.batches).tolist()
    count = len(trainer.store) // 4
    assert sorted(index % count for index in seen) == list(range(count))
    assert len({index // count for index in seen}) == 4


class Splitting(Translate):
    """Makes as many examples of a record as its source has pieces."""

    def encode(self, records):
        for source, target in super().encode(records):
            yield from [(source, target)] * len(source)


def test_where_the_number_of_examples_changes_each_is_for_itself(trainer_of):
    trainer = trainer_of(Splitting(), bpe_dropout=0.3, variants=5)
    assert trainer.batches.variants == variants_of(trainer.store, trainer.recipe)
    seen = []
    for _ in range(trainer.batches.variants):
        number = trainer.batches.epoch
        while trainer.batches.epoch == number:
            seen += next(trainer.batches).tolist()
    assert sorted(seen) == list(range(len(trainer.store)))


class WithoutPieces(Translate):
    def learn(self, records, recipe):
        super().learn(records, recipe)
        self.known, self.tokenizer = self.tokenizer, None

    def model(self, recipe):
        return torch.nn.Linear(2, 2)


def test_a_task_without_pieces_cannot_drop_any(trainer_of, tmp_path):
    with pytest.raises(ConfigError, match="translate has no pieces that could be cut otherwise"):
        trainer_of(WithoutPieces(), bpe_dropout=0.1)
    assert not list(tmp_path.glob("run*"))


def test_passes_without_dropout_agree(trainer_of):
    one, two = trainer_of(dropout=0.0), trainer_of(dropout=0.0, r_drop=5.0)
    batch = one.learning.batch(np.arange(20), 0)
    torch.testing.assert_close(one.learning.loss(batch, 0.0), two.learning.loss(batch, 0.0))


def test_passes_with_dropout_are_asked_to_agree(trainer_of):
    trainer = trainer_of(dropout=0.3, r_drop=5.0)
    batch = trainer.learning.batch(np.arange(20), 0)
    losses = []
    for coefficient in (1e-9, 5.0):
        trainer.learning.recipe = trainer.recipe.replace(r_drop=coefficient)
        torch.manual_seed(1)
        losses.append(float(trainer.learning.loss(batch, 0.0).detach()))
    assert losses[1] > losses[0] * 1.001
    trainer.model.eval()  # the dev loss is that of one pass
    with torch.no_grad():
        assert trainer.dev_loss() > 0


def test_the_loss_is_that_of_both_passes_and_their_divergence(trainer_of, monkeypatch):
    """By hand: both halves through the model at once, and the formula of the paper, halved."""
    trainer = trainer_of(dropout=0.3, r_drop=2.0, label_smoothing=0.0)
    batch = trainer.learning.batch(np.arange(12), 0)
    torch.manual_seed(4)
    found = trainer.learning.loss(batch, 0.0)
    examples = [
        tuple(ids.tolist() for ids in pair)
        for pair in zip(*(stream.unpack() for stream in batch.values()), strict=True)
    ]
    doubled = pack_streams(examples * 2, trainer.task.streams)
    kept = {}

    def seen(states, *rest):
        kept["states"] = states
        return vocabulary_loss(states, *rest)

    monkeypatch.setattr("regard.tasks.translate.vocabulary_loss", seen)
    torch.manual_seed(4)
    entropy = trainer.task.loss(trainer.model, doubled, 0.0)
    half = len(kept["states"]) // 2
    p, q = torch.log_softmax(kept["states"] @ trainer.model.embedding.weight.T, -1).split(half)
    apart = ((p.exp() - q.exp()) * (p - q)).sum()
    torch.testing.assert_close(found, entropy / 2 + 2.0 / 4 * apart)


class OtherLoss(Translate):
    def loss(self, model, batch, smoothing):
        return model.embedding.weight.square().sum()


def test_a_loss_that_compares_nothing_is_refused(trainer_of):
    with pytest.raises(ConfigError, match="nothing compared them"):
        trainer_of(OtherLoss(), r_drop=1.0).update(0.5)
