from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from regard._errors import DataError
from regard.data.captions import CaptionReader
from regard.data.records import Record


def write(folder, *rows, name="train.jsonl"):
    np.savez(folder / f"{name.partition('.')[0]}.npz", images=np.zeros((3, 4, 5, 3), np.uint8))
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def test_pictures_come_as_rows_and_as_files(tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    path = write(
        tmp_path,
        {"image": 2, "captions": ["A dog.", "One dog."]},
        {"image": "a.png", "caption": "A cat."},
        {"image": "train.npz#1", "captions": "A fox."},
    )
    records = list(CaptionReader().read(path, 100))
    assert [record.fields["image"] for record in records] == [
        f"{tmp_path}/train.npz#2", f"{tmp_path}/a.png", f"{tmp_path}/train.npz#1",
    ]  # fmt: skip
    reader = CaptionReader()
    assert [reader.captions(record, None) for record in records] == [
        ["A dog.", "One dog."], ["A cat."], ["A fox."],
    ]  # fmt: skip


def test_several_files_are_read_in_turn_each_with_its_own_pictures(tmp_path):
    paths = [write(tmp_path, {"image": 0, "caption": "A dog."}, name=name) for name in ("a.jsonl", "b.jsonl")]
    found = list(CaptionReader().read(",".join(map(str, paths)), 100))
    assert [record.fields["image"] for record in found] == [f"{tmp_path}/{name}.npz#0" for name in "ab"]


def test_a_table_has_columns(tmp_path):
    write(tmp_path)
    path = tmp_path / "train.tsv"
    path.write_text("image\tcaption\ntrain.npz#0\tA dog.\n", encoding="utf8")
    (record,) = CaptionReader().read(path, 100)
    assert CaptionReader().captions(record, None) == ["A dog."]


def test_languages_stand_in_fields_of_their_own():
    record = Record({"captions": ["A dog."], "captions_de": ["Ein Hund."], "caption_zh": "狗"}, "x", 1)
    reader = CaptionReader(("en", "de", "fr", "zh"))
    assert list(reader.every(record)) == [(0, "A dog."), (1, "Ein Hund."), (3, "狗")]
    assert reader.required(record, "zh") == ["狗"]
    with pytest.raises(
        DataError, match=r"x, line 1: the captions are missing.*'captions_fr' or 'caption_fr'"
    ):
        reader.required(record, "fr")
    assert CaptionReader(("en",)).captions(
        Record({"captions_en": ["a"], "captions": ["b"]}, "x", 1), "en"
    ) == ["a"]


def test_the_first_language_is_needed_to_train_any_to_score(tmp_path):
    path = write(tmp_path, {"image": 0, "captions_de": ["Ein Hund."]})
    with pytest.raises(DataError, match=r"line 1: the captions are missing. Expected: 'captions_en' or"):
        list(CaptionReader(("en", "de")).read(path, 100))
    assert len(list(CaptionReader(("en", "de"), complete=False).read(path, 100))) == 1
    with pytest.raises(DataError, match="the captions are missing"):
        list(CaptionReader(("en",), complete=False).read(path, 100))
    assert len(list(CaptionReader(("en",)).read(path, 100, answers=False))) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"captions": ["A dog."]}, "the field 'image' is missing"),
        ({"imege": 0, "captions": ["A dog."]}, "did you mean 'imege'"),
        ({"image": 3, "captions": ["A dog."]}, r"outside the array 'images'.*a row from 0 to 2. Received: 3"),
        ({"image": -1, "captions": ["A dog."]}, "outside the array"),
        ({"image": None, "captions": ["A dog."]}, "neither a path nor a row number"),
        ({"image": "b.png", "captions": ["A dog."]}, "there is no picture"),
        ({"image": "train.jsonl", "captions": ["A dog."]}, "is no picture that can be read"),
        ({"image": 0, "captions": []}, r"the field 'captions' holds no captions.*Received: a list, \[\]"),
        ({"image": 0, "captions": None}, "holds no captions"),
        ({"image": 0, "captions": {"en": "A dog."}}, "holds no captions"),
        ({"image": 0, "captions": ["A dog.", " "]}, "the field 'captions' is empty"),
        ({"image": 0, "captions": ["A dog.", 7]}, "the field 'captions' is not text"),
        ({"image": 0, "captions": ["\ud83d"]}, "half of a character"),
        ({"image": 0, "captions": ["x" * 101]}, "too long"),
        ({"image": 0, "caption_de": "Ein Hund."}, r"the captions are missing.*'captions' or 'caption'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, row, message):
    path = write(tmp_path, {"image": 0, "captions": ["A dog."]}, row)
    with pytest.raises(DataError, match=f"{path}, line 2: .*{message}.*To mend it"):
        list(CaptionReader().read(path, 100))


def test_a_picture_that_is_too_large_is_refused_by_its_head(tmp_path, monkeypatch):
    from regard.data import pictures

    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    path = write(tmp_path, {"image": "a.png", "caption": "A dog."})
    monkeypatch.setattr(pictures, "MAX_PIXELS", 599)
    with pytest.raises(DataError, match=r"line 1: the picture is too large.*30 x 20"):
        list(CaptionReader().read(path, 100))
