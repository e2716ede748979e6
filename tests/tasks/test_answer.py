from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pretrained_folders as folders
import regard
from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.packing import pack_streams
from regard.data.records import Record
from regard.nn.consistency import consistent, twice
from regard.nn.reader import SpanScores
from regard.tasks import make_task
from regard.tasks._answering import best_spans
from regard.tasks._examples import outcomes, read, rows_of
from regard.tasks._reading import Question
from regard.tasks.answer import AnswerQuestions
from regard.training import checkpoints, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

NAMES = ("Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal")
VERBS = ("wrote", "sang", "ran", "slept", "cooked", "painted")
RECIPE = Recipe(
    steps=100, vocabulary=400, dim=32, heads=4, hidden=32, encoder_layers=1, decoder_layers=1, dropout=0.0, tokens=1200,
    average=0.1, evaluations=1, matrix_learning_rate=0.05, learning_rate=0.02, precision="fp32", window=24, stride=12,
)  # fmt: skip


def stories(count, seed, unknown=True):
    """Passages of seven sentences, each with three questions; every third has no answer."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        who, what = rng.permutation(NAMES)[:5], list(rng.permutation(VERBS))
        passage = " ".join(f"{name} {verb} all day." for name, verb in zip(who, what, strict=False))
        for verb in (what[0], what[3], what[5]):
            there = verb in what[:5]
            name = who[what.index(verb)] if there else ""
            answers = [{"text": str(name), "start": passage.index(name + " ")}] if there else []
            if there or unknown:
                records.append({"context": passage, "question": f"Who {verb}?", "answers": answers})
    return records


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reader of little stories that it has not seen: task, model, dev records, and its folder."""
    folder = tmp_path_factory.mktemp("answer")
    train, dev = write(folder / "train.jsonl", stories(150, 0)), write(folder / "dev.jsonl", stories(20, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "keep_freed_memory", lambda: False)
        trainer = runs.begin(
            make_task("answer"), RECIPE, train, dev, folder / "run", Reporter(None, Silence())
        )
        trainer.run()
    checkpoints.load_weights(folder / "run", trainer.model)
    return trainer.task, trainer.model.eval(), list(trainer.task.read(dev, 1000)), folder / "run"


def test_stories_that_were_not_seen_are_understood(run):
    task, model, records, _ = run
    found = task.predict(model, [task.input_of(record) for record in records])
    f1, exact = task.score(found, records)
    assert (f1.name, exact.name) == ("f1", "exact")
    assert f1.signature.startswith("style:squad2; best ")
    assert exact.value > 85
    for answer, record in zip(found, records, strict=True):
        if answer.start is not None:
            assert record.fields["context"][answer.start : answer.end] == answer.text != ""
            assert answer.probability + answer.no_answer <= 1 + 1e-9


def test_passages_were_read_in_windows(run):
    task, _, records, _ = run
    assert len(task.tokenizer.encode(records[0].fields["context"])) > RECIPE.window
    assert task.abstains
    assert task.window.stride + task.window.longest <= task.window.size


def test_an_answer_does_not_depend_on_its_batch(run, monkeypatch):
    task, model, records, _ = run
    asked = [task.input_of(record) for record in records[:9]]
    alone = [task.predict(model, [one])[0] for one in asked]
    for size in (1, 200, 10**6):
        monkeypatch.setattr("regard.tasks.answer.PREDICTED", size)
        together = task.predict(model, asked[::-1])[::-1]
        assert [one.text for one in together] == [one.text for one in alone]
        assert [one.probability for one in together] == pytest.approx(
            [one.probability for one in alone], abs=1e-5
        )
    assert task.predict(model, []) == []


def test_the_threshold_decides_between_an_answer_and_none(run):
    task, model, records, _ = run
    asked = [task.input_of(record) for record in records[:6]]
    assert all(one.text for one in task.predict(model, asked, no_answer=1.0))
    none = task.predict(model, asked, no_answer=0.0)
    assert [(one.text, one.start, one.end) for one in none] == [("", None, None)] * 6
    assert all(one.probability == one.no_answer for one in none)
    with pytest.raises(ConfigError, match="no_answer is a probability"):
        task.predict(model, asked, no_answer=2.0)
    with pytest.raises(ConfigError, match=r"Expected: 1 or more\. Received: 0"):
        task.predict(model, asked, candidates=0)


def test_the_best_threshold_is_that_of_all_whatever_one_was_used(run):
    task, model, records, _ = run
    asked = [task.input_of(record) for record in records]
    used = [task.predict(model, asked, **options) for options in ({"no_answer": 1.0}, {"no_answer": 0.1}, {})]
    notes = {task.score(found, records)[0].signature for found in used}
    assert len(notes) == 1
    threshold = float(notes.pop().split()[-1])
    best = task.score(task.predict(model, asked, no_answer=threshold + 5e-4), records)[0]
    assert f"best {best.value:.1f} " in best.signature


def test_several_candidates_come_with_an_answer(run):
    task, model, records, _ = run
    asked = [replace(task.input_of(records[0]), id="first"), task.input_of(records[1])]
    answers = task.predict(model, asked, candidates=3, no_answer=1.0)
    for answer, question in zip(answers, asked, strict=True):
        assert len(answer.candidates) == 3
        best = answer.candidates[0]
        assert (best.text, best.start, best.end) == (answer.text, answer.start, answer.end)
        assert all(question.passage[one.start : one.end] == one.text for one in answer.candidates)
    entry = answers[0].as_json()
    assert entry["id"] == "first"
    assert [one["text"] for one in entry["candidates"]] == [one.text for one in answers[0].candidates]
    assert "id" not in answers[1].as_json()
    silent = task.predict(model, asked, no_answer=0.0)
    assert [one.candidates[0].text for one in silent] == [one.text for one in answers]
    assert "candidates" not in silent[0].as_json()


def test_when_not_to_answer_is_chosen_on_dev_data(run):
    task, model, records, folder = run
    threshold = float(model.threshold)
    assert 0 <= threshold < 1
    assert float(regard.load(folder).model.threshold) == threshold
    asked = [task.input_of(record) for record in records]
    assert task.predict(model, asked) == task.predict(model, asked, no_answer=threshold)
    values = [task.score(task.predict(model, asked, no_answer=t), records)[0].value for t in (0.0, 1.0)]
    assert task.score(task.predict(model, asked), records)[0].value > max(values)
    model.eval()
    answered = [record for record in records if record.fields["answers"]]
    try:
        task.calibrate(model, answered[:2], [])
        assert float(model.threshold) == -1.0  # nothing to choose by
        task.calibrate(model, [], [])
        assert float(model.threshold) == -1.0
        task.calibrate(model, records, [])
    finally:
        model.threshold.fill_(threshold)


def test_silence_is_judged_on_the_windows_that_are_read_in_use(run, monkeypatch):
    """A passage of many windows, of which training reads two a question."""
    task, model, records, _ = run
    threshold, found = float(model.threshold), []
    long = " ".join(record.fields["context"] for record in records[::3][:6])
    asked = [record for record in records if not record.fields["answers"]][:4]
    many = [
        replace(one, fields=one.fields | {"context": long, "question": f"Who {verb}?"})
        for one, verb in zip(asked, ("wrote", "sang", "flew", "swam"), strict=False)
    ]
    many[0].fields["answers"] = [{"text": long.split()[0], "start": 0}]
    monkeypatch.setattr(
        "regard.tasks.answer.best_threshold",
        lambda _, __, ___, silences: found.append(silences) or (0.0, 0.5),
    )
    try:
        task.calibrate(model, many, [])
    finally:
        model.threshold.fill_(threshold)
    answers = task.predict(model, [task.input_of(one) for one in many])
    np.testing.assert_allclose(found[0], [one.no_answer for one in answers], rtol=1e-5)


@given(st.integers(0, 10_000))
def test_outcomes_are_those_of_every_span_in_turn(seed):
    rng = np.random.default_rng(seed)
    readings, longest = int(rng.integers(1, 6)), 3
    asked = np.sort(rng.integers(0, 3, readings))
    asked = np.unique(asked, return_inverse=True)[1]
    lengths = rng.integers(1, 5, readings)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    spans = torch.from_numpy(rng.normal(size=(offsets[-1], longest)))
    for reading, length in enumerate(lengths):
        for place in range(length):
            spans[offsets[reading] + place, length - place :] = -torch.inf
    scores = SpanScores(spans, offsets, torch.from_numpy(rng.normal(size=readings)))
    golds = []
    for question in range(asked.max() + 1):
        mine = np.flatnonzero(asked == question)
        if rng.random() < 0.5:
            golds.append((mine[0], 0, 0))
        else:
            golds += [
                (r, p, int(rng.integers(1, lengths[r] - p + 1)))
                for r in mine
                for p in [rng.integers(lengths[r])]
            ]
    found = list(outcomes(scores, asked, np.array(golds)))
    assert len(found) == asked.max() + 1
    for question, (share, answerable, silence) in enumerate(found):
        mine = np.flatnonzero(asked == question)
        none = float(scores.nothing[mine].mean())
        every = {
            (r, p, size + 1): float(spans[offsets[r] + p, size])
            for r in mine for p in range(lengths[r]) for size in range(min(longest, lengths[r] - p))
        }  # fmt: skip
        whole = sum(map(np.exp, every.values())) + np.exp(none)
        assert silence == pytest.approx(np.exp(none) / whole)
        ours = [gold for gold in golds if gold[0] in mine]
        assert answerable == (ours[0][2] > 0)
        r, p, size = max(every, key=every.get)
        taken = set(range(p, p + size))
        expected = [0.0]
        for other, place, length in ours:
            common = len(taken & set(range(place, place + length))) if other == r else 0
            expected.append(2 * common / (size + length))
        assert share == pytest.approx(max(expected))


def test_what_a_question_looked_at(run, tmp_path):
    task, model, records, _ = run
    given = task.input_of(records[0])
    (answer,) = task.predict(model, [given], attention=True)
    assert answer == task.predict(model, [given])[0]
    seen = answer.attention
    assert seen.question == ("Who", given.text[4:-1], "?", "</s>")
    assert answer.text in seen.passage
    assert seen.weights.shape == (1, 4, 4, len(seen.passage))
    np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-4)
    answer.picture().save(tmp_path / "a.html")
    assert given.text in (tmp_path / "a.html").read_text(encoding="utf8")
    with pytest.raises(ConfigError, match="found without looking"):
        task.predict(model, [given])[0].picture()


def test_what_was_looked_at_says_where_its_window_begins(run):
    task, model, records, _ = run
    passage = " ".join(record.fields["context"] for record in records[::3][:4])
    question = Question(records[9].fields["question"], passage)
    (answer,) = task.predict(model, [question], attention=True, no_answer=1.0)
    seen = answer.attention
    assert 0 < seen.start <= answer.start
    window = passage[seen.start :].replace(" ", "")
    assert window.startswith("".join(seen.passage))
    assert answer.text in seen.passage


def test_results_as_text_and_json(run):
    task, model, _, _ = run
    (answer,) = task.predict(model, [Question("Who wrote?", "Ada wrote all\nday.")], no_answer=1.0)
    assert "\n" not in str(answer)
    entry = answer.as_json()
    assert list(entry) == ["question", "text", "start", "end", "probability", "no_answer"]
    assert json.loads(json.dumps(entry)) == entry


def test_the_loss_of_a_batch_is_the_sum_of_its_examples(run):
    task, model, records, _ = run
    examples = list(task.encode(records))
    assert len(examples) == 20
    whole = pack_streams(examples, task.streams)
    parts = [pack_streams([example], task.streams) for example in examples]
    with torch.no_grad():
        for smoothing in (0.0, 0.1):
            summed = sum(float(task.loss(model, part, smoothing)) for part in parts)
            assert float(task.loss(model, whole, smoothing)) == pytest.approx(summed, rel=1e-4)
    assert task.counted(whole) == sum(task.counted(part) for part in parts) == len(records)


def test_encoded_golds_are_the_answers(run):
    """The pieces that a gold names, in the window that its reading names, are those of the answer."""
    task, _, records, _ = run
    for (golds, lengths, readings, _, texts, _), start in zip(
        task.encode(records), range(0, 60, 3), strict=True
    ):
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        pairs = np.reshape(readings, (-1, 2))
        for reading, place, length in np.reshape(golds, (-1, 3)):
            question, window = pairs[reading]
            begin = bounds[window] + place
            text = task.tokenizer.decode(texts[begin : begin + length])
            answers = records[start + question].fields["answers"]
            assert text == (answers[0]["text"].lower() if answers else "")


def test_a_model_that_always_answers_counts_no_question_without_an_answer(tmp_path):
    task = AnswerQuestions()
    records = [Record(fields, "x", 1) for fields in stories(4, 2)]
    task.learn([one for one in records if one.fields["answers"]], RECIPE)
    assert not task.abstains
    batch = pack_streams(list(task.encode(records)), task.streams)
    assert task.counted(batch) == sum(bool(one.fields["answers"]) for one in records)
    torch.manual_seed(0)
    model = task.model(RECIPE).eval()
    assert torch.isfinite(task.loss(model, batch, 0.1))
    found = task.predict(model, [task.input_of(one) for one in records])
    assert {one.no_answer for one in found} == {0.0}
    with pytest.raises(
        ConfigError, match=r"this model always answers.* Received: 0\.5\. .* answers are \[\]"
    ):
        task.predict(model, [task.input_of(records[0])], no_answer=0.5)
    assert "best" not in task.score(found, records)[0].signature


def test_how_long_answers_may_be(tmp_path):
    passage = " ".join(f"word{number}" for number in range(60))
    answers = [{"text": passage, "start": 0}]
    record = {"context": passage, "question": "What?", "answers": answers}
    file = write(tmp_path / "long.jsonl", [record, record | {"answers": [{"text": "word3", "start": 18}]}])
    task = make_task("answer")
    records = list(task.read(file, 1000))
    for longest in (None, 11):
        recipe = RECIPE.replace(longest_answer=longest)
        task.configure(recipe)
        task.learn(iter(records), recipe)
        assert task.window.longest == (longest or 12)  # half the window
        assert task.remarks[0] == "2 questions on 1 passages"
        assert "1 of 2 answers are longer than the" in task.remarks[1]
    wide = RECIPE.replace(window=2000, longest_answer=1000)
    task.configure(wide)
    task.learn(iter(records), wide)
    assert (task.window.longest, len(task.remarks)) == (1000, 1)
    with pytest.raises(ConfigError, match=r"longest_answer at most 12, half the window.*Received: 13"):
        task.configure(RECIPE.replace(longest_answer=13))


def test_many_questions_of_one_passage_are_several_examples(run):
    task, _, records, _ = run
    many = [records[0]] * 19
    lengths = [len(rows_of(pack_streams([one], task.streams)["readings"], 2)) for one in task.encode(many)]
    assert len(lengths) == 3


@given(st.data())
def test_the_best_span_is_the_best_of_all(data):
    """Against a plain search: spans of the same characters count together, invisible pieces neither begin nor end one."""
    count, longest = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    size = data.draw(st.integers(longest, 8))
    starts = [0] if size >= count else sorted({*range(0, count - size, max(1, size - longest)), count - size})
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    spans, text = [], ""
    for kind in data.draw(
        st.lists(st.sampled_from(["a", "ab", "", "\u200b", "again"]), min_size=count, max_size=count)
    ):
        if kind == "again" and spans:  # another byte of the same character
            spans.append(spans[-1])
        else:
            spans.append((len(text), len(text) + len(kind)))
            text += kind
    parts, chances = [], dict[tuple[int, int], float]()
    for start in starts:
        part = rng.normal(size=(min(size, count), longest)) * 2
        for place in range(len(part)):
            part[place, len(part) - place :] = -np.inf
            for length in range(min(longest, len(part) - place)):
                key = (start + place, start + place + length)
                chances[key] = chances.get(key, 0.0) + np.exp(part[place, length])
        parts.append(part)
    none = data.draw(st.sampled_from([-np.inf, 0.5]))
    found, silence = best_spans(parts, starts, text, spans, none, data.draw(st.integers(1, 4)))
    whole = sum(chances.values()) + np.exp(none)
    allowed = dict[tuple[int, int], float]()
    for (first, last), value in chances.items():
        (begin, one), (other, end) = spans[first], spans[last]
        if text[begin:one].strip("\u200b") and text[other:end].strip("\u200b"):
            allowed[begin, end] = allowed.get((begin, end), 0.0) + value
    assert silence == pytest.approx(np.exp(none) / whole)
    if allowed:
        assert found[0][:2] == max(allowed, key=allowed.__getitem__)
    else:
        assert not found
    for begin, end, chance in found:
        assert chance == pytest.approx(allowed[begin, end] / whole)
    bounds = sorted(one[:2] for one in found)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(bounds))
    chances = [chance for *_, chance in found]
    assert chances == sorted(chances, reverse=True)


def test_candidates_of_characters_in_several_pieces_are_each_their_own(run):
    task, model, _, _ = run
    passage = "Ada ﬁnds ℡ \u200b 한. " * 2
    for question in ("Who ﬁnds?", "℡?"):
        (answer,) = task.predict(model, [Question(question, passage)], candidates=50, no_answer=1.0)
        bounds = sorted((one.start, one.end) for one in answer.candidates)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(bounds))
        assert all(one.text.strip(" \u200b") for one in answer.candidates)
        assert len(bounds) > 5


@pytest.mark.parametrize(
    ("passage", "way", "style"),
    [
        ("The dog runs.", "runs", "squad"),
        ("狗在跑步。", "characters", "cmrc2018"),
        ("犬がはしっている。", "scripts", "jaquad"),
    ],
)
def test_the_language_decides_how_text_is_cut_and_scored(passage, way, style):
    task = AnswerQuestions()
    fields = {"context": passage, "question": "?", "answers": [{"text": passage[:1], "start": 0}]}
    records = [Record(fields, "x", 1)] * 2
    task.learn(records, RECIPE.replace(window=None, stride=None))
    assert task.unspaced == way
    task.learn(records, RECIPE.replace(unspaced="runs"))
    assert task.unspaced == "runs"
    torch.manual_seed(0)
    found = task.predict(task.model(RECIPE).eval(), [task.input_of(one) for one in records])
    assert {score.signature for score in task.score(found, records)} == {f"style:{style}"}
    assert "squad" in task.score(found, records, language="en")[0].signature
    absent = [Record({**fields, "answers": []}, "x", 1)] * 2
    signature = task.score(found, absent)[0].signature
    silent = {"squad": "squad2", "cmrc2018": "cmrc2018|unanswered:empty"}
    assert signature == f"style:{silent.get(style, style)}"


@pytest.mark.parametrize("given", ["Who?", 3, ("a", "b", "c")])
def test_a_question_without_a_passage(given):
    with pytest.raises(DataError, match="a question without a passage"):
        AnswerQuestions().record(given, ("the given texts", 1), 100)


def test_what_a_person_may_give():
    task = AnswerQuestions()
    place = ("the given texts", 1)
    pair = ("Who?", "Ada.")
    forms = [pair, {"question": "Who?", "context": "Ada."}, Question(*pair), task.with_passage(*pair)]
    assert {task.input_of(task.record(given, place, 100)) for given in forms} == {Question(*pair)}
    with pytest.raises(DataError, match="'context' is empty"):
        task.record(("Who?", ""), place, 100)


def test_a_folder_without_its_files(run, tmp_path):
    task, _, _, folder = run
    task.tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"reading\.json"):
        AnswerQuestions().load(tmp_path)
    other = AnswerQuestions()
    other.load(folder)
    assert other.facts() == task.facts()
    assert other.matcher.levels == task.matcher.levels


def test_the_control_reads_and_shows_where_its_questions_looked(run, tmp_path):
    data = run[-1].parent
    recipe = RECIPE.replace(steps=4, evaluations=1, encoder="recurrent", decoder_layers=2)
    trainer = runs.begin(
        make_task("answer"), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run", Reporter(None, Silence())
    )  # fmt: skip
    before = trainer.model.blocks[0].attention.layers[0].weight_hh_l0.clone()
    assert trainer.run().evaluated == 1
    assert not torch.equal(trainer.model.blocks[0].attention.layers[0].weight_hh_l0, before)
    reader = regard.load(tmp_path / "run")
    assert reader.recipe.encoder == "recurrent"
    asked = [run[0].input_of(record) for record in run[2][:6]]
    together = reader.predict(asked)
    for one, question in zip(together, asked, strict=True):
        assert one.start is None or question.passage[one.start : one.end] == one.text
        assert reader.predict([question])[0].probability == pytest.approx(one.probability, abs=1e-5)
    (answer,) = reader.predict(asked[:1], attention=True)
    seen = answer.attention
    assert (seen.question, len(seen.passage)) == (
        ("Who", asked[0].text[4:-1], "?", "</s>"),
        seen.weights.shape[-1],
    )
    assert seen.weights.shape[:3] == (1, 4, 4)
    np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_answers_begin_with_a_pretrained_encoder(run, tmp_path, kind):
    """Passages are longer than it has positions for; the run is loaded without the folder that it came from."""
    data = run[-1].parent
    pretrained = folders.write_folder(tmp_path / "encoder", folders.CONFIGS[kind])
    precision = {"bert": "fp32", "roberta": "bf16"}[kind]
    recipe = Recipe(steps=2, evaluations=1, tokens=300, precision=precision, init=str(pretrained))
    trainer = runs.begin(
        make_task("answer"), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run", Reporter(None, Silence())
    )  # fmt: skip
    trainer.run()
    shutil.rmtree(pretrained)
    reader = regard.load(tmp_path / "run")
    given = ("Who ran?", "a dog ran . a cafe")
    one = reader(given, attention=True)
    assert one.start is None or given[1][one.start : one.end] == one.text
    assert reader([given, ("Who?", "Dogs ran.")])[0].text == one.text
    nothing = reader([("Who?", "\ufffd"), ("\ufffd", "Dogs ran.")])  # which BERT's own cleaning takes away
    assert nothing[0].text == "" or kind != "bert"
    assert nothing[1].text in "Dogs ran."


def test_questions_are_cut_by_what_is_known_of_them(run):
    task, _, records, folder = run
    asked = [one["question"].removeprefix("Who ").rstrip("?") for one in stories(150, 0)]
    passages = [one["context"] for one in stories(150, 0)][::3]
    words = [word.strip(".") for passage in passages for word in passage.split()]
    loaded = make_task("answer")
    loaded.load(folder)
    for record in records[:6]:
        verb = record.fields["question"].removeprefix("Who ").rstrip("?")
        expected = min(asked.count(verb) + words.count(verb), len(asked))
        assert [one.groups["frequency"].value(record) for one in (task, loaded)] == [expected] * 2
        answered = bool(record.fields["answers"])  # and the verb stands beside the name
        assert task.groups["distance"].value(record) == int(answered)
    unknown = Record({**records[0].fields, "question": "Who flew?"}, "x", 1)
    assert loaded.groups["frequency"].value(unknown) == 0
    far = {
        "context": "Ada, who never sang, wrote it.",
        "question": "Who wrote?",
        "answers": [{"text": "sang", "start": 15}],
    }
    assert task.groups["distance"].value(Record(far, "x", 1)) == 1
    far["answers"][0] |= {"text": "Ada", "start": 0}
    assert task.groups["distance"].value(Record({**far, "question": "?"}, "x", 1)) == 6
    with pytest.raises(ConfigError, match="Expected: a run"):
        AnswerQuestions().groups["frequency"].value(unknown)


def test_a_run_without_matches_stays_so(run, tmp_path):
    data = run[-1].parent
    trainer = runs.begin(
        make_task("answer"), RECIPE.replace(steps=2, evaluations=1, matches=False), data / "train.jsonl",
        data / "dev.jsonl", tmp_path / "run", Reporter(None, Silence()),
    )  # fmt: skip
    trainer.run()
    loaded = regard.load(tmp_path / "run").task
    assert loaded.facts()["matches"] is False
    assert run[0].facts()["matches"] is True
    streams = [next(iter(task.encode(run[2][:3]))) for task in (trainer.task, loaded, run[0])]
    assert streams[0] == streams[1] != streams[2]
    assert streams[0][:-1] == streams[2][:-1]
    path = tmp_path / "run" / "reading.json"
    facts = json.loads(path.read_text(encoding="utf8"))
    del facts["matches"]  # as a run of a time when there was no choice
    path.write_text(json.dumps(facts), encoding="utf8")
    assert regard.load(tmp_path / "run").task.facts()["matches"] is True


@pytest.mark.parametrize(
    "switch", [{"bpe_dropout": 0.2, "variants": 2}, {"r_drop": 1.0, "dropout": 0.1}], ids=str
)
def test_the_switches_for_little_data_serve_answers(run, tmp_path, switch):
    data = run[-1].parent
    recipe = RECIPE.replace(steps=4, evaluations=1, **switch)
    trainer = runs.begin(
        make_task("answer"), recipe, data / "train.jsonl", data / "dev.jsonl", tmp_path / "run", Reporter(None, Silence())
    )  # fmt: skip
    assert trainer.run().evaluated == 1


def test_two_passes_are_asked_to_agree_on_spans(run):
    """Against the formula in plain words: half of both losses, and the symmetric divergence of all spans and of none."""
    task, model, records, _ = run
    batch = {
        name: twice(stream)
        for name, stream in pack_streams(list(task.encode(records[:6])), task.streams).items()
    }
    model.train()
    model.dropout.p = 0.3
    try:
        torch.manual_seed(1)
        with consistent(2.0):
            found = task.loss(model, batch, 0.1)
        torch.manual_seed(1)
        plain = task.loss(model, batch, 0.1)
        torch.manual_seed(1)
        scores, asked = read(model, batch)
    finally:
        model.dropout.p = 0.0
        model.eval()
    chances = []
    for question in range(asked.max() + 1):
        readings = np.flatnonzero(asked == question)
        rows = [scores.spans[scores.offsets[r] : scores.offsets[r + 1]].flatten() for r in readings]
        every = torch.cat([*rows, scores.nothing[readings].mean()[None]])
        chances.append(torch.log_softmax(every[torch.isfinite(every)], 0))
    half = len(chances) // 2
    apart = sum(
        ((p.exp() - q.exp()) * (p - q)).sum() for p, q in zip(chances[:half], chances[half:], strict=True)
    )
    assert apart > 0
    torch.testing.assert_close(found, plain / 2 + 2.0 / 4 * apart)
