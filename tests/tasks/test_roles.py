from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pretrained_folders as folders
import regard
from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.columns import write_columns
from regard.data.packing import pack_streams
from regard.data.records import Record
from regard.data.sentences import Sentence, read_sentences
from regard.metrics.spans import column_scores
from regard.nn.attention import CrossAttention, SelfAttention
from regard.samples import sample_path
from regard.tasks.roles import Roles
from regard.training import checkpoints, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

DOERS, ACTS, THINGS = (
    ("dog", "cat", "man", "girl"),
    ("chases", "sees", "likes"),
    ("ball", "house", "bird", "tree"),
)
RECIPE = Recipe(
    steps=100, vocabulary=300, dim=32, heads=2, hidden=48, encoder_layers=1, decoder_layers=1, dropout=0.0, tokens=900,
    average=0.1, evaluations=2, label_smoothing=0.0, precision="fp32", learning_rate=0.01,
)  # fmt: skip


def sentence(doer, act, thing, passive, number):
    """Who does it decides nothing here but the form of the verb, and every sentence has two predicates."""
    if passive:
        words = ["the", thing, "is", act, "by", "a", doer, ",", "he", "says"]
        first = ["B-A1", "I-A1", "O", "B-V", "B-A0", "I-A0", "I-A0", "O", "O", "O"]
        second = [*(["B-A1"] + ["I-A1"] * 6), "O", "B-A0", "B-V"]
        predicates = [3, 9]
    else:
        words = ["he", "says", "a", doer, act, "the", thing]
        first = ["O", "O", "B-A0", "I-A0", "B-V", "B-A1", "I-A1"]
        second = ["B-A0", "B-V", "B-A1", "I-A1", "I-A1", "I-A1", "I-A1"]
        predicates = [4, 1]
    return {"id": number, "words": words, "predicates": predicates, "roles": [first, second]}


ROWS = [sentence(*parts, n) for n, parts in enumerate(itertools.product(DOERS, ACTS, THINGS, (False, True)))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A labeller of a tiny language: task, model, records of unseen sentences, and its folder."""
    folder = tmp_path_factory.mktemp("roles")
    kept = [row for row in ROWS if row["id"] % 4]
    for name, rows in (("train", kept), ("dev", ROWS[::4])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        reporter = Reporter(None, Silence())
        trainer = runs.begin(
            Roles(), RECIPE, folder / "train.jsonl", folder / "dev.jsonl", folder / "run", reporter
        )
        trainer.run()
    checkpoints.load_weights(folder / "run", trainer.model)
    return (
        trainer.task,
        trainer.model.eval(),
        list(read_sentences(folder / "dev.jsonl", 1000)),
        folder / "run",
    )


def inputs_of(task, records, given=True):
    found = [task.input_of(record) for record in records]
    return found if given else [Sentence(one.words) for one in found]


def test_unseen_sentences_are_labelled(run):
    task, model, records, _ = run
    scores = {
        score.name: score for score in task.score(task.predict(model, inputs_of(task, records)), records)
    }
    assert list(scores) == ["f1", "precision", "recall", "predicates"]
    assert scores["f1"].value > 95
    assert scores["predicates"].value > 95
    assert "scorer:conll2005" in scores["f1"].signature


def test_predicates_are_found_where_none_are_given(run):
    task, model, records, _ = run
    found = task.predict(model, inputs_of(task, records, given=False))
    assert all(tuple(p.predicate for p in one.propositions) == one.found for one in found)
    assert task.score(found, records)[0].value > 90


def test_a_saved_labeller_labels_alike(run):
    task, model, records, folder = run
    inputs = inputs_of(task, records[:5])
    loaded = regard.load(folder)
    assert loaded.task.roles == task.roles == ("V", "A1", "A0")
    assert loaded.task.predict(loaded.model, inputs) == task.predict(model, inputs)
    one = loaded({"words": ROWS[0]["words"], "predicate": 4})
    assert [p.predicate for p in one.propositions] == [4]
    assert loaded(tuple(ROWS[0]["words"])).sentence.words == tuple(ROWS[0]["words"])
    assert len(loaded(["he says", "a dog sees the ball"])) == 2


def test_a_labelling_does_not_depend_on_its_batch(run, monkeypatch):
    task, model, records, _ = run
    inputs = [
        *inputs_of(task, records),
        Sentence(("word",)),
        Sentence(("Ω", "\u0378", "x" * 50), (1,)),
        Sentence(("a",), ()),
    ]
    together = task.predict(model, inputs)
    backwards = task.predict(model, inputs[::-1])[::-1]
    monkeypatch.setattr("regard.tasks.roles.TOGETHER", 3)
    monkeypatch.setattr("regard.tasks.roles.ROWS", 9)
    small = task.predict(model, inputs)
    looked = task.predict(model, inputs[:2], attention=True)
    assert [one.attention.shape[2] for one in looked] == [2, 2]
    assert [one.sentence for one in together] == inputs
    for one, *others in zip(together, backwards, small, strict=True):
        for other in others:
            assert [p.roles for p in other.propositions] == [p.roles for p in one.propositions]
            for ours, theirs in zip(one.propositions, other.propositions, strict=True):
                pairs = zip(ours.spans, theirs.spans, strict=True)
                assert all(a.probability == pytest.approx(b.probability, abs=1e-4) for a, b in pairs)


def test_tags_are_valid_and_the_predicate_is_itself(run):
    task, model, _, _ = run
    torch.manual_seed(1)
    fresh = task.model(RECIPE).eval()  # an untrained model is unsure of everything
    words = ("a", "dog", "sees", "the", "ball")
    for one in task.predict(fresh, [Sentence(words, (place,)) for place in range(5)]):
        (proposition,) = one.propositions
        assert proposition.roles[proposition.predicate] == "B-V"
        assert proposition.roles.count("B-V") == 1
        for before, tag in itertools.pairwise(("O", *proposition.roles)):
            assert tag[0] != "I" or before[2:] == tag[2:]
        assert all(0 < span.probability <= 1 for span in proposition.spans)
    assert task.predict(model, []) == []


def test_the_forms_of_a_result(run):
    task, model, _, folder = run
    one = regard.load(folder)("he says a dog sees the  ball")
    assert str(one).splitlines() == [
        "[A0 he] [V says] [A1 a dog sees the  ball]",
        "he says [A0 a dog] [V sees] [A1 the  ball]",
    ]
    assert task.predict(model, [replace(one.sentence, identity=7)])[0].as_json()["id"] == 7
    entry = one.as_json()
    assert "id" not in entry
    assert entry["words"] == ["he", "says", "a", "dog", "sees", "the", "ball"]
    assert entry["predicates"] == [1, 4]
    assert entry["roles"][1] == ["O", "O", "B-A0", "I-A0", "B-V", "B-A1", "I-A1"]
    span = entry["spans"][1][2]
    assert (span["role"], span["first"], span["last"], span["text"]) == ("A1", 5, 6, "the  ball")
    assert span["probability"] > 0.5
    assert one.as_columns().splitlines()[2].split() == ["a", "-", "(A1*", "(A0*"]
    (nothing,) = task.predict(model, [Sentence(("a", "dog"), ())])
    assert str(nothing) == "a dog"


def test_what_is_printed_can_be_read_as_a_record(run, tmp_path):
    task, model, records, _ = run
    found = task.predict(model, inputs_of(task, records))
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(one.as_json()) + "\n" for one in found), encoding="utf8"
    )
    (tmp_path / "a.conll").write_text("".join(one.as_columns() + "\n" for one in found), encoding="utf8")
    for name in ("a.jsonl", "a.conll"):
        read = list(read_sentences(tmp_path / name, 1000))
        assert task.score(found, read)[0].value == pytest.approx(100)


def test_columns_without_their_words_are_what_the_scorer_of_conll_reads(run):
    task, model, records, _ = run
    found = task.predict(model, inputs_of(task, records))
    other = records[0].fields["roles"]
    other = [[tag.replace("A1", "A2") for tag in other[0]], *other[1:]]
    records = [Record({**records[0].fields, "roles": other}, "x", 1), *records[1:]]
    gold = [
        write_columns(record.fields["words"], record.fields["predicates"], record.fields["roles"])
        for record in records
    ]

    def props(sentences):
        lines = "\n".join(sentences).splitlines()
        return "\n".join(line.partition(" ")[2] for line in lines)

    scores = column_scores(props(one.as_columns() for one in found), props(gold))
    expected = task.score(found, records)[0].value
    assert 80 < expected < 100
    assert scores.f1.value == pytest.approx(expected)
    assert scores.predicate.correct == sum(len(record.fields["predicates"]) for record in records)


def test_attention_is_there_on_request(run, tmp_path):
    task, model, records, _ = run
    (plain,) = task.predict(model, inputs_of(task, records[:1]))
    (one,) = task.predict(model, inputs_of(task, records[:1]), attention=True)
    assert plain == one
    length = len(one.sentence.words)
    assert one.attention.shape == (1, 2, 2, length, length)
    np.testing.assert_allclose(one.attention.sum(-1), 1, atol=1e-5)
    page = one.picture(1).save(tmp_path / "roles.html")
    assert "B-A0" in page.read_text(encoding="utf8")
    with pytest.raises(ConfigError, match="without looking"):
        plain.picture()
    with pytest.raises(ConfigError, match="Expected: a number below 2"):
        one.picture(2)
    (none,) = task.predict(model, [Sentence(("a", "dog"), ())], attention=True)
    with pytest.raises(ConfigError, match="there is no predicate 0"):
        none.picture()


def test_streams_are_what_was_said(run):
    task, _, records, _ = run
    (pieces, starts, features, predicates, tags), *_ = task.encode(records)
    fields = records[0].fields
    assert task.tokenizer.decode(pieces) == " ".join(fields["words"])
    begun = task.tokenizer.pieces([pieces[start] for start in starts])
    assert [piece[0] for piece in begun] == ["▁"] * len(fields["words"])
    assert len(features) == 3 * len(fields["words"])
    assert predicates == fields["predicates"]
    names = ["O", "B-V", "I-V", "B-A1", "I-A1", "B-A0", "I-A0"]
    assert [names[tag] for tag in tags] == [tag for row in fields["roles"] for tag in row]


def test_the_loss_is_summed_cross_entropy_of_tags_and_marks(run):
    task, model, records, _ = run
    rows = [dict(record.fields) for record in records[:3]]
    rows[0]["roles"] = [
        ["B-A9", *rows[0]["roles"][0][1:]],
        rows[0]["roles"][1],
    ]  # a role of no training record
    batch = pack_streams(list(task.encode(Record(row, "x", 1) for row in rows)), task.streams)
    words = model(batch["pieces"], batch["starts"], batch["features"].values.view(-1, 3))
    scores = F.linear(model.rows(words, batch["predicates"]).values, model.tags.weight)
    tags = batch["tags"].values
    assert (tags < 0).sum() == 1
    expected = F.cross_entropy(scores[tags >= 0], tags[tags >= 0], label_smoothing=0.1, reduction="sum")
    marks = [int(place in row["predicates"]) for row in rows for place in range(len(row["words"]))]
    expected += F.cross_entropy(
        F.linear(words.values, model.finder.weight), torch.tensor(marks), reduction="sum"
    )
    torch.testing.assert_close(task.loss(model, batch, 0.1), expected)
    assert task.counted(batch) == len(tags) - 1 + len(marks)


def test_sentences_without_predicates_train_too(run):
    task, model, _, _ = run
    record = Record({"words": ["a", "dog"], "predicates": [], "roles": []}, "x", 1)
    batch = pack_streams(list(task.encode([record])), task.streams)
    model.zero_grad()
    loss = task.loss(model, batch, 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    model.zero_grad()


def test_roles_that_training_never_saw_are_named_and_missed(run):
    task, model, records, _ = run
    fields = {**records[0].fields, "roles": [row[:] for row in records[0].fields["roles"]]}
    fields["roles"][0] = [
        "B-A9" if tag == "B-A1" else "I-A9" if tag == "I-A1" else tag for tag in fields["roles"][0]
    ]
    record = Record(fields, "x", 1)
    f1, _, recall, _, *parts = task.score(task.predict(model, inputs_of(task, [record])), [record], each=True)
    assert f1.signature.endswith("; unseen A9")
    assert recall.value == pytest.approx(75)
    assert {part.name: part.value for part in parts} == {"A0": 100, "A1": pytest.approx(200 / 3), "A9": 0}


def test_predicates_that_were_left_out_are_missed(run):
    task, model, records, _ = run
    inputs = [Sentence(one.words, one.predicates[:1]) for one in inputs_of(task, records)]
    _, precision, recall, _ = task.score(task.predict(model, inputs), records)
    assert precision.value > 95
    assert 45 < recall.value < 55


@pytest.mark.parametrize(("examples", "dropout"), [(1, 0.3), (10_000, 0.2), (200_000, 0.1)])
def test_sizes_make_a_model_with_one_block_a_predicate(run, examples, dropout):
    task, _, _, _ = run
    model = task.model(Recipe(**task.sizes(examples)))
    assert len(model.blocks) == 1
    assert model.dropout.p == dropout
    assert model.encoder.dim == task.sizes(examples)["dim"]


def test_damaged_labels_are_told(run, tmp_path):
    task, _, _, _ = run
    task.save(tmp_path)
    for text in ("", "{}", '{"roles": 7}', '{"roles": ["V", "A0"], "words": [7]}'):
        (tmp_path / "labels.json").write_text(text, encoding="utf8")
        with pytest.raises(CheckpointError, match="the roles cannot be read"):
            Roles().load(tmp_path)


def test_inputs_that_cannot_be_labelled_are_refused():
    for given in ("", " ", (), {"words": ["a"], "predicate": 1}, {"words": ["a", ""]}, 7):
        with pytest.raises(DataError, match="the given texts, line 3"):
            Roles().record(given, ("the given texts", 3), 100)


def test_the_sample_is_whole_small_and_held_out():
    paths = sample_path("roles")
    rows = {split: [record.fields for record in read_sentences(path, 1000)] for split, path in paths.items()}
    counts = {split: (len(part), sum(len(row["predicates"]) for row in part)) for split, part in rows.items()}
    assert counts == {"train": (4866, 11140), "dev": (482, 1059), "test": (490, 1036)}
    assert max(len(row["words"]) for part in rows.values() for row in part) == 16
    train = {tuple(row["words"]) for row in rows["train"]}
    assert train.isdisjoint(tuple(row["words"]) for split in ("dev", "test") for row in rows[split])
    folder = paths["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000
    assert "CC BY-SA 4.0" in (folder / "NOTICE.md").read_text(encoding="utf8")


@pytest.mark.parametrize(
    "switch",
    [{"bpe_dropout": 0.2, "variants": 2}, {"r_drop": 1.0, "dropout": 0.1}, {"pretrain": 0.5}],
    ids=str,
)
def test_the_switches_for_little_data_serve_roles(run, tmp_path, switch):
    folder = run[-1].parent
    more = tmp_path / "more.txt"
    more.write_text("The bird sees a tree.\nHe says so.\n", encoding="utf8")
    switch = switch | ({"unlabelled": str(more)} if "pretrain" in switch else {})
    recipe = RECIPE.replace(steps=6, evaluations=1, **switch)
    trainer = runs.begin(
        Roles(),
        recipe,
        folder / "train.jsonl",
        folder / "dev.jsonl",
        tmp_path / "run",
        Reporter(None, Silence()),
    )
    position = trainer.run()
    assert position.evaluated == 1
    if "pretrain" in switch:
        assert len(trainer.texts) == len(trainer.store) + 2


def test_predicates_are_counted_in_training(run):
    task, _, records, folder = run
    seen = [row["words"][place] for row in ROWS if row["id"] % 4 for place in row["predicates"]]
    loaded = Roles()
    loaded.load(folder)
    for record in records[:4]:
        expected = [seen.count(record.fields["words"][place]) for place in record.fields["predicates"]]
        assert min(expected) > 0
        for one in (task, loaded):
            assert one.groups["frequency"].value(record) == expected
    unknown = Record({"words": ["Dogs", "BARK"], "predicates": [1], "roles": [["O", "O"]]}, "x", 1)
    assert loaded.groups["frequency"].value(unknown) == [0]
    with pytest.raises(ConfigError, match="Expected: a run"):
        Roles().groups["frequency"].value(unknown)


def bare(predicates, roles):
    return {"words": ["It", "rains", "."], "predicates": predicates, "roles": roles}


DRY = [{"words": [word, "rains", "."], "predicates": [], "roles": []} for word in ("It", "That")]


@pytest.mark.parametrize(
    ("train", "dev", "parts"),
    [
        (
            [bare([], [])] * 40,
            ROWS[:4],
            ["train.jsonl: the training data has no roles", "40 sentences without"],
        ),
        ([bare([1], [["O", "B-V", "O"]])] * 40, ROWS[:4], ["train.jsonl: the training data has no roles"]),
        (ROWS[:40], [bare([], [])] * 3, ["dev.jsonl: no sentence of the dev data", "none in 3 sentences"]),
        (ROWS[:40], [bare([], []), *ROWS[:4]], ["none in 1 sentences", "--dev-examples"]),
        (DRY * 20, None, ["train.jsonl: no sentence of the dev data", "none in 20 sentences"]),
    ],
)
def test_data_of_which_nothing_can_be_learned_or_scored_is_refused_at_the_door(tmp_path, train, dev, parts):
    for name, rows in (("train", train), ("dev", dev or [])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf8")
    given = None if dev is None else tmp_path / "dev.jsonl"
    recipe = RECIPE.replace(dev_examples=1 if dev and len(dev) > 4 else 1000)
    with pytest.raises(DataError) as caught:
        runs.begin(
            Roles(), recipe, tmp_path / "train.jsonl", given, tmp_path / "run", Reporter(None, Silence())
        )
    assert all(part in str(caught.value) for part in parts)
    assert not (tmp_path / "run").exists()


def test_text_without_spaces_is_cut_into_the_words_of_training(tmp_path):
    chinese = {
        "words": ["小狗", "在", "公园", "追", "猫"],
        "predicates": [3],
        "roles": [["B-A0", "B-AM", "I-AM", "B-V", "B-A1"]],
    }
    japanese = {
        "words": ["人々", "が", "コーヒー", "を", "飲む"],
        "predicates": [4],
        "roles": [["B-A0", "I-A0", "B-A1", "I-A1", "B-V"]],
    }
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in (chinese, japanese)), encoding="utf8")
    recipe = RECIPE.replace(steps=2, evaluations=1)
    folder = tmp_path / "run"
    runs.begin(Roles(), recipe, data, data, folder, Reporter(None, Silence())).run()
    labeller = regard.load(folder)
    # 老 and 喝 are of no training word.
    assert labeller("老猫在公园追小狗。").sentence.words == ("老", "猫", "在", "公园", "追", "小狗", "。")
    plain = tmp_path / "plain.txt"
    plain.write_text("人々が 喝コーヒー\n", encoding="utf8")
    (record,) = labeller.task.read(plain, 100, answers=False)
    assert record.fields["words"] == ["人々", "が", "喝", "コーヒー"]
    (one,) = labeller([tuple("小狗追猫")])
    assert one.sentence.words == tuple("小狗追猫")  # words that are given stand


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_roles_begin_with_a_pretrained_encoder(run, tmp_path, kind):
    """The run is loaded without the folder that it came from."""
    data = run[-1].parent
    pretrained = folders.write_folder(tmp_path / "encoder", folders.CONFIGS[kind])
    precision = {"bert": "fp32", "roberta": "bf16"}[kind]
    recipe = Recipe(steps=2, evaluations=1, tokens=300, precision=precision, init=str(pretrained))
    trainer = runs.begin(
        Roles(), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run", Reporter(None, Silence())
    )
    assert [one.attention.heads for one in trainer.model.meeting_places[0]] == [3]  # half of its layers
    assert trainer.recipe.decoder_layers == 1
    trainer.run()
    shutil.rmtree(pretrained)
    labeller = regard.load(tmp_path / "run")
    one = labeller("a dog ran .")
    assert one.sentence.words == ("a", "dog", "ran", ".")
    assert str(labeller(["a dog ran .", "who ran ?"])[0]) == str(one)
    looked = labeller({"words": ["a", "dog", "ran", "."], "predicates": [0, 2]}, attention=True).attention
    assert looked.shape[1:] == (3, 2, 4, 4)
    np.testing.assert_allclose(looked.sum(-1), 1, atol=1e-5)


def test_what_a_pretrained_encoders_layers_decide_is_refused(run, tmp_path):
    data = run[-1].parent
    pretrained = folders.write_folder(tmp_path / "encoder", folders.CONFIGS["bert"])
    for name, value in {"heads": 2, "hidden": 8, "dropout": 0.1, "decoder_layers": 2}.items():
        recipe = Recipe(steps=2, init=str(pretrained), **{name: value})
        with pytest.raises(ConfigError, match=f"leave --{name.replace('_', '-')} out"):
            runs.begin(
                Roles(), recipe, data / "train.jsonl", None, tmp_path / "run", Reporter(None, Silence())
            )
    assert not (tmp_path / "run").exists()


def test_the_control_has_no_attention(run):
    """Words below, rows of predicates above: each predicate's rows depend on its own sentence alone."""
    task = run[0]
    torch.manual_seed(0)
    model = task.model(RECIPE.replace(encoder="recurrent"))
    assert not [one for one in model.modules() if isinstance(one, SelfAttention | CrossAttention)]
    examples = list(task.encode(run[2][:3]))
    together = task._words(model, pack_streams(examples, task.streams))
    rows = model.rows(together, pack_streams(examples, task.streams)["predicates"])
    alone = pack_streams(examples[1:2], task.streams)
    first = sum(len(one[3]) * len(one[1]) for one in examples[:1])
    found = model.rows(task._words(model, alone), alone["predicates"]).values
    torch.testing.assert_close(rows.values[first : first + len(found)], found)
