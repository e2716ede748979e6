from __future__ import annotations

import gzip
import itertools
import json

import pytest

from regard._errors import DataError
from regard.data.checks import Record
from regard.data.lines import read_lines
from regard.data.texts import PART, joined, prompt_record, read_prompts, read_texts

LINE = "All the world's a stage.\n"


def texts(source, **options):
    return [record.fields["text"] for record in read_texts(source, 20_000, **options)]


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
@pytest.mark.parametrize("size", [1, 3, 500])
def test_the_parts_of_a_file_are_the_file(tmp_path, size, end):
    text = "\n" + LINE * size + "half a line" + end
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    records = list(read_texts(tmp_path / "a.txt", 20_000))
    assert "".join(record.fields["text"] for record in records) == text
    assert [record.fields["_part"] for record in records] == list(range(len(records)))
    assert [record.fields["_last"] for record in records] == [False] * (len(records) - 1) + [True]
    assert all(PART <= len(record.fields["text"]) < 2 * PART for record in records[:-1])
    for before, after in itertools.pairwise(records):
        assert after.line == before.line + before.fields["text"].count("\n")


def test_windows_line_ends_are_line_feeds(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfone\r\ntwo\rhalf\r\n"))
    assert texts(path) == ["one\ntwo\rhalf\n"]
    assert [line for _, line in read_lines(path)] == ["one", "two\rhalf"]


def test_files_lines_and_records_are_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "c.jsonl").write_text('{"text": "four\\nfive"}\n{"text": "six"}\n')
    (tmp_path / "d.tsv").write_text("body\tother\nseven\t8\n")
    (tmp_path / "e.csv").write_text('body,other\n"nine, ten",8\n')
    both = f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}"
    assert texts(both) == ["one\ntwo\n", "three\n"]
    assert texts(both, documents="lines") == ["one", "two", "three"]
    assert texts(tmp_path / "c.jsonl") == ["four\nfive", "six"]
    assert texts(tmp_path / "d.tsv", field="body") == ["seven"]
    assert texts(tmp_path / "e.csv", field="body") == ["nine, ten"]


def test_parts_that_follow_each_other_are_joined(tmp_path):
    (tmp_path / "a.txt").write_text(LINE * 500)
    (tmp_path / "b.txt").write_text(LINE)
    both = f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}"
    records = list(read_texts(both, 20_000))
    assert [len(some) for some in joined(records)] == [len(records) - 1, 1]
    assert [len(some) for some in joined(records[:2] + records[3:])] == [2, len(records) - 4, 1]
    assert [len(some) for some in joined([Record({"text": "a"}, "", 1)] * 2)] == [1, 1]
    assert list(joined([])) == []


def test_so_many_parts_are_joined_that_they_fit_into_memory(monkeypatch):
    monkeypatch.setattr("regard.data.texts.MOST", 3)
    parts = [Record({"text": "a", "_document": "d", "_part": number}, "d", 1) for number in range(7)]
    assert [len(some) for some in joined(parts)] == [3, 3, 1]


def test_parts_that_were_held_out_are_read_again(tmp_path):
    (tmp_path / "a.txt").write_text("\n" * 3000 + LINE * 300)
    records = list(read_texts(tmp_path / "a.txt", 20_000))
    kept = tmp_path / "dev.jsonl"
    kept.write_text("".join(json.dumps(record.fields) + "\n" for record in records))
    assert [one.fields for one in read_texts(kept, 20_000)] == [one.fields for one in records]


def test_columns_of_any_name_are_no_marks_of_parts(tmp_path):
    own = {"document": "d", "part": "one", "last": "no", "_document": 7, "_part": "two", "_last": 0}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "title", "body": f"b{n}", **own}) + "\n" for n in range(3)))
    assert texts(path, field="body") == ["b0", "b1", "b2"]
    records = list(read_texts(path, 20_000))
    assert records[0].fields["part"] == "one"
    assert [len(some) for some in joined(records)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt", b" \n\n", "the text is empty"),
        ("a.txt", b"one\ntwo \xff\n", "line 2, byte 5"),
        ("a.txt", b"x" * 30_000, "the field 'line' is too long"),
        ("a.jsonl", b'{"text": "a"}\n{"text": " "}\n', "line 2: the field 'text' is empty"),
        ("a.jsonl", b'{"test": "a"}\n', "did you mean 'test'|line 1: the field 'text' is missing"),
        ("a.jsonl", b'{"text": 3}\n', "not text"),
        ("a.jsonl", b'{"text": 3, "_part": 0}\n', "not text"),
    ],
)
def test_bad_text_is_met_at_the_door(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        texts(tmp_path / name)
    assert "To mend it" in str(caught.value)


def test_prompts_are_lines_or_records(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nthree\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "To be", "candidates": [" or", " and"]}\n')
    assert [one.fields["prompt"] for one in read_prompts(tmp_path / "a.txt", 100)] == ["one", "", "three"]
    (record,) = read_prompts(tmp_path / "b.jsonl", 100)
    assert record.fields == {"prompt": "To be", "candidates": (" or", " and")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no prompt"),
        ({"prompt": 3}, "no prompt"),
        ({"prompt": "a", "candidates": "b"}, "candidates are no texts"),
        ({"prompt": "a", "candidates": []}, "candidates are no texts"),
        ({"prompt": "a", "candidates": ["b", ""]}, "candidates are no texts"),
        ({"prompt": "a" * 101}, "too long"),
    ],
)
def test_bad_prompts_are_named(fields, message):
    with pytest.raises(DataError, match=f"f, line 7.*{message}"):
        prompt_record(Record(fields, "f", 7), 100)
