from __future__ import annotations

import pytest

from regard._errors import ConfigError
from regard.data.captions import CaptionReader
from regard.data.pictures import load_picture
from regard.data.questions import read_questions
from regard.data.records import read_records
from regard.samples import sample_path


def test_the_sample_is_whole_small_and_held_out() -> None:
    paths = sample_path("translate")
    pairs = {
        split: [
            (record.fields["source"], record.fields["target"])
            for record in read_records(path, ("source", "target"))
        ]
        for split, path in paths.items()
    }
    assert {split: len(rows) for split, rows in pairs.items()} == {"train": 22_464, "dev": 500, "test": 500}
    assert max(len(source.split()) for rows in pairs.values() for source, _ in rows) == 8
    for side in (0, 1):
        train = {row[side] for row in pairs["train"]}
        assert train.isdisjoint(row[side] for split in ("dev", "test") for row in pairs[split])
    folder = paths["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    assert "CC BY 2.0 FR" in (folder / "NOTICE.md").read_text(encoding="utf-8")


def test_the_questions_are_whole_small_and_of_other_articles() -> None:
    paths = sample_path("answer")
    records = {split: list(read_questions(path, 20_000)) for split, path in paths.items()}
    assert {split: len(rows) for split, rows in records.items()} == {"train": 3_286, "dev": 297, "test": 367}
    assert all(record.fields["answers"] for rows in records.values() for record in rows)
    passages = [{record.fields["context"] for record in rows} for rows in records.values()]
    assert [len(one) for one in passages] == [506, 40, 60]
    assert len(set.union(*passages)) == 606
    folder = paths["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 400_000
    assert "CC BY-SA 4.0" in (folder / "NOTICE.md").read_text(encoding="utf-8")


def test_an_unknown_task() -> None:
    with pytest.raises(ConfigError, match="did you mean 'translate'"):
        sample_path("transalte")


def test_the_languages_are_whole_small_and_held_out() -> None:
    paths = sample_path("classify")
    texts = {
        split: [
            (record.fields["text"], record.fields["label"])
            for record in read_records(path, ("text", "label"))
        ]
        for split, path in paths.items()
    }
    assert {split: len(rows) for split, rows in texts.items()} == {"train": 4_825, "dev": 300, "test": 600}
    for rows in texts.values():
        assert {label for _, label in rows} == {"English", "French", "German"}
        assert len({text for text, _ in rows}) == len(rows)
    train = {text for text, _ in texts["train"]}
    assert train.isdisjoint(text for split in ("dev", "test") for text, _ in texts[split])
    folder = paths["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    assert "CC BY 2.0" in (folder / "NOTICE.md").read_text(encoding="utf-8")


def test_the_emoji_are_whole_small_and_held_out() -> None:
    reader = CaptionReader(("en", "de", "zh"))
    paths = sample_path("caption")
    names = {}
    for split, count in (("train", 1149), ("dev", 81), ("test", 139)):
        records = list(reader.read(paths[split], 1000))
        assert len(records) == count
        assert all(len(list(reader.every(record))) == 3 for record in records)
        names[split] = {record.fields["name"] for record in records}
        assert len(names[split]) == count
        assert load_picture(records[-1].fields["image"], "", 64).pixels.shape == (32, 32, 3)
    assert not names["train"] & (names["dev"] | names["test"])
    assert not names["dev"] & names["test"]
    folder = paths["train"].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 600_000
    notice = (folder / "NOTICE.md").read_text(encoding="utf8")
    assert "Apache License 2.0" in notice
    assert "UNICODE LICENSE V3" in notice
