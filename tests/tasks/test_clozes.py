from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrained_folders import CONFIGS, write_folder
from regard import samples
from regard._errors import ConfigError
from regard.data.matches import units_of
from regard.tasks import make_task
from regard.tasks._clozes import MOST, clozes
from regard.tasks._examples import rows_of
from regard.training import runs
from regard.training.phases import Rehearsal, packed
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SMALL = Recipe(
    steps=8, vocabulary=400, dim=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=1, dropout=0.0, tokens=1200,
    evaluations=1, precision="fp32", threads=1, pretrain=0.5,
)  # fmt: skip
COMMON = {"was": 0, "the": 0, "in": 0, "of": 0, "a": 0, "it": 0}
LETTERS = st.text(st.sampled_from("Ab1 .-'!\n東京のアを"), max_size=60)


@given(passage=LETTERS, count=st.integers(0, 5), key=st.integers(0, 2**63))
def test_answers_stand_where_they_say_and_questions_say_something(passage, count, key):
    made = list(clozes(passage, {"b": 0}, count, key))
    assert len(made) <= count
    assert made == list(clozes(passage, {"b": 0}, count, key))
    for one in made:
        assert units_of(one.question)
        assert one.answers
        for answer in one.answers:
            begin = answer["start"]
            assert passage[begin : begin + len(answer["text"])] == answer["text"]
            assert 0 < len(units_of(answer["text"])) <= MOST


def test_a_question_is_of_one_sentence_and_says_nothing_of_its_gap():
    passage = "It was the Silk Road in Asia. A wall of 1903 was the border."
    every = list(clozes(passage, COMMON, 100, 7))
    answers = [one.answers[0]["text"] for one in every]
    assert answers == ["Silk Road", "Asia", "wall", "1903", "border"]
    for one, answer in zip(every, answers, strict=True):
        sentence = passage[:29] if answer in passage[:29] else passage[29:]
        assert set(units_of(one.question)) <= set(units_of(sentence)) - set(units_of(answer))


def test_every_place_of_the_same_words_is_an_answer():
    passage = "It was the Po. The Po of Portuguese Asia was it."
    first, second = (one.answers for one in clozes(passage, COMMON, 100, 1) if one.answers[0]["text"] == "Po")
    assert first == [{"text": "Po", "start": 11}, {"text": "Po", "start": 19}]
    assert second == [{"text": "Po", "start": 19}, {"text": "Po", "start": 11}]


def test_other_keys_ask_otherwise():
    passage = "The bridge of stone by Ada Lovelace was the oldest in town in 1903, a year of rain."
    asked = [tuple(one.question for one in clozes(passage, COMMON, 3, key)) for key in range(20)]
    assert len(set(asked)) > 10
    assert all(len(questions) <= 3 for questions in asked)


def test_a_sentence_that_is_all_gap_asks_nothing():
    assert list(clozes("Silk Road.", {}, 8, 1)) == []
    assert list(clozes("", {}, 8, 1)) == []
    assert list(clozes("It was in the.", COMMON, 8, 1)) == []
    assert list(clozes("Paris, Paris.", COMMON, 8, 1)) == []


def test_characters_of_small_words_are_no_answers():
    answers = [one.answers[0]["text"] for one in clozes("東京の人は1903年に来た。那是北京的。", {}, 100, 1)]
    assert answers[:3] == ["東京", "人", "1903年"]
    assert answers[-1] == "北京"


def begin(data, folder, **options):
    recipe = SMALL.replace(**options)
    return runs.begin(make_task("answer"), recipe, data, data, folder, Reporter(None, Silence()))


@pytest.fixture
def begun(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)
    return begin(samples.sample_path("answer")["dev"], tmp_path / "run")


def test_passages_are_rehearsed_with_questions_made_of_them(begun):
    task, phase = begun.task, begun.pretraining
    assert isinstance(phase, Rehearsal)
    assert phase.learns == "answers questions made of the passages, in"
    streams = {name: packed(one) for name, one in begun.texts.gather([0]).items()}
    lengths = streams["lengths"].values.tolist()
    texts = np.split(streams["texts"].values.numpy(), np.cumsum(lengths)[:-1])
    readings = rows_of(streams["readings"], 2)
    for reading, place, length in rows_of(streams["golds"], 3):
        question, window = readings[reading]
        asked, told = (task.tokenizer.decode(texts[number].tolist()) for number in (question, window))
        answer = task.tokenizer.decode(texts[window][place : place + length].tolist())
        assert answer in told
        assert asked
    for _ in range(2):
        begun.update(0.25)
    assert begun.batches.state_dict()["batch"] == 0  # the task itself has not begun


def test_all_that_reads_learns_from_the_rehearsal(begun):
    before = {name: value.detach().clone() for name, value in begun.model.named_parameters()}
    begun.update(0.25)
    still = {name for name, value in begun.model.named_parameters() if torch.equal(value, before[name])}
    assert not {name for name in still if name.startswith(("encoder", "blocks", "ends", "pair"))}


def test_a_pretrained_reader_rehearses_too(tmp_path):
    init = str(write_folder(tmp_path / "m", CONFIGS["bert"]))
    recipe = Recipe(init=init, pretrain=0.5, steps=4, evaluations=1, tokens=1200, precision="fp32", threads=1)
    sample = samples.sample_path("answer")["dev"]
    trainer = runs.begin(
        make_task("answer"), recipe, sample, sample, tmp_path / "run", Reporter(None, Silence())
    )
    assert isinstance(trainer.pretraining, Rehearsal)
    trainer.update(0.25)
    assert trainer.batches.state_dict()["batch"] == 0


def test_unlabelled_passages_are_rehearsed_too(begun, tmp_path):
    more = tmp_path / "more.txt"
    more.write_text("The Po was a river of Italy in 1903.\nIt was the same.\n", encoding="utf8")
    trainer = begin(samples.sample_path("answer")["dev"], tmp_path / "more", unlabelled=str(more))
    assert len(begun.texts) + 2 <= len(trainer.texts) <= len(begun.texts) + 4  # two turns of one or both
    assert len(trainer.store) == len(begun.store)


SAME = '{"context": "A dog ran.", "question": "Who?", "answers": ANSWERS}\n'


def test_a_passage_that_asks_nothing_brings_its_own_questions_and_is_rehearsed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)
    file = tmp_path / "same.jsonl"
    line = SAME.replace("ANSWERS", '[{"text": "dog", "start": 2}]')
    other = line.replace("A dog ran.", "A dog sat.")
    file.write_text((line + other) * 15, encoding="utf8")  # questions of one passage do not stand together
    trainer = begin(file, tmp_path / "run")
    assert len(trainer.texts) == 2 * 2  # two examples of each passage
    golds = trainer.texts.gather([0])["golds"][0]
    assert len(golds) == 3  # one answer: where, from which piece on, and how many


def test_texts_of_which_nothing_can_be_asked_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)
    file = tmp_path / "same.jsonl"
    file.write_text(SAME.replace("ANSWERS", "[]") * 30, encoding="utf8")
    with pytest.raises(ConfigError, match=r"could make none\. Set pretrain to 0"):
        begin(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()
