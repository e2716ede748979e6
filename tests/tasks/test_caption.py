from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import regard
from regard._errors import CheckpointError, ConfigError, DataError
from regard._lowering import kernel
from regard.data.packing import pack_streams
from regard.data.records import Record
from regard.tasks import make_task
from regard.tasks._caption import STREAMS, Caption, sizes_of, teacher_forced
from regard.tasks.caption import CaptionPictures
from regard.training import runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220), "grey": (120, 120, 120)}
GERMAN = {"red": "rot", "green": "grün", "blue": "blau", "grey": "grau", "bars": "Balken", "rows": "Reihen"}
RECIPE = Recipe(
    steps=150, vocabulary=300, tokens=500, evaluations=1, matrix_learning_rate=0.05, learning_rate=0.02, warp=0.3,
    dim=32, heads=2, hidden=32, encoder_layers=1, decoder_layers=1, dropout=0.0, patch=4, precision="fp32", threads=1,
    languages="en,de",
)  # fmt: skip


def draw(colour, form, rng):
    """Stripes of a colour, upright or lying, on white with noise."""
    wide, high = 8 + 4 * rng.integers(2), 8 + 4 * rng.integers(2)
    stripe = (np.arange(wide) + rng.integers(4)) // 2 % 2 == 0
    grid = (
        np.tile(stripe, (high, 1))
        if form == "bars"
        else np.tile((np.arange(high) // 2 % 2 == 0), (wide, 1)).T
    )
    pixels = np.where(grid[..., None], COLOURS[colour], 255) + rng.integers(-20, 20, (high, wide, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def examples(folder, name, count, seed, kinds):
    """Pictures as files with captions in two languages; what `kinds` names, in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        colour, form = kinds[number % len(kinds)]
        Image.fromarray(draw(colour, form, rng)).save(folder / f"{name}{number}.png")
        captions = [f"{colour}: {form}", f"{form} of {colour}"][: 1 + number % 2]
        german = {"captions_de": [f"{GERMAN[form]}, {GERMAN[colour]}"]} if number % 3 else {}
        kind = "held out" if (colour, form) == ("red", "rows") else "seen"
        rows.append({"image": f"{name}{number}.png", "captions": captions, **german, "kind": kind})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


KINDS = [
    (colour, form) for colour in COLOURS for form in ("bars", "rows") if (colour, form) != ("red", "rows")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caption")
    examples(folder, "train", 84, 0, KINDS)
    examples(folder, "dev", 14, 1, KINDS)
    examples(folder, "test", 40, 2, [*KINDS, ("red", "rows")])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        reporter = Reporter(folder / "metrics.jsonl", Silence())
        given = CaptionPictures(), RECIPE, folder / "train.jsonl", folder / "dev.jsonl", folder / "run"
        runs.begin(*given, reporter).run()
    return folder / "run"


@pytest.fixture(scope="module")
def predictor(run):
    return regard.load(run)


@pytest.fixture(scope="module")
def records(predictor, folder):
    return list(predictor.task.read(folder / "test.jsonl", 1000))


def test_what_is_on_pictures_is_learnt_in_two_languages(predictor, records):
    inputs = [predictor.task.input_of(record) for record in records]
    english = predictor.predict(inputs)
    named = [all(word in one.text for word in record.fields["captions"][0].split(": "))
             for one, record in zip(english, records, strict=True)]  # fmt: skip
    assert np.mean(named) > 0.8  # one in eight by chance
    assert {one.language for one in english} == {"en"}
    german = predictor.predict(inputs, language="de")
    right = [one.text in record.fields["captions_de"]
             for one, record in zip(german, records, strict=True) if "captions_de" in record.fields]  # fmt: skip
    assert np.mean(right) > 0.8
    cider, bleu, exact = predictor.task.score(english, records)
    assert (cider.name, bleu.name, exact.name) == ("cider", "bleu4", "exact")
    expected = [one.text in record.fields["captions"] for one, record in zip(english, records, strict=True)]
    assert exact.value == pytest.approx(100 * np.mean(expected))
    each = predictor.task.example_scores(english, records)
    assert np.mean(each) * 10 == pytest.approx(cider.value)


@pytest.mark.parametrize(("normalize", "case", "share"), [(str.lower, "lc", 100), (str, "mixed", 0)])
def test_the_signature_of_exact_captions_says_whether_case_counts(normalize, case, share):
    task = make_task("caption")
    task.tokenizer = SimpleNamespace(normalize=normalize)
    record = Record({"image": "x", "captions": ["A dog"]}, "x", 1)
    *_, exact = task.score([Caption("x", "a dog", 0.0)], [record])
    assert (exact.signature, exact.value) == (f"case:{case}", share)


def test_results_do_not_depend_on_company_or_on_who_writes(predictor, records):
    inputs = [predictor.task.input_of(record) for record in records[:12]]
    together = predictor.predict(inputs, beam=3)
    alone = [predictor.predict([one], beam=3)[0] for one in inputs]
    assert [one.text for one in alone] == [one.text for one in together]
    task = predictor.task
    if kernel() is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task, "engine", lambda *_: None)
            plain = task.predict(predictor.model, inputs, beam=3)
        assert [one.text for one in plain] == [one.text for one in together]
        assert [one.score for one in plain] == pytest.approx([one.score for one in together], abs=1e-4)
        small = predictor.predict(inputs, beam=3, precision="int8")
        assert np.mean([a.text == b.text for a, b in zip(small, together, strict=True)]) > 0.5


def test_a_picture_may_come_in_any_form(predictor, folder):
    expected = predictor(str(folder / "test0.png"))
    image = Image.open(folder / "test0.png")
    forms = (folder / "test0.png", image, np.asarray(image), (folder / "test0.png").read_bytes())
    for given in (*forms, {"image": image, "kind": "any"}):
        assert predictor(given).text == expected.text
    assert expected.as_json() == {
        "image": f"{folder}/test0.png", "text": expected.text, "language": "en", "score": round(expected.score, 4),
    }  # fmt: skip
    with pytest.raises(DataError, match="the given texts, line 2: there is no picture"):
        predictor([str(folder / "test0.png"), "b.png"])
    with pytest.raises(DataError, match="the given texts, line 1: the field 'image' is missing"):
        predictor({"picture": image})


def test_languages_and_beams_that_are_not_there(predictor, records):
    given = predictor.task.input_of(records[0])
    with pytest.raises(ConfigError, match=r"does not write 'fr'.*Expected: en, de"):
        predictor.predict([given], language="fr")
    with pytest.raises(ConfigError, match="at least one hypothesis"):
        predictor.predict([given], beam=0)
    without = next(record for record in records if "captions_de" not in record.fields)
    with pytest.raises(DataError, match=rf"line {without.line}: the captions are missing"):
        predictor.task.score(predictor.predict([given]), [without], language="de")


def test_attention_is_that_of_the_words_that_were_written(predictor, folder, tmp_path):
    found = predictor(str(folder / "test1.png"), attention=True)
    seen = found.attention
    assert seen.words == tuple(found.text.replace(":", " :").split())
    rows, columns = (-(-side // 4) for side in seen.pixels.shape[:2])
    assert seen.weights.shape == (len(seen.words), 2, rows, columns)
    assert seen.weights.sum(axis=(2, 3)) == pytest.approx(1, abs=1e-4)
    assert "held" not in found.picture().save(tmp_path / "a.svg").read_text(encoding="utf8")
    with pytest.raises(ConfigError, match="attention=True"):
        replace(found, attention=None).picture()


def test_the_loss_is_that_of_every_caption_beside_its_own_picture(predictor, records):
    task, model = predictor.task, predictor.model
    encoded = list(task.encode(records[:5]))
    batch = pack_streams(encoded, STREAMS)
    total, count = 0.0, 0
    for record, (_, _, size, patches) in zip(records, encoded, strict=False):
        for number, caption in task.reader.every(record):
            tokens = [len(task.tokenizer) + number, *task.tokenizer.encode(caption), task.tokenizer.eos]
            one = pack_streams([([len(tokens)], tokens, size, patches)], STREAMS)
            read, written, owners = teacher_forced(one)
            assert read.values.tolist() == tokens[:-1]
            assert written.tolist() == tokens[1:]
            with torch.no_grad():
                scores = model.scores(model(one["patches"], sizes_of(one), read, owners))
            total += float(F.cross_entropy(scores, written, reduction="sum"))
            count += len(written)
    assert task.counted(batch) == count
    with torch.no_grad():
        assert float(task.loss(model, batch, 0.0)) == pytest.approx(total, rel=1e-4)


def test_groups_tell_lengths_sides_and_kinds(predictor, records):
    groups = predictor.task.groups
    assert [groups["length"].value(record) for record in records[:2]] == [2, 2]
    assert {groups["side"].value(record) for record in records} <= {8, 12}
    assert {groups["kind"].value(record) for record in records} == {"seen", "held out"}
    with pytest.raises(DataError, match=r"x, line 1: the record has no kind.*leave --by kind out"):
        groups["kind"].value(Record({"captions": ["a"]}, "x", 1))


def test_a_caption_comes_back_from_its_file(predictor, records):
    task = predictor.task
    found = predictor.predict([task.input_of(records[0])])[0]
    entry = Record({"task": "caption", **found.as_json()}, "p.jsonl", 1)
    back = make_task("caption").restored(entry, records[0])
    assert (back.text, back.image, back.language) == (found.text, found.image, "en")
    assert make_task("caption").score([back, back], [records[0], records[0]])[0].name == "cider"
    with pytest.raises(DataError, match="no caption of the record"):
        task.restored(entry, records[1])


def test_what_was_learned_is_written_and_read(run, predictor, tmp_path):
    facts = predictor.task.facts()
    assert facts["languages"] == ["en", "de"]
    assert facts["patch"] == 4
    for name in ("tokenizer.json", "captions.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "captions.json").write_text("{}", encoding="utf8")
    with pytest.raises(CheckpointError, match=r"captions.json is missing or damaged"):
        make_task("caption").load(tmp_path)


@pytest.mark.parametrize("languages", ["en,en", "en,", "a b"])
def test_languages_are_names(languages):
    with pytest.raises(ConfigError, match="languages are names"):
        make_task("caption").configure(Recipe(steps=1, languages=languages))


def test_dev_records_must_have_the_first_language(folder, tmp_path):
    lines = (folder / "dev.jsonl").read_text(encoding="utf8").splitlines()
    entry = json.loads(lines[1])
    del entry["captions"]
    entry["captions_de"] = ["Balken, rot"]
    (folder / "bad.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf8")
    given = RECIPE, folder / "train.jsonl", folder / "bad.jsonl"
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: the captions are missing"):
        runs.prepare(CaptionPictures(), *given)
