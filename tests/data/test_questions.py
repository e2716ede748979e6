from __future__ import annotations

import gzip
import json

import pytest

from regard._errors import DataError
from regard.data.questions import read_passages, read_questions

GOOD = {
    "id": "a",
    "context": "Ada wrote notes.",
    "question": "Who wrote?",
    "answers": [{"text": "Ada", "start": 0}],
}


def write(path, *records):
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf8")
    return path


def nested(*questions, context="Ada wrote notes."):
    return {
        "version": "v2.0",
        "data": [{"title": "x", "paragraphs": [{"context": context, "qas": list(questions)}]}],
    }


def test_lines_are_read_as_they_are(tmp_path):
    none = {**GOOD, "answers": []}
    records = list(read_questions(write(tmp_path / "a.jsonl", GOOD, none), 100))
    assert [record.fields for record in records] == [GOOD, none]
    assert records[1].place.endswith("a.jsonl, line 2")


def test_several_files_are_read_in_turn(tmp_path):
    first, second = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.jsonl", {**GOOD, "id": "b"})
    for source in (f"{first},{second}", (first, str(second))):
        assert [record.fields["id"] for record in read_questions(source, 100)] == ["a", "b"]


def test_squad_s_own_json(tmp_path):
    asked = {
        "id": "a",
        "question": "Who wrote?",
        "answers": [{"text": "Ada", "answer_start": 0}],
        "is_impossible": False,
    }
    absent = {"id": "b", "question": "Who sang?", "answers": [], "is_impossible": True}
    path = tmp_path / "train.json.gz"
    with gzip.open(path, "wt", encoding="utf8") as file:
        json.dump(nested(asked, absent), file, indent=1)
    found = [record.fields for record in read_questions(path, 100)]
    assert found == [GOOD, {**GOOD, "id": "b", "question": "Who sang?", "answers": []}]


def test_answers_in_columns(tmp_path):
    columns = {**GOOD, "answers": {"text": ["Ada", "notes"], "answer_start": [0, 10]}}
    (record,) = read_questions(write(tmp_path / "a.jsonl", columns), 100)
    assert record.fields["answers"] == [{"text": "Ada", "start": 0}, {"text": "notes", "start": 10}]


def test_a_prediction_needs_no_answers(tmp_path):
    record = {"context": "x", "question": "y", "answers": "whatever"}
    assert len(list(read_questions(write(tmp_path / "a.jsonl", record), 100, answers=False))) == 1


def test_passages_are_read_without_questions(tmp_path):
    lines = write(tmp_path / "a.jsonl", GOOD, {"context": "Bob sang."})
    text = tmp_path / "b.txt"
    text.write_text("Cleo ran.\nDan slept.\n", encoding="utf8")
    paragraphs = write(
        tmp_path / "c.json",
        {"data": [{"paragraphs": [{"context": "Eve cooked.", "qas": []}, {"context": "Finn swam."}]}]},
    )
    found = read_passages(f"{lines},{text},{paragraphs}", 100)
    assert [one.fields["context"] for one in found] == [
        "Ada wrote notes.", "Bob sang.", "Cleo ran.", "Dan slept.", "Eve cooked.", "Finn swam.",
    ]  # fmt: skip


def test_a_passage_that_cannot_be_used_is_named(tmp_path):
    file = write(tmp_path / "a.jsonl", GOOD, {"text": "Bob sang."})
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: the field 'context' is missing"):
        list(read_passages(file, 100))
    with pytest.raises(DataError, match="too long"):
        list(read_passages(write(tmp_path / "b.jsonl", GOOD), 5))
    other = write(tmp_path / "c.json", {"data": [{"paragraphs": [{"text": "Eve cooked."}]}]})
    with pytest.raises(DataError, match="this is not SQuAD's JSON"):
        list(read_passages(other, 100))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": [{"text": "notes", "start": 9}]}, r"line 2: an answer does not stand .* write start 10"),
        ({"answers": [{"text": "Bob", "start": 0}]}, "copy the answer from the passage"),
        ({"answers": [{"text": "Ada", "start": -16}]}, "does not stand where it says"),
        ({"answers": [{"text": " ", "start": 3}]}, "an answer is empty"),
        ({"answers": [{"text": "Ada"}]}, "an answer is not whole"),
        ({"answers": [{"text": "Ada", "start": True}]}, "an answer is not whole"),
        ({"answers": ["Ada"]}, "an answer is not whole"),
        ({"answers": "Ada"}, "'answers' is no list"),
        ({"answers": {"text": ["Ada"], "answer_start": []}}, "'answers' is no list"),
        ({"answers": None}, "'answers' is no list"),
        ({"question": " "}, "'question' is empty"),
        ({"context": 3}, "'context' is not text"),
        ({"context": "Ada" * 100}, "'context' is too long"),
    ],
)
def test_a_bad_record_is_named(tmp_path, change, message):
    path = write(tmp_path / "a.jsonl", GOOD, {**GOOD, **change})
    with pytest.raises(DataError, match=message):
        list(read_questions(path, 100))


def test_missing_answers(tmp_path):
    record = {"context": "x", "question": "y", "answer": "x"}
    with pytest.raises(DataError, match=r"'answers' is missing.*did you mean 'answer'"):
        list(read_questions(write(tmp_path / "a.jsonl", record), 100))


def test_a_bad_answer_in_nested_json_is_named_by_its_question(tmp_path):
    asked = {"id": "q7", "question": "Who?", "answers": [{"text": "Bob", "answer_start": 0}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(nested(asked)))
    with pytest.raises(DataError, match=r"a\.json, question 'q7': an answer does not stand"):
        list(read_questions(path, 100))


def test_what_lacks_in_nested_json_is_named_by_its_place(tmp_path):
    path = write(tmp_path / "a.json", nested({"id": "q7", "answers": []}))
    place = r"a\.json, article 1, paragraph 1, question 1"
    with pytest.raises(DataError, match=rf"{place}: this is not SQuAD's JSON: 'question' is missing"):
        list(read_questions(path, 100))
    path = write(tmp_path / "b.json", {"data": [{"paragraphs": [{"context": "x", "qas": 3}]}]})
    with pytest.raises(DataError, match=r"paragraph 1: this is not SQuAD's JSON: 'qas' is no list"):
        list(read_questions(path, 100))


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"data": [{"title": "x"}]}', '{"data": [{"paragraphs": [{"qas": [{}]}]}]}']
)
def test_json_of_another_form(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match="this is not SQuAD's JSON"):
        list(read_questions(path, 100))


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("context\tquestion\nx\ty\n")
    with pytest.raises(DataError, match="format of this file is not known"):
        read_questions(path, 100)
    with pytest.raises(DataError, match="file not found"):
        read_questions(tmp_path / "b.jsonl", 100)
