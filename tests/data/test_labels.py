from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from regard._errors import DataError
from regard.data.labels import LabelReader, label_numbers

LIMIT = 100


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


@pytest.fixture
def images(tmp_path):
    np.savez(tmp_path / "train.npz", images=np.zeros((3, 4, 6, 3), np.uint8))
    Image.new("RGB", (5, 7)).save(tmp_path / "dog.png")
    return tmp_path


def read(reader, path, **options):
    return list(reader.read(path, LIMIT, **options))


def test_texts_with_one_label(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "a", "label": "x"}, {"text": "b", "label": 3})
    reader = LabelReader()
    records = read(reader, path)
    assert [reader.labels(record) for record in records] == [("x",), ("3",)]
    assert (reader.input, reader.several, reader.name) == ("text", False, "text")


def test_fields_may_have_other_names(tmp_path):
    path = write(tmp_path / "a.jsonl", {"context": "a", "domain": "x", "label": 0.5, "text": None})
    reader = LabelReader("context", "domain")
    (record,) = read(reader, path)
    assert reader.labels(record) == ("x",)
    again = LabelReader(**reader.known())
    assert read(again, path)[0].fields == record.fields


def test_several_labels_are_a_list_even_of_none(tmp_path):
    rows = [{"text": "a", "labels": ["y", "x", "y"]}, {"text": "b", "labels": []}]
    reader = LabelReader()
    records = read(reader, write(tmp_path / "a.jsonl", *rows))
    assert [reader.labels(record) for record in records] == [("x", "y"), ()]
    assert reader.several


def test_tables_with_a_header_and_without(tmp_path, images):
    (tmp_path / "a.tsv").write_text("label\ttext\nx\tone two\n", encoding="utf8")
    (tmp_path / "b.tsv").write_text("one two\tx\n", encoding="utf8")
    (tmp_path / "c.tsv").write_text("image\tlabel\ndog.png\tx\n", encoding="utf8")
    (tmp_path / "a.csv").write_text('label,text\nx,"one\ntwo"\n', encoding="utf8")
    (tmp_path / "c.csv").write_text("image,label\ndog.png,x\n", encoding="utf8")
    for name in ("a.tsv", "b.tsv"):
        (record,) = read(LabelReader(), tmp_path / name)
        assert (record.fields["text"], record.fields["label"]) == ("one two", "x")
    assert read(LabelReader(), tmp_path / "a.csv")[0].fields == {"text": "one\ntwo", "label": "x"}
    for name in ("c.tsv", "c.csv"):
        reader = LabelReader()
        (record,) = read(reader, str(tmp_path / name))
        assert record.fields["image"] == str(images / "dog.png")
        assert reader.input == "image"


def test_several_files_are_read_in_turn(tmp_path):
    first = write(tmp_path / "a.jsonl", {"text": "a", "label": "x"})
    second = write(tmp_path / "b.jsonl", {"text": "b", "label": "y"})
    records = read(LabelReader(), f"{first},{second}")
    assert [(record.fields["text"], record.fields["label"]) for record in records] == [("a", "x"), ("b", "y")]
    assert records[1].place == f"{second}, line 1"


def test_pictures_are_named_by_whole_paths(images):
    rows = [
        {"image": 2, "label": "x"},
        {"image": "dog.png", "label": "y"},
        {"image": "train.npz#0", "label": "y"},
    ]
    reader = LabelReader()
    records = read(reader, write(images / "train.jsonl", *rows))
    names = [str(images / "train.npz#2"), str(images / "dog.png"), str(images / "train.npz#0")]
    assert [record.fields["image"] for record in records] == names
    assert reader.sides == [4, 5, 4]
    again = write(images / "elsewhere.jsonl", *(record.fields for record in records))
    assert [record.fields["image"] for record in read(LabelReader(), again)] == names


def test_without_answers_labels_are_not_asked_for(images):
    (images / "list.txt").write_text("dog.png\n", encoding="utf8")
    reader = LabelReader(input="image", several=False)
    (record,) = read(reader, images / "list.txt", answers=False)
    assert record.fields["image"] == str(images / "dog.png")
    (images / "texts.txt").write_text("Hello\n", encoding="utf8")
    (record,) = read(LabelReader(input="text"), images / "texts.txt", answers=False)
    assert record.fields["text"] == "Hello"


GOOD = {"text": "a", "label": "x"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": "x"}], "line 1: the field 'text' is missing. Expected: 'text' or 'image'"),
        ([{"text": "a", "image": 1, "label": "x"}], "there are a text and a picture"),
        ([{"text": "a"}], "the label is missing. Expected: 'label' or 'labels'"),
        ([{**GOOD, "labels": ["x"]}], "there are two fields of labels"),
        ([{**GOOD, "label": " "}], "a label in 'label' is empty"),
        ([{**GOOD, "label": 0.5}], "a label in 'label' is no text"),
        ([{**GOOD, "label": None}], "is no text"),
        ([{**GOOD, "label": True}], "is no text"),
        ([{"text": "a", "labels": ["x", {}]}], "a label in 'labels' is no text"),
        ([GOOD, {**GOOD, "label": ["x"]}], "line 2: single labels and lists of labels are mixed"),
        ([{**GOOD, "label": ["x"]}, GOOD], "line 2: .* Expected: a list of labels"),
        ([GOOD, {"image": 0, "label": "x"}], "line 2: texts and pictures are mixed. Expected: 'text'"),
        ([{"text": "", "label": "x"}], "the field 'text' is empty"),
        ([{"text": 5, "label": "x"}], "the field 'text' is not text"),
        ([{"text": "a" * 101, "label": "x"}], "the field 'text' is too long"),
        ([{"image": 3, "label": "x"}], "outside the array"),
        ([{"image": -1, "label": "x"}], "outside the array"),
        ([{"image": "cat.png", "label": "x"}], "there is no picture .*cat.png"),
        ([{"image": 1.5, "label": "x"}], "neither a path nor a row number"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(images, rows, message):
    path = write(images / "train.jsonl", *rows)
    with pytest.raises(DataError, match=message) as caught:
        read(LabelReader(), path)
    assert str(caught.value).startswith(f"{path}, line {len(rows)}: ")
    assert "To mend it: " in str(caught.value)


def test_all_files_hold_one_kind(tmp_path, images):
    reader = LabelReader()
    read(reader, write(tmp_path / "a.jsonl", GOOD))
    with pytest.raises(DataError, match="texts and pictures are mixed"):
        read(reader, write(tmp_path / "b.jsonl", {"image": "dog.png", "label": "x"}))


def test_a_label_that_training_never_saw_is_named():
    known = {f"label {number}": number for number in range(10)}
    assert label_numbers(["label 3", "label 0"], known, "p") == [3, 0]
    with pytest.raises(
        DataError, match=r"p: the label 'x' was never seen in training. Expected: one of 10: 'label 0'.*, ..."
    ):
        label_numbers(["label 3", "x"], known, "p")
