from __future__ import annotations

import json
import math
import time
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import CheckpointError, ConfigError, RegardError
from regard.metrics.translation import Score
from regard.tasks.translate import Translate
from regard.training import loop, runs
from regard.training.loop import parts_of, scale_and_clip
from regard.training.progress import Reporter, Silence


def gradients_of_one_update(trainer):
    """The gradients after clipping, and the loss that was reported."""
    found = {}

    def step(share):
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad.clone()

    losses = []
    trainer._step = step
    trainer.reporter.step = lambda **facts: losses.append(facts)
    trainer.update(0.5)
    return found, losses[0]


@pytest.mark.parametrize("switch", [{}, {"r_drop": 2.0}, {"pretrain": 0.9}], ids=str)
@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_accumulated_gradients_are_those_of_one_batch(trainer_of, accumulate, switch):
    options = {"dropout": 0.0, "clip": 1e9, **switch}
    whole, one = gradients_of_one_update(trainer_of(**options))
    parts, several = gradients_of_one_update(trainer_of(**options, accumulate=accumulate))
    assert whole.keys() == parts.keys()
    assert abs(one["loss"] - several["loss"]) < 1e-5
    assert one["tokens"] == several["tokens"]
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


def test_the_loss_is_the_mean_over_target_tokens(trainer_of):
    trainer = trainer_of(dropout=0.0, label_smoothing=0.0, average=0.0)
    batches = trainer.batches.state_dict()
    indices = next(trainer.batches)
    batch = trainer.learning.batch(indices, 0)
    tokens = sum(len(packed.values) for packed in batch.values())
    with torch.no_grad():
        expected = float(trainer.task.loss(trainer.model, batch, 0.0)) / len(batch["target"].values)
    trainer.batches.load_state_dict(batches)
    _, facts = gradients_of_one_update(trainer)
    assert abs(facts["loss"] - expected) < 1e-5
    assert facts["tokens"] == tokens


def test_gradients_are_clipped_together(trainer_of):
    gradients, _ = gradients_of_one_update(trainer_of(clip=0.01))
    norm = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
    assert abs(norm - 0.01) < 1e-4


@pytest.mark.parametrize("largest", [0.01, 0.5, 1e9])
def test_scaling_and_clipping_are_those_of_pytorch(largest):
    torch.manual_seed(0)
    ours, theirs = (
        [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2,))] for _ in range(2)
    )
    for one, other in zip(ours[:2], theirs[:2], strict=True):  # the last has no gradient
        one.grad = torch.randn_like(one)
        other.grad = one.grad / 7
    norm = scale_and_clip(ours, 7, largest)
    expected = torch.nn.utils.clip_grad_norm_(theirs, largest)
    assert norm == pytest.approx(float(expected), rel=1e-6)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert ours[2].grad is None


def test_every_epoch_has_every_example_once(trainer_of):
    trainer = trainer_of()
    seen = Counter()
    while trainer.batches.epoch == 0:
        seen.update(next(trainer.batches).tolist())
    assert set(seen) == set(range(len(trainer.store)))
    assert set(seen.values()) == {1}


def test_the_dev_loss_is_that_of_the_first_examples(trainer_of, monkeypatch):
    trainer = trainer_of(dropout=0.0)
    tokens = [sum(map(len, example)) for example in trainer.dev_store]
    monkeypatch.setattr("regard.training.loop.TOGETHER", max(tokens))  # parts of an example or more
    monkeypatch.setattr("regard.training.loop.LOSS_TOKENS", max(tokens))
    with torch.no_grad():
        found = trainer.dev_loss()
        first = next(parts_of(trainer.dev_store, max(tokens)))
        monkeypatch.setattr(trainer, "dev_store", first)
        assert found == trainer.dev_loss()
    assert len(first) < len(tokens)


def test_training_learns_and_keeps_the_best(trainer_of):
    trainer = trainer_of(
        steps=60, evaluations=3, average=0.2, dropout=0.0, matrix_learning_rate=0.05, learning_rate=0.02
    )
    with torch.no_grad():
        before = trainer.dev_loss()
    position = trainer.run()
    assert position.step == 60
    assert position.evaluated == 3
    with trainer.average.in_place(), torch.no_grad():
        assert trainer.dev_loss() < before - 0.5
    events = [
        json.loads(line)
        for line in (trainer.folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    ]
    assert [event["step"] for event in events if event["event"] == "dev"] == [20, 40, 60]
    assert events[-1]["event"] == "end"
    dev = {event["step"]: event["bleu"] for event in events if event["event"] == "dev"}
    assert position.best == pytest.approx(max(dev.values()), abs=1e-4)


class Fixed(Translate):
    """Scores as they are told, without translating."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def predict(self, model, inputs, **options):
        return []

    def score(self, predictions, records, **options):
        return [Score("bleu", next(self.scores), "")]


def test_the_run_ends_when_the_score_stays_behind(trainer_of):
    trainer = trainer_of(Fixed([1.0, 3.0, 2.0, 2.5, 9.0]), steps=10, evaluations=10, patience=2)
    position = trainer.run()
    assert (position.step, position.best, position.best_step, position.stale) == (4, 3.0, 2, 2)


def test_the_weights_in_the_folder_are_the_best_averaged_ones(trainer_of):
    trainer = trainer_of(Fixed([1.0, 3.0, 2.0, 0.0]), steps=4, evaluations=4, average=0.5)
    kept = {}
    save = trainer.save

    def remember():
        kept[trainer.position.step] = {
            name: tensor.clone() for name, tensor in trainer.average.weights.items()
        }
        save()

    trainer.save = remember
    trainer.run()
    runs.checkpoints.load_weights(trainer.folder, trainer.model)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, kept[2][name])


def test_the_first_score_counts_even_when_it_is_nothing(trainer_of):
    trainer = trainer_of(Fixed([-math.inf]), steps=1, evaluations=1)
    position = trainer.run()
    assert position.best_step == 1
    again = runs.resume(Fixed([]), trainer.folder, Reporter(None, Silence()))
    assert again.position.best == -math.inf


def test_evaluating_leaves_training_as_it_was(trainer_of):
    """The averaged weights are swapped out again, even when scoring fails, and dropout's numbers are the step's own."""
    trainer = trainer_of(Fixed([1.0]), steps=5)
    trainer.update(0.5)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.evaluate()
    with pytest.raises(StopIteration):
        trainer.evaluate()
    for parameter, expected in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(parameter, expected)


def test_the_order_of_evaluations_does_not_change_training(trainer_of):
    weights = []
    for evaluations in (1, 4):
        trainer = trainer_of(Fixed([1.0] * 9), steps=8, evaluations=evaluations, patience=9)
        trainer.run()
        weights.append([parameter.clone() for parameter in trainer.model.parameters()])
    for first, second in zip(*weights, strict=True):
        assert torch.equal(first, second)


def test_divergence_is_told_and_the_state_is_left_at_the_last_good_step(trainer_of):
    trainer = trainer_of(Fixed([1.0] * 9), steps=9, save_steps=1)
    trainer.update(0.1)
    trainer.save()
    with torch.no_grad():
        trainer.model.embedding.weight[5:] = torch.nan
    with pytest.raises(
        RegardError, match=r"training diverged at step 2: the loss is nan. Lower --learning-rate \(0.003\) or"
    ):
        trainer.run()
    assert runs.resume(Fixed([]), trainer.folder, Reporter(None, Silence())).position.step == 1


def test_minutes_end_a_run(trainer_of):
    trainer = trainer_of(Fixed([1.0] * 99), steps=None, minutes=0.03, evaluations=2, patience=9)
    evaluate, kept_free = trainer.evaluate, []

    def remember():
        kept_free.append(trainer.position.scoring)
        return evaluate()

    trainer.evaluate = remember
    position = trainer.run()
    assert position.step > 0
    # The last evaluation begins early by the time that the one before it took.
    assert 1.8 - kept_free[-1] <= position.seconds < 9
    assert position.evaluated == 2


def test_scoring_leaves_most_of_the_minutes_to_training(trainer_of, monkeypatch):
    trainer = trainer_of(Fixed([1.0] * 99), steps=None, minutes=0.05, evaluations=50, patience=99)
    update, evaluate, now, scored = trainer.update, trainer.evaluate, [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def updated(progress):
        now[0] += 0.02
        update(progress)

    def slowly():
        scored.append(now[0])
        now[0] += 0.1
        return evaluate()

    trainer.update, trainer.evaluate = updated, slowly
    position = trainer.run()
    assert position.evaluated == 50  # the last one
    assert len(scored) >= 3
    # Four seconds of training for every one, but before the last.
    assert all(later - earlier >= 0.1 + 0.4 - 1e-9 for earlier, later in pairwise(scored[:-1]))


def test_nothing_is_learned_that_no_score_can_choose(trainer_of, monkeypatch):
    """The last evaluation takes less time than was kept free for it."""
    trainer = trainer_of(Fixed([1.0] * 9), steps=None, minutes=0.05, evaluations=2, patience=9)
    update, evaluate, now, takes = trainer.update, trainer.evaluate, [0.0], iter([0.5, 0.1])
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def updated(progress):
        now[0] += 0.02
        update(progress)

    def quicker():
        now[0] += next(takes)
        return evaluate()

    trainer.update, trainer.evaluate = updated, quicker
    position = trainer.run()
    assert position.evaluated == 2
    assert position.seconds == position.scored_at < 3


def test_with_a_budget_of_steps_no_evaluation_is_left_out(trainer_of):
    trainer = trainer_of(Fixed([1.0] * 9), steps=4, evaluations=4, patience=9)
    evaluate, count = trainer.evaluate, []

    def slowly():
        count.append(time.sleep(0.1))
        return evaluate()

    trainer.evaluate = slowly
    trainer.run()
    assert len(count) == 4


def test_fewer_steps_than_evaluations(trainer_of):
    trainer = trainer_of(Fixed([1.0, 2.0, 3.0]), steps=3, evaluations=10)
    assert trainer.run().best_step == 3


def test_a_run_that_stands_is_not_touched(trainer_of, data):
    trainer = trainer_of()
    before = {path: path.read_bytes() for path in trainer.folder.rglob("*") if path.is_file()}
    with pytest.raises(
        ConfigError, match=r"holds a run already; nothing was changed. Go on with it by --resume"
    ):
        runs.begin(Translate(), trainer.recipe, *data, trainer.folder, Reporter(None, Silence()))
    assert {path: path.read_bytes() for path in trainer.folder.rglob("*") if path.is_file()} == before


def test_a_state_of_another_model_is_refused(trainer_of):
    trainer = trainer_of()
    trainer.update(0.1)
    trainer.save()
    config = trainer.folder / "config.toml"
    config.write_text(config.read_text(encoding="utf8").replace("dim = 16", "dim = 24"), encoding="utf8")
    with pytest.raises(CheckpointError, match="does not belong to this recipe"):
        runs.resume(Translate(), trainer.folder, Reporter(None, Silence()))


def test_a_state_of_other_batches_is_refused(trainer_of):
    trainer = trainer_of()
    trainer.save()
    config = trainer.folder / "config.toml"
    config.write_text(
        config.read_text(encoding="utf8").replace("tokens = 200", "tokens = 100"), encoding="utf8"
    )
    with pytest.raises(CheckpointError, match="belongs to other batches"):
        runs.resume(Translate(), trainer.folder, Reporter(None, Silence()))


@pytest.mark.parametrize(
    "content", ["", "[run]\ntask = 'translate'\n", "[run]\ntask = 'tran", "recipe = 3\n"]
)
def test_a_config_cut_short_is_refused(trainer_of, content):
    trainer = trainer_of()
    (trainer.folder / "config.toml").write_text(content, encoding="utf8")
    with pytest.raises(CheckpointError, match="cut short"):
        runs.resume(Translate(), trainer.folder, Reporter(None, Silence()))


def test_no_run_at_all_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no run: config.toml is missing"):
        runs.resume(Translate(), tmp_path, Reporter(None, Silence()))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20), st.integers(1, 30))
def test_dev_examples_are_taken_together_by_tokens(lengths, tokens):
    examples = [([0] * one, [1] * other) for one, other in lengths]
    parts = list(parts_of(examples, tokens))
    assert [example for part in parts for example in part] == examples
    sizes = [[sum(map(len, example)) for example in part] for part in parts]
    assert all(sum(part) <= tokens or len(part) == 1 for part in sizes)
    assert all(sum(part) + following[0] > tokens for part, following in pairwise(sizes))
