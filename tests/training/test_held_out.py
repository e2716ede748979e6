"""Which records are held out for dev: whole groups, and nothing that training would then lack."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regard import samples
from regard._errors import DataError
from regard.tasks import make_task
from regard.training import runs
from regard.training.held_out import spacing, told_apart
from regard.training.recipe import Recipe


class Plain:
    """A task that says nothing of its records."""


class Grouped:
    def held_together(self, record):
        return record[0]


class Classed:
    def asks_for(self, record):
        return record


class Both(Grouped, Classed):
    """Groups by the first letter."""


@given(st.integers(0, 60), st.integers(2, 9))
def test_one_record_of_so_many_is_held_out(count, every):
    found = list(told_apart(Plain(), range(count), every))
    assert [record for record, _ in found] == list(range(count))
    assert [record for record, held in found if held] == list(range(0, count, every))


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(2, 5))
def test_a_group_is_held_out_whole(letters, every):
    held = {True: set(), False: set()}
    for letter, is_held in told_apart(Grouped(), letters, every):
        held[is_held].add(letter)
    assert not held[True] & held[False]
    assert len(held[True]) == -(-len(set(letters)) // every)


@given(st.lists(st.sampled_from(["a", "b", "c", "de", "da"]), max_size=40), st.integers(2, 5))
def test_training_has_what_is_held_out(classes, every):
    for task in (Classed(), Both()):
        found = list(told_apart(task, classes, every))
        known = {letter for record, held in found if not held for letter in record}
        assert all(letter in known for record, held in found if held for letter in record)
    found = list(told_apart(Classed(), classes, every))
    assert sum(held for _, held in found) <= -(-len(classes) // every)
    if len(set(classes)) < len(classes):
        assert any(held for _, held in found)


def test_how_many_are_held_out_depends_on_how_many_there_are():
    assert [spacing(count, "x") for count in (2, 30, 100, 10_000, 1_000_000)] == [2, 30, 20, 20, 2000]
    with pytest.raises(DataError, match=r"x: too little .* Received: 1\. .* with --dev"):
        spacing(1, "x")


def test_questions_on_one_passage_are_held_out_together():
    task = make_task("answer")
    train = samples.sample_path("answer")["train"]
    prepared = runs.prepare(task, Recipe(steps=1), train, None)
    records = task.read(train, 100_000)
    passages = {True: set(), False: set()}
    for record, held in told_apart(task, records, prepared.every):
        passages[held].add(record.fields["context"])
    assert {record.fields["context"] for record in prepared.dev_records} == passages[True]
    assert len(passages[True]) > 10
    assert not passages[True] & passages[False]


@pytest.mark.parametrize("name", ["translate", "roles"])
def test_what_is_read_twice_stands_on_one_side(name, tmp_path):
    task = make_task(name)
    file = tmp_path / "twice.jsonl"
    row = {"words": ["a", "b"], "predicate": 0, "roles": ["B-V", "B-ARG1"], "target": "x"}
    rows = [
        row | {"id": number, "source": f"{number % 30}", "words": ["a", str(number % 30)]}
        for number in range(90)
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf8")
    sides = {True: set(), False: set()}
    for record, held in told_apart(task, task.read(file, 1000), 5):
        sides[held].add(str(record.fields.get("source") or record.fields["words"]))
    assert (len(sides[True]), len(sides[False])) == (6, 24)


def test_the_only_example_of_a_class_is_not_held_out(tmp_path):
    file = tmp_path / "few.tsv"
    lines = ["rare\ta cat"] + [f"common\tdog {number}" for number in range(60)]
    file.write_text("label\ttext\n" + "\n".join(lines) + "\n", encoding="utf8")
    prepared = runs.prepare(make_task("classify"), Recipe(steps=1), file, None)
    assert [record.fields["label"] for record in prepared.dev_records] == ["common"] * 4
    file.write_text("label\ttext\na\tone\nb\ttwo\n", encoding="utf8")
    with pytest.raises(DataError, match="Received: 2 without one that shows nothing new"):
        runs.prepare(make_task("classify"), Recipe(steps=1), file, None)


def test_all_captions_of_a_picture_are_held_out_together(tmp_path):
    names = [f"{number}.png" for number in range(40)]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    file = tmp_path / "captions.csv"
    rows = [f"{name},caption {number}\n" for name in names for number in range(5)]
    file.write_text("image,caption\n" + "".join(rows), encoding="utf8")
    prepared = runs.prepare(make_task("caption"), Recipe(steps=1), file, None)
    counts = Counter(record.fields["image"] for record in prepared.dev_records)
    assert list(counts.values()) == [5, 5]


def test_what_is_classified_is_not_held_out_where_training_has_it(tmp_path):
    texts, pictures = tmp_path / "texts.csv", tmp_path / "pictures.jsonl"
    texts.write_text("text,label\n" + "".join(f"text {n % 30},{n % 2}\n" for n in range(90)))
    rows = [json.dumps({"image": number % 30, "label": str(number % 2)}) for number in range(90)]
    pictures.write_text("\n".join(rows))
    np.savez(tmp_path / "pictures.npz", images=np.zeros((30, 8, 8), np.uint8))
    for file, name in ((texts, "text"), (pictures, "image")):
        prepared = runs.prepare(make_task("classify"), Recipe(steps=1), file, None)
        counts = Counter(record.fields[name] for record in prepared.dev_records)
        assert list(counts.values()) == [3]


def test_a_class_that_only_a_text_seen_before_has_is_trained_on(tmp_path):
    file = tmp_path / "two.csv"
    file.write_text("text,label\n" + "".join(f"text {n},a\n" for n in range(4)) + "text 1,b\n")
    task = make_task("classify")
    prepared = runs.prepare(task, Recipe(steps=1), file, None)
    found = told_apart(task, task.read(file, 100), prepared.every)
    assert [held for _, held in found] == [False, True, False, False, False]
