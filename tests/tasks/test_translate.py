from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regard import Packed
from regard._errors import CheckpointError, ConfigError, DataError
from regard._lowering import kernel
from regard.data.packing import pack_streams
from regard.data.records import Record, read_records
from regard.tasks import make_task
from regard.tasks._writing import shifted
from regard.tasks.translate import Translate
from regard.training import checkpoints, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

PAIRS = [
    ("A dog runs.", "一只狗在跑。"), ("A cat sleeps.", "一只猫在睡觉。"), ("Who are you?", "你是谁?"), ("I am here.", "我在这里。"),
    ("It is raining.", "下雨了。"), ("The man reads a book.", "那个人在看书。"), ("She sings well.", "她唱得很好。"),
    ("We like tea.", "我们喜欢茶。"), ("They drink coffee.", "他们喝咖啡。"), ("Come in!", "请进!"), ("Go home.", "回家吧。"),
    ("What time is it?", "现在几点了?"), ("He has two sons.", "他有两个儿子。"), ("I don't know.", "我不知道。"),
    ("The sky is blue.", "天是蓝的。"), ("My name is Tom.", "我叫汤姆。"), ("Open the window.", "打开窗户。"),
    ("This is a pen.", "这是一支笔。"), ("I love you.", "我爱你。"), ("Where is my key?", "我的钥匙在哪儿?"),
    ("He is a teacher.", "他是老师。"), ("It is cold today.", "今天很冷。"), ("She bought fish.", "她买了鱼。"),
    ("Thank you very much.", "非常感谢。"), ("See you tomorrow.", "明天见。"), ("The train is late.", "火车晚点了。"),
    ("I am hungry.", "我饿了。"), ("Nobody came.", "没有人来。"), ("Be careful.", "小心。"), ("Time flies.", "光阴似箭。"),
]  # fmt: skip
RECIPE = Recipe(
    steps=120, vocabulary=500, dim=48, heads=4, hidden=64, encoder_layers=1, decoder_layers=1, dropout=0.0, tokens=300,
    average=0.1, evaluations=2, matrix_learning_rate=0.05, learning_rate=0.02, label_smoothing=0.0, precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A translator that knows thirty sentences by heart: task, model, the records, and its folder."""
    folder = tmp_path_factory.mktemp("translate")
    path = folder / "pairs.tsv"
    path.write_text(
        "source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in PAIRS), encoding="utf8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        reporter = Reporter(folder / "run" / "metrics.jsonl", Silence())
        trainer = runs.begin(Translate(), RECIPE, path, path, folder / "run", reporter)
        trainer.run()
    checkpoints.load_weights(folder / "run", trainer.model)
    trainer.model.eval()
    return trainer.task, trainer.model, list(read_records(path, ("source", "target"))), folder / "run"


def test_thirty_sentences_are_learnt_by_heart(run):
    task, model, records, _ = run
    for beam in (1, 5):
        found = task.predict(model, [source for source, _ in PAIRS], beam=beam)
        bleu, chrf = task.score(found, records)
        assert (bleu.name, chrf.name) == ("bleu", "chrf")
        assert bleu.value > 95
        assert chrf.value > 95
        assert "tok:zh" in bleu.signature


def test_several_candidates_come_with_a_translation(run):
    task, model, _, _ = run
    inputs = [source for source, _ in PAIRS[:4]]
    for one, usual in zip(
        task.predict(model, inputs, candidates=3), task.predict(model, inputs), strict=True
    ):
        assert (one.text, one.score, usual.candidates) == (usual.text, usual.score, ())
        first, *others = one.candidates
        assert (first.text, first.score) == (one.text, one.score)
        assert len({draft.text for draft in one.candidates}) == 3
        assert first.score >= max(draft.score for draft in others)
        entry = one.as_json()
        assert [draft["text"] for draft in entry["candidates"]] == [draft.text for draft in one.candidates]
    for beam, candidates in ((2, 3), (5, 0)):
        with pytest.raises(ConfigError, match=rf"Expected: 1 to {beam}\. Received: {candidates}"):
            task.predict(model, inputs, beam=beam, candidates=candidates)


def test_pairs_of_several_files_are_read_in_turn(tmp_path):
    for name, line in (("a.jsonl", '{"source": "dog", "target": "Hund"}'), ("b.tsv", "cat\tKatze")):
        (tmp_path / name).write_text(line + "\n", encoding="utf8")
    found = list(Translate().read(f"{tmp_path / 'a.jsonl'},{tmp_path / 'b.tsv'}", 100))
    assert [(one.fields["source"], one.fields["target"]) for one in found] == [
        ("dog", "Hund"),
        ("cat", "Katze"),
    ]


def test_a_saved_translator_translates_alike(run):
    task, model, _, folder = run
    other = Translate()
    other.load(folder)
    fresh = other.model(RECIPE)
    checkpoints.load_weights(folder, fresh)
    inputs = [source for source, _ in PAIRS[:5]]
    assert other.predict(fresh.eval(), inputs) == task.predict(model, inputs)


@pytest.mark.parametrize("beam", [1, 5])
def test_a_translation_does_not_depend_on_its_batch(run, beam, monkeypatch):
    """Known sentences and others, in any order, alone and together; in small batches too."""
    task, model, _, _ = run
    inputs = [source for source, _ in PAIRS] + [
        "A man sleeps here today.",
        "Who reads my book?",
        "dog dog dog",
        "Ω 中",
    ]
    together = task.predict(model, inputs, beam=beam)
    backwards = task.predict(model, inputs[::-1], beam=beam)[::-1]
    monkeypatch.setattr("regard.tasks._writing.HYPOTHESES", 7)
    small = task.predict(model, inputs, beam=beam)
    alone = [task.predict(model, [text], beam=beam)[0] for text in inputs]
    for text, first, *others in zip(inputs, together, backwards, small, alone, strict=True):
        assert first.source == text
        for other in others:
            assert other.text == first.text or abs(other.score - first.score) < 1e-5
            assert other.score == pytest.approx(first.score, abs=1e-4)


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
@pytest.mark.parametrize("beam", [1, 5])
def test_the_kernel_translates_as_pytorch_does(run, beam, monkeypatch):
    task, model, _, _ = run
    inputs = [source for source, _ in PAIRS] + ["A man sleeps here today.", "Who reads my book?"]
    found = task.predict(model, inputs, beam=beam)
    packed = task.predict(model, inputs, beam=beam, engine=task.engine(model))
    assert packed == found
    monkeypatch.setattr("regard.tasks.translate.is_for", lambda model: False)
    plain = task.predict(model, inputs, beam=beam)
    assert [one.text for one in plain] == [one.text for one in found]
    assert [one.score for one in plain] == pytest.approx([one.score for one in found], abs=1e-4)


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_is_known_by_heart_survives_a_lower_precision(run, precision):
    task, model, _, _ = run
    found = task.predict(model, [source for source, _ in PAIRS], precision=precision)
    assert sum(one.text == target for one, (_, target) in zip(found, PAIRS, strict=True)) >= 27
    with pytest.raises(ConfigError, match="no precision 'int4'"):
        task.predict(model, ["A dog."], precision="int4")


def test_a_model_without_numbers_writes_nothing(run, monkeypatch):
    task = run[0]
    broken = task.model(RECIPE)
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    found = task.predict(broken.eval(), ["A dog.", "A cat sleeps."])
    assert [one.text for one in found] == ["", ""]
    monkeypatch.setattr("regard.tasks.translate.is_for", lambda model: False)
    assert [one.text for one in task.predict(broken, ["A dog."], beam=1)] == [""]


def test_order_is_restored(run):
    task, model, _, _ = run
    inputs = [PAIRS[number][0] for number in (5, 0, 28, 0, 11)]
    found = task.predict(model, inputs)
    assert [one.source for one in found] == inputs
    assert found[1] == found[3]
    assert str(found[2]) == found[2].text == PAIRS[28][1]


def test_nothing_and_blank_texts(run):
    task, model, _, _ = run
    assert task.predict(model, []) == []
    (blank,) = task.predict(model, [""])
    assert blank.source == ""
    assert isinstance(blank.text, str)
    mixed = task.predict(model, ["", PAIRS[0][0], " "])
    assert mixed[1].text == PAIRS[0][1]


def test_the_score_is_the_mean_log_probability_of_a_piece(run):
    task, model, _, _ = run
    (found,) = task.predict(model, ["The man reads tea."])
    source = task.tokenizer.encode(found.source)
    target = [*found.pieces, task.tokenizer.eos]
    batch = pack_streams([([*source, task.tokenizer.eos], target)], task.streams)
    loss = task.loss(model, batch, 0.0)
    assert found.score == pytest.approx(-loss.item() / len(target), abs=1e-4)


def test_translating_leaves_the_state_of_the_world_alone(run):
    task, model, _, _ = run
    state = torch.get_rng_state()
    task.predict(model, [PAIRS[0][0]])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_is_there_on_request(run):
    task, model, _, _ = run
    (plain,) = task.predict(model, [PAIRS[0][0]])
    (found,) = task.predict(model, [PAIRS[0][0]], attention=True)
    assert plain.attention is None
    assert plain == found
    weights = found.attention.weights
    assert weights.shape == (1, 4, len(found.pieces) + 1, len(found.attention.source))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert "".join(found.attention.target) == found.text + "</s>"


def test_a_beam_of_nothing_is_refused(run):
    task, model, _, _ = run
    with pytest.raises(ConfigError, match="beam=0; 5 is usual"):
        task.predict(model, ["A dog."], beam=0)


def record(source, *targets):
    return Record({"source": source, "target": targets[0], "targets": list(targets)}, "file", 1)


def test_the_best_of_several_references_counts(run):
    task, _, _, _ = run
    predictions = ["A dog runs on the beach.", "Nobody has come here today."]
    one = [record("", "A hound is running over the sand."), record("", "Nobody has come here today.")]
    two = [record("", "A hound is running over the sand.", "A dog runs on the beach."), one[1]]
    found = [type("Prediction", (), {"text": text}) for text in predictions]
    assert task.score(found, one)[0].value < 80
    assert task.score(found, two)[0].value == pytest.approx(100)
    assert task.score(found, [record("", "a DOG runs on the beach."), one[1]], lowercase=True)[
        0
    ].value == pytest.approx(100)


def test_several_references_are_read_from_files(tmp_path, run):
    task, model, _, _ = run
    path = tmp_path / "dev.jsonl"
    path.write_text('{"source": "A dog runs.", "targets": ["狗跑。", "一只狗在跑。"]}\n', encoding="utf8")
    records = list(read_records(path, task.fields))
    assert task.score(task.predict(model, ["A dog runs."]), records)[1].value == pytest.approx(100)


def test_a_lower_cased_model_is_scored_without_case():
    task = Translate()
    task.learn([record("A Dog.", "Ein Hund.")], RECIPE.replace(lowercase=True, vocabulary=300))
    (score, _) = task.score(
        [type("Prediction", (), {"text": "ein hund läuft heute."})], [record("", "Ein Hund läuft heute.")]
    )
    assert score.value == pytest.approx(100)
    assert "case:lc" in score.signature


def test_what_the_decoder_reads_is_the_target_moved_by_one():
    target = Packed(torch.tensor([5, 6, 2, 2, 7, 2]), [0, 3, 3, 4, 6])
    assert shifted(target, 1).tolist() == [1, 5, 6, 1, 1, 7]
    assert shifted(Packed(torch.zeros(0, dtype=torch.int64), [0, 0]), 1).tolist() == []


def test_encoding_ends_both_sides_and_streams(run):
    task, _, records, _ = run
    encoded = list(task.encode(iter(records)))
    assert len(encoded) == 30
    for (source, target), (text, translation) in zip(encoded, PAIRS, strict=True):
        assert source[-1] == target[-1] == task.tokenizer.eos
        assert task.tokenizer.decode(source) == text
        assert task.tokenizer.decode(target) == translation


def test_the_loss_is_summed_cross_entropy(run):
    task, model, records, _ = run
    batch = pack_streams(list(task.encode(records[:4])), task.streams)
    states = model(batch["source"], batch["target"].with_values(shifted(batch["target"], task.tokenizer.bos)))
    expected = F.cross_entropy(
        model.scores(states), batch["target"].values, label_smoothing=0.1, reduction="sum"
    )
    torch.testing.assert_close(task.loss(model, batch, 0.1), expected)


def test_tasks_are_made_by_name():
    assert isinstance(make_task("translate"), Translate)
    with pytest.raises(ConfigError, match="there is no task 'translat'; did you mean 'translate'"):
        make_task("translat")


def test_a_missing_vocabulary_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer"):
        Translate().load(tmp_path)


def test_a_shortlist_is_learned_from_files_or_records(run, tmp_path):
    task, _, records, _ = run
    expected = task.shortlist(records)
    lines = [json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS]
    for name, part in (("a.jsonl", lines[:10]), ("b.jsonl", lines[10:])):
        (tmp_path / name).write_text("".join(part), encoding="utf8")
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for source in (",".join(map(str, paths)), paths, iter(records)):
        np.testing.assert_array_equal(task.shortlist(source).candidates, expected.candidates)
    fewer = task.shortlist(paths[0])
    assert not np.array_equal(fewer.candidates, expected.candidates)
    with pytest.raises(DataError, match="--max-characters"):
        task.shortlist(paths[0], max_characters=5)


@pytest.mark.parametrize("pairs", [PAIRS, [{"source": "a", "target": "b"}]])
def test_a_shortlist_says_what_it_is_learned_from(run, pairs):
    with pytest.raises(
        ConfigError, match=r"Expected: the path of a file of pairs.*Received: a(n object| tuple),"
    ):
        run[0].shortlist(pairs)
