"""Question answering by the command line, on the sample that ships."""

from __future__ import annotations

import json

import pytest

from regard.cli import main
from regard.samples import sample_path

PASSAGE = "Ada wrote the notes in 1843.\nBob read them."


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny):
    """The folder of a run of four updates on the sample, and a passage in a file; not to be changed."""
    folder = tmp_path_factory.mktemp("answer")
    (folder / "text.txt").write_text(PASSAGE, encoding="utf8")
    data = ("--train", str(sample_path("answer")["dev"]), "--dev", str(sample_path("answer")["dev"]))
    assert main(["train", "answer", *data, "--out", str(folder / "run"), *tiny, "--quiet"]) == 0
    return folder


def test_questions_about_a_passage(reader, regard_command):
    command = ("predict", reader / "run", "Who wrote?", "When?", "--passage", reader / "text.txt")
    lines = regard_command(*command).out.splitlines()
    entries = [json.loads(line) for line in regard_command(*command, "--json").out.splitlines()]
    assert [" ".join(entry["text"].split()) for entry in entries] == lines
    assert [entry["question"] for entry in entries] == ["Who wrote?", "When?"]
    assert all(PASSAGE[entry["start"] : entry["end"]] == entry["text"] for entry in entries)


def test_more_than_one_answer_is_asked_for(reader, regard_command):
    command = ("predict", reader / "run", "Who wrote?", "--passage", reader / "text.txt", "--candidates", "2")
    entry = json.loads(regard_command(*command, "--json").out)
    assert [PASSAGE[one["start"] : one["end"]] for one in entry["candidates"]] == [
        one["text"] for one in entry["candidates"]
    ]
    assert len(entry["candidates"]) == 2


def test_how_long_a_passage_may_be_can_be_said(reader, regard_command, refused, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(PASSAGE * 1000, encoding="utf8")
    command = ("predict", reader / "run", "Who wrote?", "--passage", long)
    assert "raise the limit with --max-characters" in refused(*command)
    assert regard_command(*command, "--max-characters", "50000").code == 0
    record = {"question": "Who?", "context": PASSAGE, "answers": [{"text": "Ada", "start": 0}]}
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(record))
    assert "at most 10 characters" in refused(
        "evaluate", reader / "run", "--data", data, "--max-characters", "10"
    )
    both = ("compare", reader / "run", reader / "run", "--data", data)
    assert "at most 10 characters" in refused(*both, "--max-characters", "10")


def test_questions_that_are_piped_in(reader, regard_command):
    result = regard_command(
        "predict", reader / "run", "--passage", reader / "text.txt", stdin=b"Who?\nWhen?\n"
    )
    assert len(result.out.splitlines()) == 2
    held = regard_command(
        "predict", reader / "run", "--passage", reader / "text.txt", stdin=b"Who?\n\nWhen?\n"
    )
    first, second = result.out.splitlines()
    assert (held.code, held.out) == (0, f"{first}\n\n{second}\n")


def test_plain_questions_have_no_passage(reader, refused, tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("Who?\n\n", encoding="utf-8")
    assert "the format of this file is not known" in refused("predict", reader / "run", "--input", path)


def test_questions_of_a_file_and_a_page(reader, regard_command, tmp_path):
    records = [{"question": question, "context": PASSAGE} for question in ("Who?", "When?")]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(regard_command("predict", reader / "run", "--input", path).out.splitlines()) == 2
    page = tmp_path / "page.html"
    command = ("predict", reader / "run", "Who?", "--passage", reader / "text.txt", "--attention", page)
    assert regard_command(*command).code == 0
    assert "Who" in page.read_text(encoding="utf8")


def test_scores(reader, regard_command):
    data = sample_path("answer")["dev"]
    result = regard_command("evaluate", reader / "run", "--data", data, "--json")
    scores = json.loads(result.out)
    assert scores["count"] == 297
    assert set(scores["signatures"]) == {"f1", "exact"}
    assert "beam" not in scores
    assert "297 examples" in regard_command("evaluate", reader / "run", "--data", data).out


@pytest.mark.parametrize("name", ["frequency", "distance"])
def test_scores_of_parts(reader, regard_command, name):
    data = ("--data", sample_path("answer")["dev"], "--by", name)
    parts = json.loads(regard_command("evaluate", reader / "run", *data, "--json").out)["by"]
    assert (parts["name"], sum(bucket["count"] for bucket in parts["buckets"])) == (name, 297)
    assert all({"f1", "exact"} == set(bucket["scores"]) for bucket in parts["buckets"])
    assert len(parts["buckets"]) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Who?",), "a question without a passage"),
        (("Who?", "--passage", "text.txt", "--beam", "2"), "'answer' knows no such option. Received: --beam"),
        (("--input", "text.txt", "--passage", "text.txt"), "without --input. Received: --input too"),
        (("Who?", "--passage", "none.txt"), "file not found"),
        (("--input", "text.txt"), "format of this file is not known"),
    ],
)
def test_what_is_refused(reader, refused, monkeypatch, arguments, message):
    monkeypatch.chdir(reader)
    assert message in refused("predict", "run", *arguments)


def test_a_translator_takes_no_passage(trained, reader, refused):
    message = refused("predict", trained, "A dog.", "--passage", reader / "text.txt")
    assert "the task 'translate', which asks nothing" in message
    assert "--no-answer" in refused("predict", trained, "A dog.", "--no-answer", "0.5")
    assert "--no-answer" in refused("evaluate", trained, "--no-answer", "0.5")


def test_a_bad_answer_is_named(tmp_path, refused):
    path = tmp_path / "bad.jsonl"
    path.write_text(
        json.dumps({"context": "Ada.", "question": "Who?", "answers": [{"text": "Bob", "start": 0}]})
    )
    assert "bad.jsonl, line 1: an answer does not stand" in refused("train", "answer", "--train", path)
