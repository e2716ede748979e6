from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regard._errors import ConfigError, DataError
from regard.data.packing import pack_streams
from regard.data.records import Record
from regard.decoding import Hypothesis
from regard.samples import sample_path
from regard.tasks import make_task
from regard.tasks._writing import shifted
from regard.tasks.summarize import Summarize, Summary
from regard.training import checkpoints, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

NAMES = [
    "harbour",
    "Kestrel",
    "mango",
    "Zephyr",
    "quill",
    "orbit",
    "Tundra",
    "velvet",
    "basalt",
    "Ginkgo",
    "lantern",
    "fjord",
    "cobalt",
    "Saffron",
    "nimbus",
]
PAIRS = [
    (
        f"This package has a tool. It is called {name} and it reads the files of {other}.",
        f"{name} for {other}",
    )
    for name, other in zip(NAMES, NAMES[4:] + NAMES[:4], strict=True)
]
RECIPE = Recipe(
    steps=150, vocabulary=300, dim=48, heads=4, hidden=64, encoder_layers=1, decoder_layers=1, dropout=0.0, tokens=300,
    average=0.1, evaluations=2, matrix_learning_rate=0.05, learning_rate=0.02, label_smoothing=0.0, precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A summarizer that knows fifteen descriptions by heart: task, model, the records, and its folder."""
    folder = tmp_path_factory.mktemp("summarize")
    path = folder / "pairs.tsv"
    path.write_text("source\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS), encoding="utf8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        reporter = Reporter(folder / "run" / "metrics.jsonl", Silence())
        trainer = runs.begin(Summarize(), RECIPE, path, path, folder / "run", reporter)
        trainer.run()
    checkpoints.load_weights(folder / "run", trainer.model)
    trainer.model.eval()
    return trainer.task, trainer.model, list(trainer.task.read(path, 1000)), folder / "run"


def test_fifteen_descriptions_are_learnt_by_heart(run):
    task, model, records, _ = run
    for beam in (1, 5):
        found = task.predict(model, [source for source, _ in PAIRS], beam=beam)
        scores = task.score(found, records)
        assert [score.name for score in scores] == ["rouge1", "rouge2", "rougeL"]
        assert scores[0].value > 95


def test_beside_every_score_stands_what_single_sentences_reach(run):
    task, _, records, _ = run
    found = [Summary(source, source.split(". ")[0], 0.0, ()) for source, _ in PAIRS]
    (score, _, _) = task.score(found, records)
    assert f"; first sentence {score.value:.1f}, longest sentence " in score.signature
    assert "best sentence" in score.signature


def test_the_best_of_several_references_counts(run):
    record = Record({"source": "A b c.", "target": "x", "targets": ["x", "a b"]}, "file", 1)
    task = run[0]
    found = [Summary("A b c.", "a b", 0.0, ())]
    assert [score.value for score in task.score(found, [record])] == pytest.approx([100, 100, 100])
    assert task.example_scores(found, [record]) == pytest.approx([100])


@pytest.mark.parametrize("beam", [1, 4])
def test_a_summary_does_not_depend_on_its_batch(run, beam, monkeypatch):
    task, model, _, _ = run
    inputs = [source for source, _ in PAIRS] + ["It is called Quokka.", "the files of Zephyr " * 20, "Ω 中"]
    together = task.predict(model, inputs, beam=beam)
    backwards = task.predict(model, inputs[::-1], beam=beam)[::-1]
    monkeypatch.setattr("regard.tasks._writing.HYPOTHESES", 7)
    small = task.predict(model, inputs, beam=beam)
    monkeypatch.setattr("regard.tasks._writing.HYPOTHESES", 320)
    monkeypatch.setattr("regard.tasks._writing.TOKENS", 50)
    few = task.predict(model, inputs, beam=beam)
    for text, first, *others in zip(inputs, together, backwards, small, few, strict=True):
        assert first.source == text
        for other in others:
            assert other.text == first.text or abs(other.score - first.score) < 1e-5
            assert other.score == pytest.approx(first.score, abs=1e-4)


def test_a_saved_summarizer_writes_alike_with_what_dev_data_taught_it(run):
    task, model, _, folder = run
    other = make_task("summarize")
    other.load(folder)
    fresh = other.model(RECIPE)
    checkpoints.load_weights(folder, fresh)
    assert float(fresh.longest) == float(model.longest) < math.inf
    inputs = [source for source, _ in PAIRS[:3]]
    assert other.predict(fresh.eval(), inputs) == task.predict(model, inputs)


def test_the_score_is_the_mean_log_probability_of_a_piece(run):
    task, model, _, _ = run
    (found,) = task.predict(model, ["It is called Kestrel and it reads the files of Zephyr."])
    target = [*found.pieces, task.tokenizer.eos]
    batch = pack_streams([(task.sources([found.source])[0], target)], task.streams)
    assert task.counted(batch) == len(target)
    assert found.score == pytest.approx(-task.loss(model, batch, 0.0).item() / len(target), abs=1e-4)


def test_the_loss_is_that_of_the_model_that_reads_the_target_shifted(run):
    task, model, records, _ = run
    batch = pack_streams(list(task.encode(records[:4])), task.streams)
    target = batch["target"]
    read = target.with_values(shifted(target, task.tokenizer.bos))
    expected = model.loss(batch["source"], read, target.values, 0.1)
    assert task.loss(model, batch, 0.1) == expected


def test_no_three_words_come_twice_unless_asked_for(run, monkeypatch):
    task, model, _, _ = run
    stutter = "files of files of files of files of files of files of "
    piece = task.tokenizer.encode(stutter)[0]

    def scores(states, weights, tokens):  # the same piece is always the likeliest
        log_p = torch.full((len(states), len(task.tokenizer)), -9.0)
        log_p[:, task.word_begins] = -5.0
        log_p[:, piece] = -0.1
        log_p[:, task.tokenizer.eos] = -8.0
        return log_p

    monkeypatch.setattr(model, "log_mixture", scores)
    (free,) = task.predict(model, [stutter], beam=1, repeats=True)
    (held,) = task.predict(model, [stutter], beam=1)
    assert len(set(free.pieces)) == 1
    assert len(free.pieces) > 3
    words = held.pieces
    rows = [words[i : i + 3] for i in range(len(words) - 2)]
    assert len(set(rows)) == len(rows) > 0


def test_the_length_penalty_is_the_one_that_suits_the_dev_data(run, monkeypatch):
    task, model, records, _ = run
    examples = list(task.encode(records))
    penalty, longest = float(model.penalty), float(model.longest)
    monkeypatch.setattr("regard.tasks.summarize.fit_penalty", lambda found, worth: 0.4)
    task.calibrate(model, records, examples)
    assert float(model.penalty) == pytest.approx(0.4)
    assert longest == max(len(target) for _, target in examples)
    task.calibrate(model, [], [])
    assert float(model.penalty) == pytest.approx(0.4)
    short, long = Hypothesis((5,), -1.0), Hypothesis((5, 6, 7), -3.0)
    monkeypatch.setattr(task, "_write", lambda *_: [[short, long]])
    for learned, best in ((0.4, short), (2.4, long)):
        model.penalty.data.fill_(learned)
        assert task.predict(model, ["A text."])[0].pieces == best.tokens
    model.penalty.data.fill_(penalty)


def test_attention_says_where_it_looked_and_what_it_copied(run):
    task, model, _, _ = run
    (plain,) = task.predict(model, [PAIRS[0][0]])
    (found,) = task.predict(model, [PAIRS[0][0]], attention=True)
    assert plain == found
    assert plain.attention is None
    weights = found.attention.weights
    assert weights.shape == (2, 4, len(found.pieces) + 1, len(found.attention.source))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert len(found.copied) == len(found.pieces) + 1
    assert all(0 <= share <= 1 + 1e-5 for share in found.copied)
    picture = found.picture()
    assert picture.title.endswith("% copied")
    with pytest.raises(ConfigError, match="this summary was made without looking"):
        plain.picture()


@pytest.mark.parametrize("bad", ["", "  ", 7, None])
def test_a_document_without_text_is_refused(run, bad):
    with pytest.raises(DataError, match="the given texts, line 3"):
        run[0].record(bad, ("the given texts", 3), 100)


def test_a_document_is_not_cut_in_silence(run):
    with pytest.raises(DataError, match="max-characters"):
        run[0].record("a" * 101, ("file", 1), 100)


def test_a_window_is_of_attention_and_changes_what_is_read(run):
    task = run[0]
    with pytest.raises(ConfigError, match="a window is one of attention"):
        task.model(RECIPE.replace(window=2, encoder="recurrent"))
    torch.manual_seed(0)
    narrow = task.model(RECIPE.replace(window=1)).eval()
    wide = task.model(RECIPE).eval()
    wide.load_state_dict(narrow.state_dict())
    batch = pack_streams(
        list(task.encode([Record({"source": "a b c d e f g h", "target": "a"}, "", 1)])), task.streams
    )
    assert not torch.allclose(task.loss(narrow, batch, 0.0), task.loss(wide, batch, 0.0))


def test_the_sample_is_whole_small_and_held_out():
    task, paths = Summarize(), sample_path("summarize")
    rows = {split: list(task.read(path, 1000)) for split, path in paths.items()}
    assert {split: len(records) for split, records in rows.items()} == {
        "train": 2966,
        "dev": 254,
        "test": 279,
    }
    assert max(len(record.fields["source"]) for records in rows.values() for record in records) <= 300
    names = [{record.fields["id"] for record in records} for records in rows.values()]
    assert len(set.union(*names)) == 2966 + 254 + 279
    folder = paths["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 400_000
    assert "licence" in (folder / "NOTICE.md").read_text(encoding="utf8")
