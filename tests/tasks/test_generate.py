from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import regard
from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.packing import pack_ids
from regard.data.records import Record
from regard.samples import sample_path
from regard.tasks import make_task
from regard.tasks._continuation import Likelihood, Passage, Prompt, certain, pieces_of
from regard.tasks._language import Language
from regard.training import checkpoints, runs
from regard.training.loop import Trainer
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

VERSES = ("the cat sat on the mat.\n", "a dog ran in the park.\n", "we all sing a song.\n")
RECIPE = Recipe(
    steps=60, dim=32, heads=2, hidden=48, decoder_layers=2, dropout=0.0, tokens=512, context=32, average=0.1,
    evaluations=2, matrix_learning_rate=0.05, learning_rate=0.02, precision="fp32", label_smoothing=0.0,
)  # fmt: skip


def verses(count, seed):
    drawn = np.random.default_rng(seed)
    return "".join(VERSES[number] for number in drawn.integers(0, 3, count))


def trained(folder, recipe, train, dev):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        trainer = runs.begin(
            make_task("generate"), recipe, train, dev, folder / "run", Reporter(None, Silence())
        )
        trainer.run()
    checkpoints.load_weights(folder / "run", trainer.model)
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A writer of three verses in any order, as one text without marks: its trainer and its folder."""
    folder = tmp_path_factory.mktemp("generate")
    train, dev = folder / "train.txt", folder / "dev.txt"
    train.write_text(verses(600, 0))
    dev.write_text(verses(200, 1))
    return trained(folder, RECIPE, train, dev), folder / "run", dev


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A writer of single verses, in bytes, with marks at their ends."""
    folder = tmp_path_factory.mktemp("lines")
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps({"verse": VERSES[n % 3].strip()}) + "\n" for n in range(200)))
    recipe = RECIPE.replace(units="bytes", text="verse", steps=40)
    return trained(folder, recipe, path, None), folder / "run"


@pytest.fixture(scope="module")
def writer(run):
    return regard.load(run[1])


def test_verses_are_learned(run):
    trainer, _, dev = run
    task, model = trainer.task, trainer.model.eval()
    assert not task.language.marks
    records = list(task.read(dev, 1000))
    found = task.predict(model, [task.input_of(record) for record in records])
    nats, bits, perplexity = task.score(found, records)
    # Where a verse begins, three are equally likely; everything else is certain.
    best = math.log(3) * 3 / sum(map(len, VERSES))
    assert best < nats.value < 4 * best < 0.3
    assert bits.value == pytest.approx(nats.value / math.log(2))
    assert perplexity.value == pytest.approx(math.exp(nats.value))
    assert trainer.position.best == pytest.approx(-nats.value, rel=1e-4)
    assert trainer.position.best_loss == pytest.approx(nats.value, rel=1e-4)


@torch.no_grad()
def test_the_score_is_the_mean_over_windows_that_do_not_overlap(run):
    trainer, _, dev = run
    task, model = trainer.task, trainer.model.eval()
    ids = torch.tensor(task.language.units.encode(dev.read_text()))
    total = 0.0
    for begin in range(0, len(ids) - 1, RECIPE.context):
        window = ids[begin : begin + RECIPE.context + 1]
        scores = model.scores(model(pack_ids([window[:-1].tolist()])))
        total += float(F.cross_entropy(scores, window[1:], reduction="sum"))
    records = list(task.read(dev, 1000))
    assert len(records) > 1
    found = task.predict(model, [task.input_of(record) for record in records])
    assert sum(one.nats for one in found) == pytest.approx(total, rel=1e-5)
    assert sum(one.tokens for one in found) == sum(one.characters for one in found) == len(ids) - 1
    (tokens,), *others = task.encode(records)
    assert not others
    assert float(task.loss(model, {"text": pack_ids([tokens])}, 0.0)) == pytest.approx(total, rel=1e-5)
    assert task.counted({"text": pack_ids([tokens, [1], []])}) == len(ids) - 1


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 5, 32])
def test_with_a_stride_every_token_sees_more(run, stride):
    trainer, _, _ = run
    task, model = trainer.task, trainer.model.eval()
    text = verses(4, 2)
    ids = task.language.units.encode(text)
    total = 0.0
    for token in range(1, len(ids)):
        end = max(RECIPE.context, -(-(token - RECIPE.context) // stride) * stride + RECIPE.context)
        begin = (
            max(0, min(end, len(ids) - 1) - RECIPE.context)
            if stride < RECIPE.context
            else (token - 1) // 32 * 32
        )
        scores = model.scores(model(pack_ids([ids[begin:token]])))[-1]
        total -= float(torch.log_softmax(scores, -1)[ids[token]])
    (found,) = task.predict(model, [Passage(text)], stride=stride)
    assert found.nats == pytest.approx(total, rel=1e-4)
    assert sum(tokens for _, tokens in found.bands) == found.tokens == len(ids) - 1


def test_a_score_does_not_depend_on_what_stands_beside(writer):
    passages = [Passage(verses(count, count)) for count in (3, 1, 9)]
    together = writer.predict(passages)
    for passage, one in zip(passages, together, strict=True):
        assert writer.predict([passage])[0].nats == pytest.approx(one.nats, rel=1e-5)
    parts = [
        Passage(text, "a book", part, last=part == 1) for part, text in enumerate(("the cat ", "sat on"))
    ]
    assert writer(parts) == writer.predict_checked(parts)
    with pytest.raises(DataError, match=r"line 2: the text has characters that training did not show"):
        writer.predict([passages[0], Passage("the cät")])


def test_a_prompt_goes_on(writer):
    found = writer("the cat sat on", length=9, temperature=0)
    assert str(found) == "the cat sat on the mat."
    assert (found.text, found.prompt) == (" the mat.", "the cat sat on")
    assert -0.1 < found.scores[0] <= 0
    assert found.as_json()["texts"] == [" the mat."]


def test_a_text_longer_than_the_context_goes_on(writer):
    found = writer("a dog ran", length=200, temperature=0.5, seed=3)
    assert len(found.text) == 200
    right = [line + "\n" in VERSES for line in str(found).split("\n")[1:-1]]
    assert sum(right) > 0.7 * len(right) > 4


def test_a_continuation_depends_on_its_prompt_its_number_and_the_seed_alone(writer):
    prompts = ["the ", "a dog", "we"]
    options = {"length": 40, "temperature": 1.3, "seed": 5}
    together = writer(prompts, count=3, **options)
    for prompt, found in zip(prompts, together, strict=True):
        assert writer(prompt, count=3, **options).texts == found.texts
        assert writer(prompt, **options).texts == found.texts[:1]
        assert "".join(writer.stream(prompt, **options)) == found.text
        assert len(set(found.texts)) > 1
        assert writer(prompt, **{**options, "seed": 6}).texts != found.texts


def test_a_stop_ends_a_text_and_is_left_out(writer):
    for stop in (".\n", ["zz", "t.", ".\n"]):
        found = writer("the cat sat on", stop=stop, length=50, temperature=0)
        assert found.text == (" the mat" if isinstance(stop, str) else " the ma")
        assert "".join(writer.stream("the cat sat on", stop=stop, length=50, temperature=0)) == found.text


def test_many_candidates_read_the_prompt_once_and_score_as_one_by_one(writer, monkeypatch):
    prompt, candidates = "the cat sat on", [" the mat.", " the park.", "x"[:0] + " a", " the mat"]
    one_by_one = [writer({"prompt": prompt, "candidates": [one]}).log_probabilities[0] for one in candidates]
    read, model = [], writer.model
    plain = type(model).read
    monkeypatch.setattr(
        type(model), "read", lambda self, x, room: read.append(len(x.values)) or plain(self, x, room)
    )
    found = writer({"prompt": prompt, "candidates": candidates})
    assert read == [len(prompt)]
    assert found.log_probabilities == pytest.approx(one_by_one, abs=1e-4)
    assert found.order[0] == 3
    assert str(found).splitlines()[0].endswith(" the mat")
    (score,) = writer.predict([Passage(prompt + candidates[0])])
    (begin,) = writer.predict([Passage(prompt)])
    assert found.log_probabilities[0] == pytest.approx(begin.nats - score.nats, abs=1e-3)


def test_a_picture_shows_where_tokens_looked(writer, tmp_path):
    found = writer("the cat", length=5, attention=True)
    assert found.attention.names == tuple("the␣cat" + found.text.replace(" ", "␣").replace("\n", "⏎"))
    assert found.attention.weights.shape == (2, 2, 12, 12)
    assert np.allclose(np.triu(found.attention.weights, 1), 0)
    assert np.allclose(found.attention.weights.sum(-1), 1, atol=1e-5)
    assert found.picture().save(tmp_path / "seen.html").stat().st_size > 1000
    with pytest.raises(ConfigError, match="attention=True"):
        writer("the cat", length=1).picture()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "the prompt is empty"),
        ("the cät", r"'ä' \(U\+00E4\).*--units bytes"),
        ("a" * 33, "at most 32 tokens. Received: 33 tokens.*--context"),
        (7, "there is no prompt"),
        ({"prompt": "a", "candidates": ["a" * 33]}, "does not fit"),
        ({"prompt": "a", "candidates": ["é"]}, "U\\+00E9"),
    ],
)
def test_what_cannot_be_read_is_named(writer, given, message):
    with pytest.raises(DataError, match=f"the given texts, line 1.*{message}"):
        writer(given)


@pytest.mark.parametrize(
    "options",
    [{"length": 0}, {"count": 0}, {"stop": [""]}, {"top_p": 2}, {"stride": 33}, {"temperature": -1}],
)
def test_options_out_of_range_are_refused(writer, options):
    with pytest.raises(ConfigError, match="Received"):
        writer("a", **options)


def test_unknown_characters_of_dev_data_are_named_before_training(tmp_path):
    (tmp_path / "a.txt").write_text("abc\n" * 20)
    (tmp_path / "b.txt").write_text("abc\nabx\n")
    with pytest.raises(DataError, match=r"b\.txt, line 2.*'x'"):
        trained(tmp_path, RECIPE, tmp_path / "a.txt", tmp_path / "b.txt")


def begun(folder, recipe, train):
    return runs.begin(make_task("generate"), recipe, train, None, folder / "run", Reporter(None, Silence()))


def test_training_has_the_rare_characters_of_a_book_of_which_a_part_is_held_out(tmp_path):
    rare = [chr(0x4E00 + number) for number in range(60)]  # one in every other part
    (tmp_path / "a.txt").write_text("".join(verses(90, n) + rare[n // 2] * (n % 2) for n in range(120)))
    trainer = begun(tmp_path, RECIPE, tmp_path / "a.txt")
    assert set(rare) <= set(trainer.task.language.units.alphabet)
    assert len(trainer.dev) == 6
    task = make_task("generate")
    task.configure(RECIPE.replace(units="bytes"))
    assert task.asks_for(Record({"text": rare[0]}, "f", 1)) == set()


def test_a_text_of_which_every_part_shows_new_characters_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "a.txt").write_text("".join(verses(90, n) + chr(0x4E00 + n) * 1000 + "\n" for n in range(9)))
    with pytest.raises(DataError, match=r"too little to hold a part out .* --units bytes"):
        begun(tmp_path, RECIPE, tmp_path / "a.txt")
    assert begun(tmp_path, RECIPE.replace(units="bytes"), tmp_path / "a.txt").dev


def test_columns_of_any_name_stand_beside_the_text(tmp_path):
    own = {"document": "d", "part": "one", "last": False, "prompt": "Go", "text": "a title"}
    lines = [json.dumps({**own, "body": VERSES[n % 3]}) + "\n" for n in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    trainer = begun(tmp_path, RECIPE.replace(text="body"), tmp_path / "a.jsonl")
    assert {trainer.task.input_of(record) for record in trainer.dev} <= {Passage(verse) for verse in VERSES}
    assert trainer.task.language.marks
    assert trainer.store.lengths.max() == max(map(len, VERSES)) + 2
    again = list(trainer.task.read(tmp_path / "run" / "state" / "dev.jsonl", 1000))
    assert [one.fields for one in again] == [one.fields for one in trainer.dev]


def test_an_update_holds_a_window(tmp_path):
    (tmp_path / "a.txt").write_text("abc\n" * 20)
    with pytest.raises(ConfigError, match="--tokens of 32 or more"):
        trained(tmp_path, RECIPE.replace(tokens=31), tmp_path / "a.txt", tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("options", "processes", "dim"),
    [
        ({"threads": 1}, 1, 128),  # twenty minutes of one core
        ({"threads": 2}, 1, 192),
        ({"threads": 1}, 2, 192),
        ({"threads": 2, "minutes": 10.0}, 1, 128),
        ({"threads": 1, "steps": 9}, 1, 192),
    ],
)
def test_a_model_is_as_large_as_minutes_and_cores_allow(options, processes, dim, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    task = make_task("generate")
    task.configure(Recipe(**options))
    assert task.sizes(500)["dim"] == dim


def test_short_documents_have_marks_and_end(lines):
    trainer, folder = lines
    writer = regard.load(folder)
    assert [one.fields["text"] for one in writer.task.read(folder.parent / "train.jsonl", 1000)][:2] == [
        verse.strip() for verse in VERSES[:2]
    ]
    assert writer.task.language.marks
    found = writer("", count=6, length=60, temperature=0.3)
    assert set(found.texts) <= {verse.strip() for verse in VERSES}
    assert "".join(writer.stream("", length=60, temperature=0.3)) == found.texts[0]
    (likely,) = writer.predict([Passage(VERSES[0].strip())])
    assert likely.tokens == likely.characters + 1  # and the mark
    assert trainer.store.lengths.max() == max(map(len, VERSES)) + 1


def test_documents_see_nothing_of_each_other(lines):
    trainer, _ = lines
    model = trainer.model.eval()
    one, two = [0, 5, 9, 0], [0, 8, 7, 6, 0]
    with torch.no_grad():
        both = float(trainer.task.loss(model, {"text": pack_ids([one, two])}, 0.0))
        each = [float(trainer.task.loss(model, {"text": pack_ids([ids])}, 0.0)) for ids in (one, two)]
    assert both == pytest.approx(sum(each), rel=1e-5)


def test_subwords_are_learned_from_one_text_of_which_a_part_is_held_out(tmp_path):
    (tmp_path / "all.txt").write_text(verses(600, 0))
    trainer = trained(
        tmp_path, RECIPE.replace(units="subwords", vocabulary=300, steps=10), tmp_path / "all.txt", None
    )
    writer = regard.load(tmp_path / "run")
    assert writer.task.facts()["units"] == "subwords"
    assert 0 < len(trainer.dev) < len(list(trainer.task.read(tmp_path / "all.txt", 1000)))
    found = writer.predict([Passage("  a   dog\nran")])[0]
    assert found.characters == len("a dog\nran") - len(
        writer.task.language.units.decode(writer.task.language.units.encode("a"))
    )
    assert writer("the cat", length=3).text
    options = {"length": 12, "temperature": 1.0, "seed": 1}
    plain, spaced = (writer(prompt, count=8, **options) for prompt in ("the cat", "the cat \t"))
    assert {text[:1] == " " for text in plain.texts} == {True, False}
    assert spaced.texts == tuple(text.removeprefix(" ") for text in plain.texts)
    for seed in range(8):
        one = writer("the cat ", **{**options, "seed": seed})
        assert "".join(writer.stream("the cat ", **{**options, "seed": seed})) == one.text
        assert "  " not in str(one)
        stop = one.text[2:4] or "x"
        stopped = writer("the cat ", stop=stop, **{**options, "seed": seed}).text
        assert stopped == one.text.partition(stop)[0]
    assert writer("the cat\n", **options).text == writer.predict([Prompt("the cat \n ")], **options)[0].text


def test_a_run_that_was_interrupted_goes_on_bit_by_bit(tmp_path):
    (tmp_path / "a.txt").write_text(verses(80, 0))
    recipe = RECIPE.replace(steps=8, dropout=0.1)

    def begun(name):
        return runs.begin(
            make_task("generate"), recipe, tmp_path / "a.txt", tmp_path / "a.txt", tmp_path / name,
            Reporter(None, Silence()),
        )  # fmt: skip

    whole, part = begun("whole"), begun("part")
    for _ in range(8):
        whole.update(whole.progress())
    assert whole.batches.epoch > 0
    for _ in range(3):
        part.update(part.progress())
    part.save()
    again = runs.resume(make_task("generate"), tmp_path / "part", Reporter(None, Silence()))
    assert isinstance(again, Trainer)
    for _ in range(5):
        again.update(again.progress())
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_results_come_back_from_what_was_written(writer):
    task, record = writer.task, Record({"text": "a dog"}, "f", 1)
    (found,) = writer.predict([task.input_of(record)])
    entry = Record(found.as_json(), "p.jsonl", 1)
    again = task.restored(entry, record)
    counts = round(found.nats, 6), found.tokens, found.characters
    assert again == Likelihood(*counts, text="a dog", units=task.language.signature)
    assert task.example_scores([again], [record]) == pytest.approx(
        [100 * math.exp(-found.nats / 4)], rel=1e-4
    )
    with pytest.raises(DataError, match="no likelihood"):
        task.restored(Record({"text": "a"}, "p.jsonl", 1), record)


def test_a_damaged_folder_is_named(writer, tmp_path):
    writer.task.save(tmp_path)
    form = json.loads((tmp_path / "units.json").read_text())
    (tmp_path / "units.json").write_text(json.dumps({**form, "context": None}))
    with pytest.raises(CheckpointError, match="context"):
        Language.load(tmp_path)


def test_what_may_begin_a_stop_is_held_back():
    assert certain("abc", ["cd", "bcd"]) == 1
    assert certain("abc", []) == 3
    grown = ["a", "ab", "abc", "abcx"]
    assert list(pieces_of(iter(grown), ["bcd"])) == ["a", "bcx"]
    assert list(pieces_of(iter(grown), ["bc"])) == ["a"]
    assert list(pieces_of(iter(["a", "ab"]), ["bc"])) == ["a", "b"]
    assert list(pieces_of(iter([]), ["bc"])) == []


def test_the_sample_is_three_plays(run):
    parts = {
        split: list(make_task("generate").read(path, 20_000))
        for split, path in sample_path("generate").items()
    }
    sizes = {split: sum(len(one.fields["text"]) for one in records) for split, records in parts.items()}
    assert sizes == {"train": 379_871, "dev": 21_066, "test": 21_053}
    known = {character for one in parts["train"] for character in one.fields["text"]}
    assert all(set(one.fields["text"]) <= known for split in ("dev", "test") for one in parts[split])
    folder = sample_path("generate")["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    assert "public domain" in (folder / "NOTICE.md").read_text(encoding="utf-8")


def test_prompts_are_given_in_every_form(writer):
    for given in ("the c", Prompt("the c"), {"prompt": "the c"}):
        assert writer(given, length=3, temperature=0).text == "at "
