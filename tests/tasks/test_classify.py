from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import pretrained_folders as folders
import regard
from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.packing import pack_streams
from regard.data.records import Record
from regard.nn import consistent, twice, watch
from regard.tasks import make_task
from regard.tasks._classification import Classification
from regard.tasks.classify import Classify
from regard.training import checkpoints, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "dropout": 0.0, "precision": "fp32"}
RECIPE = Recipe(
    **SIZES, steps=60, vocabulary=300, tokens=200, average=0.1, evaluations=2, matrix_learning_rate=0.05,
    learning_rate=0.02, text="sentence", label="kind", threads=1,
)  # fmt: skip
ANIMALS, PLANTS = ("dog", "cat", "bird", "horse"), ("tree", "rose", "grass", "oak")
WORDS = ("the", "old", "red", "quiet", "big", "one")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def sentences(count, seed):
    """Sentences with an animal, a plant, both or none, and what there is."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words, kinds = list(rng.choice(WORDS, rng.integers(2, 6))), []
        for kind, names in (("animal", ANIMALS), ("plant", PLANTS)):
            if rng.random() < 0.5:
                words.insert(rng.integers(len(words) + 1), rng.choice(names))
                kinds.append(kind)
        rows.append((" ".join(map(str, words)), kinds))
    return rows


def begin(task, recipe, train, dev, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        trainer = runs.begin(task, recipe, train, dev, folder, Reporter(folder / "metrics.jsonl", Silence()))
        trainer.run()
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run that tells which of four forms a sentence has."""
    folder = tmp_path_factory.mktemp("one")
    rows = [{"sentence": text, "kind": "+".join(kinds) or "none"} for text, kinds in sentences(300, 0)]
    data = [
        write(folder / f"{name}.jsonl", part) for name, part in (("train", rows[:260]), ("dev", rows[260:]))
    ]
    return begin(Classify(), RECIPE, *data, folder / "run")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A run that tells all that a sentence holds."""
    folder = tmp_path_factory.mktemp("many")
    rows = [{"sentence": text, "kind": kinds} for text, kinds in sentences(300, 1)]
    data = [
        write(folder / f"{name}.jsonl", part) for name, part in (("train", rows[:260]), ("dev", rows[260:]))
    ]
    return begin(Classify(), RECIPE, *data, folder / "run")


def stripes(count, seed):
    """Pictures of two sizes, striped in a direction, and the direction."""
    rng = np.random.default_rng(seed)
    pictures, labels = [], []
    for number in range(count):
        wide = (np.arange(16) // 2 % 2 * 150)[None, :, None] + rng.integers(0, 60, (12, 16, 3))
        high = (np.arange(12) // 2 % 2 * 150)[:, None, None] + rng.integers(0, 60, (12, 16, 3))
        pictures.append((wide if number % 2 else high).astype(np.uint8))
        labels.append("upright" if number % 2 else "lying")
    return np.stack(pictures), labels


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A run that tells the direction of stripes, from rows of an array and from files."""
    folder = tmp_path_factory.mktemp("seen")
    pictures, labels = stripes(60, 0)
    np.savez_compressed(folder / "train.npz", images=pictures)
    rows = [{"image": number, "label": label} for number, label in enumerate(labels[:50])]
    for number in range(50, 60):
        Image.fromarray(pictures[number, :8]).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": labels[number]})
    path = write(folder / "train.jsonl", rows)
    recipe = Recipe(**SIZES, steps=30, tokens=400, evaluations=2, patch=4, warp=0.3, threads=1)
    return begin(Classify(), recipe, path, None, folder / "run")


def test_kinds_of_sentences_are_learnt(one):
    predictor = regard.load(one)
    test = sentences(200, 5)
    found = predictor([text for text, _ in test])
    right = [
        result.label == ("+".join(kinds) or "none") for result, (_, kinds) in zip(found, test, strict=True)
    ]
    assert np.mean(right) > 0.9  # one in four by chance
    assert all(abs(sum(result.probabilities.values()) - 1) < 1e-6 for result in found)
    assert all(result.probability == max(result.probabilities.values()) for result in found)


def test_records_are_taken_as_files_hold_them(one, seen):
    predictor, text = regard.load(one), sentences(1, 5)[0][0]
    found = predictor({"sentence": text, "id": 7, "kind": "none"})
    assert (found.id, found.probabilities) == (7, predictor(text).probabilities)
    with pytest.raises(DataError, match=r"line 2: the field 'sentence' is missing\. .* Received: 'text'"):
        predictor([text, {"text": text}])
    pixels = stripes(1, 9)[0][0]
    predictor = regard.load(seen)
    found = predictor({"image": pixels, "id": "a"})
    assert (found.id, found.probabilities) == ("a", predictor.predict(pixels).probabilities)
    with pytest.raises(DataError, match="texts and pictures are mixed"):
        predictor({"text": text})


def test_results_are_equal_by_what_they_say_and_can_be_counted(one, seen, tmp_path):
    Image.fromarray(stripes(1, 9)[0][0]).save(tmp_path / "a.png")
    for folder, given in ((one, "the old dog"), (seen, str(tmp_path / "a.png"))):
        first, second = regard.load(folder)(given), regard.load(folder)(given)
        assert first == second
        assert len({first, second}) == 1
        assert first != replace(second, probabilities={})


def test_integer_labels_come_back_as_strings(tmp_path):
    rows = [{"text": text, "label": len(kinds)} for text, kinds in sentences(40, 0)]
    recipe = Recipe(**SIZES, steps=1, vocabulary=300, tokens=200, evaluations=1)
    run = begin(Classify(), recipe, write(tmp_path / "train.jsonl", rows), None, tmp_path / "run")
    found = regard.load(run)("the old dog")
    assert list(found.probabilities) == ["0", "1", "2"]
    assert found.label in found.probabilities


def test_several_labels_are_learnt(many):
    predictor = regard.load(many)
    test = sentences(200, 6)
    found = predictor([text for text, _ in test])
    right = [set(result.labels) == set(kinds) for result, (_, kinds) in zip(found, test, strict=True)]
    assert np.mean(right) > 0.9
    none = next(result for result in found if not result.labels)
    assert (none.label, none.probability, str(none)) == (None, None, "-")
    both = next(result for result in found if len(result.labels) == 2)
    assert str(both).count("\t") == 2
    assert both.as_json()["labels"] == list(both.labels)
    records = [Record({"sentence": text, "kind": kinds}, "test", 1) for text, kinds in test]
    accuracy, macro, error = predictor.task.score(found, records)
    assert accuracy.value == pytest.approx(100 * np.mean(right))
    assert macro.value > 90
    assert 0 <= error.value < 30


def test_pictures_are_learnt_from_every_source(seen, tmp_path):
    predictor = regard.load(seen)
    pictures, labels = stripes(20, 9)
    found = predictor([*pictures])
    assert [result.label for result in found] == labels
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    for given in (str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(pictures[0])):
        assert predictor(given).probabilities == pytest.approx(found[0].probabilities, abs=1e-5)
    assert predictor(str(tmp_path / "a.png")).as_json()["image"] == str(tmp_path / "a.png")
    with pytest.raises(DataError, match="the given texts, line 1: there is no picture"):
        predictor(str(tmp_path / "b.png"))
    with pytest.raises(DataError, match="line 2: this array is no picture"):
        predictor([pictures[0], np.zeros((3, 3))])


def test_a_result_does_not_depend_on_its_neighbours(one, seen, monkeypatch):
    for folder, inputs in ((one, [text for text, _ in sentences(30, 7)]), (seen, list(stripes(8, 3)[0]))):
        predictor = regard.load(folder)
        together = predictor(inputs)
        monkeypatch.setattr("regard.tasks.classify.TOGETHER", 16)
        for result, given in zip(predictor(inputs), inputs, strict=True):
            alone = predictor(given)
            assert alone.probabilities == pytest.approx(result.probabilities, abs=1e-5)
        for first, second in zip(together, predictor(inputs), strict=True):
            assert first.probabilities == pytest.approx(second.probabilities, abs=1e-5)
        assert predictor([]) == []


def test_scores_are_those_of_plain_counting(one):
    predictor = regard.load(one)
    test = sentences(60, 8)
    found = predictor([text for text, _ in test])
    expected = ["+".join(kinds) or "none" for _, kinds in test]
    records = [
        Record({"sentence": text, "kind": kind}, "test", 1)
        for (text, _), kind in zip(test, expected, strict=True)
    ]
    accuracy, macro, error = predictor.task.score(found, records)
    assert [accuracy.name, macro.name, error.name] == ["accuracy", "macro-f1", "calibration-error"]
    assert accuracy.value == pytest.approx(
        100 * np.mean([r.label == e for r, e in zip(found, expected, strict=True)])
    )
    sure = np.array([result.probability for result in found])
    right = np.array([result.label == e for result, e in zip(found, expected, strict=True)])
    bins = np.ceil(sure * 15).astype(int)
    gaps = [abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).sum() for b in set(bins)]
    assert error.value == pytest.approx(100 * sum(gaps) / len(sure))
    with pytest.raises(DataError, match="test, line 1: the label 'rock' was never seen in training"):
        predictor.task.score(found[:1], [Record({"sentence": "a", "kind": "rock"}, "test", 1)])


def guessed(*labels, several=False):
    return Classification("", labels, dict.fromkeys("abc", 1 / 3), several)


def test_every_class_is_scored_if_asked_for():
    task = Classify()
    records = [Record({"text": "", "label": label}, "test", 1) for label in "aaabbc"]
    found = [guessed(label) for label in "aabbab"]
    scores = {score.name: score for score in task.score(found, records, each=True)[3:]}
    assert {name: round(score.value, 1) for name, score in scores.items()} == {
        "f1 a": 66.7,
        "f1 b": 40.0,
        "f1 c": 0.0,
    }
    assert [score.signature for score in scores.values()] == [
        "precision:66.7|recall:66.7|support:3|taken-for:b 1",
        "precision:33.3|recall:50.0|support:2|taken-for:a 1",
        "precision:0.0|recall:0.0|support:1|taken-for:b 1",
    ]
    assert len(task.score(found, records)) == 3


def test_of_several_labels_every_one_is_scored_and_all_together():
    task = Classify()
    records = [Record({"text": "", "labels": list(labels)}, "test", 1) for labels in ("ab", "", "b")]
    found = [guessed(*labels, several=True) for labels in ("a", "a", "b")]
    error, micro, a, b = task.score(found, records, each=True)[2:]
    # Three of nine labels are there, each of which has a probability of a third.
    assert (error.value, error.signature) == (pytest.approx(0), "bins:15|decisions:label")
    assert (micro.name, micro.value) == ("micro-f1", pytest.approx(100 * 4 / 6))
    assert (a.name, a.signature) == ("f1 a", "precision:50.0|recall:100.0|support:1")
    assert (b.name, b.signature) == ("f1 b", "precision:100.0|recall:50.0|support:2")


def test_the_temperatures_are_fitted_and_kept(one, many):
    for folder in (one, many):
        predictor = regard.load(folder)
        tensors = checkpoints.read_tensors(folder / "model.safetensors")
        assert (tensors["temperatures"] != 1.0).all()
        assert predictor.model.temperatures.tolist() == tensors["temperatures"].tolist()
    assert 0 < float(tensors["threshold"]) < 1


def small_task(recipe, rows):
    task = Classify()
    task.configure(recipe)
    records = [task.reader.check(Record(dict(row), "test", line), 100) for line, row in enumerate(rows, 1)]
    task.learn(records, recipe)
    return task, records


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("several", [False, True])
def test_the_loss_is_the_formula(several, smoothing):
    torch.manual_seed(0)
    labels = [["x"], ["y", "z"], []] if several else ["x", "z", "y"]
    rows = [{"text": text, "label": label} for text, label in zip(("a", "b c", "d e f"), labels, strict=True)]
    task, records = small_task(Recipe(**SIZES, steps=1, vocabulary=300), rows)
    model = task.model(Recipe(**SIZES)).eval()
    torch.nn.init.normal_(model.head)
    batch = pack_streams(list(task.encode(records)), task.streams)
    scores = model(batch["text"])
    assert scores.shape == (3, 3)
    expected = 0.0
    for row, label in zip(scores, labels, strict=True):
        if several:
            for score, name in zip(row, task.labels, strict=True):
                target = (name in label) * (1 - smoothing) + smoothing / 2
                expected -= target * F.logsigmoid(score) + (1 - target) * F.logsigmoid(-score)
        else:
            chances = torch.log_softmax(row, -1)
            expected -= (1 - smoothing) * chances[task.labels.index(label)] + smoothing * chances.mean()
    torch.testing.assert_close(task.loss(model, batch, smoothing), expected)
    assert task.counted(batch) == 3


def test_the_model_is_its_parts():
    torch.manual_seed(0)
    rows = [{"text": "a b c", "label": "x"}, {"text": "d", "label": "y"}]
    task, records = small_task(Recipe(**SIZES, steps=1, vocabulary=300), rows)
    model = task.model(Recipe(**SIZES)).eval()
    torch.nn.init.normal_(model.head)
    batch = pack_streams(list(task.encode(records)), task.streams)
    pooled = model.pool(model.encoder(batch["text"]))[0]
    expected = model.head @ (pooled / (pooled.square().mean() + 1e-6).sqrt()) + model.bias
    torch.testing.assert_close(model(batch["text"])[0], expected)


def test_what_counted_is_shown_by_words(one, tmp_path):
    predictor = regard.load(one)
    text = "the old horse, quiet"
    result = predictor(text, attention=True)
    assert result.attention.words == ("the", "old", "horse", ",", "quiet")
    assert result.attention.weights.shape == (2, 5)
    np.testing.assert_allclose(result.attention.weights.sum(-1), 1, rtol=1e-5)
    with watch(predictor.model.pool) as rows:
        predictor.model(pack_streams([(predictor.task.tokenizer.encode(text),)], ("text",))["text"])
    np.testing.assert_allclose(result.attention.weights.sum(1), rows[0][0].sum(-1), rtol=1e-5)
    page = result.picture().save(tmp_path / "a.html").read_text(encoding="utf8")
    assert "horse" in page
    assert result == predictor(text)
    with pytest.raises(ConfigError, match="attention=True"):
        predictor(text).picture()


def test_what_counted_is_shown_over_the_picture(seen, tmp_path):
    predictor = regard.load(seen)
    result = predictor(stripes(1, 0)[0][0], attention=True)
    assert result.attention.weights.shape == (2, 3, 4)
    np.testing.assert_allclose(result.attention.weights.sum((1, 2)), 1, rtol=1e-5)
    assert "data:image/png" in result.picture().save(tmp_path / "a.svg").read_text(encoding="utf8")


def test_encoding_has_numbers_of_labels_and_what_is_read(one, seen):
    for folder in (one, seen):
        task = regard.load(folder).task
        config = runs.read_config(folder)
        records = list(task.read(config["data"]["train"], 100))
        encoded = list(task.encode(records))
        assert [task.labels[numbers[0]] for numbers, *_ in encoded] == [
            task.reader.labels(one)[0] for one in records
        ]
        if task.streams[-1] == "text":
            assert all(
                task.tokenizer.decode(ids) == one.fields["sentence"]
                for (_, ids), one in zip(encoded, records, strict=True)
            )
        else:
            assert all(len(patches) == size[0] * size[1] for _, size, patches in encoded)
            assert {tuple(size) for _, size, _ in encoded} == {(3, 4), (2, 4)}


def test_a_dev_label_that_training_lacks_ends_the_run_before_anything_is_lost(one, tmp_path):
    train = write(tmp_path / "train.jsonl", [{"text": f"text {n}", "label": "xz"[n % 2]} for n in range(4)])
    dev = write(tmp_path / "dev.jsonl", [{"text": "text", "label": "y"}])
    before = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    recipe = RECIPE.replace(text=None, label=None)
    with pytest.raises(DataError, match=r"dev\.jsonl, line 1: the label 'y' was never seen in training"):
        runs.begin(Classify(), recipe, train, dev, one, Reporter(None, Silence()), overwrite=True)
    assert {path: path.read_bytes() for path in one.rglob("*") if path.is_file()} == before


def test_a_run_of_held_out_pictures_is_resumed_exactly(seen, tmp_path):
    config = runs.read_config(seen)
    recipe = runs.recipe_of(config, seen).replace(
        steps=8, save_steps=4, evaluations=2, dropout=0.2, flip=True
    )
    whole = begin(Classify(), recipe, config["data"]["train"], None, tmp_path / "whole")
    trainer = runs.begin(
        Classify(), recipe, config["data"]["train"], None, tmp_path / "parts", Reporter(None, Silence())
    )
    for _ in range(4):
        trainer.update(trainer.progress())
    trainer.position.evaluated = 1
    trainer.evaluate()
    trainer.save()
    runs.resume(make_task("classify"), tmp_path / "parts", Reporter(None, Silence())).run()
    first, second = (checkpoints.load_state(tmp_path / name)[0] for name in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert whole == tmp_path / "whole"
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sizes_fit_what_there_is():
    task = Classify()
    task.configure(Recipe(text="t"))
    task.reader.input = "text"
    assert "vocabulary" in task.sizes(1000)
    task.reader.input = "image"
    for side, patch in ((8, 2), (32, 4), (64, 8), (1000, 8)):
        task.reader.sides = [side]
        sizes = task.sizes(1000)
        assert sizes["patch"] == patch
        assert sizes["dim"] / sizes["heads"] % 4 == 0
        assert "vocabulary" not in sizes
    assert [task.sizes(examples)["warp"] for examples in (4_999, 5_000)] == [1.0, 0.0]


def test_the_control_classifies_texts(one, tmp_path):
    """Its encoder has no attention; the query that pools its states is the same for both."""
    data = one.parent
    recipe = RECIPE.replace(steps=4, evaluations=1, encoder="recurrent")
    predictor = regard.load(
        begin(Classify(), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run")
    )
    layers = predictor.model.encoder.encoder
    assert isinstance(layers, regard.nn.RecurrentEncoder)
    assert not [each for each in layers.modules() if isinstance(each, regard.nn.SelfAttention)]
    texts = [text for text, _ in sentences(5, 2)]
    found = predictor(texts)
    for text, each in zip(texts, found, strict=True):
        assert sum(each.probabilities.values()) == pytest.approx(1)
        assert predictor(text).probabilities == pytest.approx(each.probabilities, abs=1e-5)


def test_texts_are_cut_by_their_rarest_word(one, seen):
    words = [word for text, _ in sentences(300, 0)[:260] for word in text.split()]
    loaded = regard.load(one).task
    record = Record({"sentence": "The old DOG.", "kind": "animal"}, "x", 1)
    assert loaded.groups["frequency"].value(record) == min(
        words.count(word) for word in ("the", "old", "dog")
    )
    assert loaded.groups["frequency"].value(Record({"sentence": "old fox", "kind": "x"}, "x", 1)) == 0
    assert list(regard.load(seen).task.groups) == ["length"]
    assert not (seen / "words.json").exists()
    with pytest.raises(ConfigError, match="Expected: a run"):
        Classify().groups["frequency"].value(Record({"text": "old"}, "x", 1))


def test_texts_and_pictures_obey_other_options(one, seen, tmp_path):
    """What there is to read decides; nothing is known of it before."""
    texts, pictures = one.parent / "train.jsonl", seen.parent / "train.jsonl"
    for data, options, named in (
        (texts, {"flip": True, "text": "sentence", "label": "kind"}, "flip = True"),
        (pictures, {"encoder": "recurrent"}, "encoder = recurrent"),
        (pictures, {"lowercase": True}, "lowercase = True"),
    ):
        with pytest.raises(ConfigError, match=rf"'classify' knows no such option.*Received: {named}"):
            runs.prepare(Classify(), Recipe(steps=1, **options), data, None)


def test_a_missing_or_damaged_file_of_labels_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"classes\.json is missing or damaged"):
        Classify().load(tmp_path)
    (tmp_path / "classes.json").write_text('{"labels": 5}', encoding="utf8")
    with pytest.raises(CheckpointError, match="train again"):
        Classify().load(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_classes_begin_with_a_pretrained_encoder(one, tmp_path, kind):
    """The run is loaded without the folder that it came from, and reads texts of any length."""
    data = one.parent
    pretrained = folders.write_folder(tmp_path / "encoder", folders.CONFIGS[kind])
    recipe = Recipe(
        steps=2, evaluations=1, tokens=300, precision="fp32", text="sentence", label="kind", init=str(pretrained)
    )  # fmt: skip
    begin(Classify(), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run")
    shutil.rmtree(pretrained)
    classifier = regard.load(tmp_path / "run")
    texts = ["a dog ran .", "who ran ? " * 20]
    found = classifier(texts)
    assert found[1].probabilities == pytest.approx(classifier(texts[1]).probabilities, abs=1e-5)
    seen = classifier("a dogs", attention=True).attention
    assert seen.words == ("a", "dogs")


def test_what_begins_with_a_pretrained_encoder_learns(one, tmp_path):
    """The encoder too: its weights here are small and random, and what is above it sees words through them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *ANIMALS, *PLANTS]
    sizes = {"hidden_size": 24, "vocab_size": len(words), "num_hidden_layers": 1, "intermediate_size": 32}
    config = folders.CONFIGS["bert"] | sizes
    tensors = {
        name: 1 + 0 * values if name.endswith("LayerNorm.weight") else 0.1 * values
        for name, values in folders.random_tensors(config).items()
    }
    pretrained = folders.write_folder(tmp_path / "encoder", config, tensors)
    (pretrained / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf8")
    recipe = Recipe(
        steps=100, evaluations=1, tokens=300, precision="fp32", text="sentence", label="kind", init=str(pretrained),
        init_learning_rate=3e-3, learning_rate=0.02, matrix_learning_rate=0.05, average=0.1, dropout=0.0, threads=1,
    )  # fmt: skip
    data = one.parent
    run = begin(Classify(), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run")
    predictor, test = regard.load(run), sentences(100, 5)
    found = predictor([text for text, _ in test])
    right = [
        result.label == ("+".join(kinds) or "none") for result, (_, kinds) in zip(found, test, strict=True)
    ]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("switch", [{"bpe_dropout": 0.2, "variants": 2}, {"pretrain": 0.5}], ids=str)
def test_the_switches_for_little_data_serve_classes(one, tmp_path, switch):
    data = one.parent
    recipe = RECIPE.replace(steps=4, evaluations=1, **switch)
    begin(Classify(), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run")
    regard.load(tmp_path / "run")("the old dog")


@pytest.mark.parametrize("kind", ["one", "many"])
def test_two_passes_are_asked_to_agree_on_labels(request, kind):
    predictor = regard.load(request.getfixturevalue(kind))
    task, model = predictor.task, predictor.model
    records = list(task.read(predictor.folder.parent / "dev.jsonl", 1000))[:9]
    batch = pack_streams(list(task.encode(records)), task.streams)
    batch = {name: twice(stream) for name, stream in batch.items()}
    model.train()
    model.dropout.p = 0.3
    losses = []
    for coefficient in (None, 2.0):
        torch.manual_seed(1)
        if coefficient is None:
            losses.append(task.loss(model, batch, 0.1))
        else:
            with consistent(coefficient):
                losses.append(task.loss(model, batch, 0.1))
    torch.manual_seed(1)
    apart = 0.0
    for opinion in model.opinions(batch["text"]):
        p, q = opinion.chunk(2)
        if kind == "one":
            p, q = p.softmax(1), q.softmax(1)
        else:
            p, q = (torch.stack([one.sigmoid(), 1 - one.sigmoid()]) for one in (p, q))
        apart = apart + ((p - q) * (p / q).log()).sum()
    assert apart > 0
    torch.testing.assert_close(losses[1], losses[0] / 2 + 2.0 / 4 * apart, rtol=1e-4, atol=1e-5)


def test_a_damaged_picture_of_the_training_data_takes_no_run_away(tmp_path):
    """Its header is sound, so that it is met only when pixels are read; the folder of a run stays what it was."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    rows = []
    for number in range(6):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": "ab"[number % 2]})
    data = write(tmp_path / "data.jsonl", rows)
    cut = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(cut[: len(cut) // 2])
    good = write(tmp_path / "good.jsonl", rows[:2])
    recipe = Recipe(**SIZES, steps=1, evaluations=1, tokens=200, patch=8)
    with pytest.raises(DataError, match=r"data\.jsonl, line 4"):
        begin(Classify(), recipe, data, good, tmp_path / "new" / "run")
    assert not (tmp_path / "new" / "run").exists()
    run = begin(Classify(), recipe, good, good, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"data\.jsonl, line 4"):
        runs.begin(Classify(), recipe, data, good, run, Reporter(None, Silence()), overwrite=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not list(run.rglob(".regard-begin-*"))


def test_in_training_attention_and_the_bag_of_ngrams_are_judged_one_by_one():
    torch.manual_seed(0)
    rows = [{"text": "a b", "label": "x"}, {"text": "b c d", "label": "y"}]
    task, records = small_task(Recipe(**SIZES, steps=1, vocabulary=300), rows)
    model = task.model(Recipe(**SIZES))
    torch.nn.init.normal_(model.head)
    torch.nn.init.normal_(model.ngrams.table)
    batch = pack_streams(list(task.encode(records)), task.streams)
    opinions, labels = model.opinions(batch["text"]), batch["labels"].values
    assert len(opinions) == 2
    torch.testing.assert_close(model(batch["text"]), opinions[0] + opinions[1])
    one_by_one = sum(F.cross_entropy(one, labels, reduction="sum") for one in opinions)
    together = F.cross_entropy(sum(opinions), labels, reduction="sum")
    torch.testing.assert_close(task.loss(model.train(), batch, 0.0), one_by_one)
    torch.testing.assert_close(task.loss(model.eval(), batch, 0.0), together)
    assert (one_by_one - together).abs() > 0.01
