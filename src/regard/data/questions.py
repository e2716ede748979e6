"""Questions on passages: JSON lines or SQuAD's own JSON, every answer checked to stand where it says.

A record is `question`, `context` (the passage), `answers` (`[{"text", "start"}]`, empty where the passage has none), and `id` where
there is one. Several files are read one after the other, as "a.jsonl,b.json".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regard._errors import DataError, nearest
from regard.data.checks import Record, checked
from regard.data.formats import reader
from regard.data.lines import data_error, find_file, kind, read_lines, shorten
from regard.data.records import Source, source_paths

TEXTS = ("question", "context")
FORM = '"answers": [{"text": "...", "start": 0}], with [] where the passage has no answer'


def read_questions(source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
    """Streams the questions of one or more files, each checked, none skipped.

    Args:
        source: a path, several with commas between them, or a sequence of paths: `.jsonl` or SQuAD's `.json` (both also with `.gz`).
        max_characters: the longest passage and question.
        answers: whether answers must be there; without, they are not looked at.

    Raises:
        DataError: at once when a file is missing, empty or of another form; while iterating when a record cannot be used.
    """
    readers = [_reader(find_file(path)) for path in source_paths(source)]
    return (question_record(one, max_characters, answers=answers) for read in readers for one in read)


def read_passages(source: Source, max_characters: int) -> Iterator[Record]:
    """Streams passages without questions: the field `context` of lines of JSON, the paragraphs of SQuAD's JSON, or text, one a line.

    Args:
        source: as for `read_questions`.
        max_characters: the longest passage.

    Raises:
        DataError: at once when a file is missing, empty or of another form; while iterating when a passage cannot be used.
    """
    readers = [_passages(find_file(path)) for path in source_paths(source)]
    return (checked(one, ("context",), max_characters) for read in readers for one in read)


def question_record(record: Record, max_characters: int, *, answers: bool) -> Record:
    """`record` when question, passage and answers are sound; answers become a list of `text` and `start`."""
    checked(record, TEXTS, max_characters)
    if answers:
        record.fields["answers"] = _answers(record)
    return record


def _reader(path: Path) -> Iterator[Record]:
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".json"):
        return _nested(path)
    if name.endswith(".jsonl"):
        return reader([path], TEXTS)([path], TEXTS)
    raise data_error(
        str(path),
        "the format of this file is not known",
        expected="questions as .jsonl, or as SQuAD's .json (both also with .gz)",
        received=f"the name {path.name!r}",
        mend='write one object a line, {"question": "...", "context": "...", "answers": [...]}, and let the name end in .jsonl',
    )


def _passages(path: Path) -> Iterator[Record]:
    if path.name.removesuffix(".gz").lower().endswith(".json"):
        return _nested_passages(path)
    return reader([path], ("context",))([path], ("context",))


def _nested_passages(path: Path) -> Iterator[Record]:
    for place, paragraph in _paragraphs(path):
        yield _Nested({"context": _part(place, paragraph, "context")}, place, 0)


def _nested(path: Path) -> Iterator[Record]:
    for place, paragraph in _paragraphs(path):
        context = _part(place, paragraph, "context")
        for number, asked in enumerate(_parts(place, paragraph, "qas"), start=1):
            here = f"{place}, question {number}"
            fields = {"context": context, "question": _part(here, asked, "question")}
            if "id" in asked:
                fields["id"] = asked["id"]
                here = f"{path}, question {shorten(asked['id'], 40)}"
            if "answers" in asked:
                fields["answers"] = [] if asked.get("is_impossible") else asked["answers"]
            yield _Nested(fields, here, 0)


def _paragraphs(path: Path) -> Iterator[tuple[str, Any]]:
    """SQuAD's own form: data, paragraphs, qas. A record's file says which of them it is; lines mean nothing there."""
    text = "\n".join(line for _, line in read_lines(path))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_squad(str(path), f"no JSON ({error})", text) from error
    for number, article in enumerate(_parts(str(path), whole, "data"), start=1):
        place = f"{path}, article {number}"
        for order, paragraph in enumerate(_parts(place, article, "paragraphs"), start=1):
            yield f"{place}, paragraph {order}", paragraph


def _parts(place: str, whole: Any, name: str) -> list[Any]:
    found = _part(place, whole, name)
    if not isinstance(found, list):
        raise _not_squad(place, f"{name!r} is no list", found)
    return found


def _part(place: str, whole: Any, name: str) -> Any:
    if not isinstance(whole, dict) or name not in whole:
        raise _not_squad(place, f"{name!r} is missing", whole)
    return whole[name]


def _not_squad(place: str, wrong: str, received: Any) -> DataError:
    return data_error(
        place,
        f"this is not SQuAD's JSON: {wrong}",
        expected='{"data": [{"paragraphs": [{"context": "...", "qas": [{"id", "question", "answers"}]}]}]}',
        received=shorten(received),
        mend="write that form, or one record a line to a file whose name ends in .jsonl",
    )


class _Nested(Record):
    """A record whose place is not a line."""

    __slots__ = ()

    @property
    def place(self) -> str:
        """The file and which question or paragraph of it."""
        return self.file


def _answers(record: Record) -> list[dict[str, Any]]:
    if "answers" not in record.fields:
        raise data_error(
            record.place,
            "the field 'answers' is missing",
            expected=FORM,
            received=f"{', '.join(map(repr, record.fields))}{nearest('answers', record.fields)}",
            mend="give every question its answers; for a prediction none are needed",
        )
    given = record.fields["answers"]
    if (
        isinstance(given, dict) and {"text", "answer_start"} <= given.keys()
    ):  # columns, as in the datasets library
        columns = given["text"], given["answer_start"]
        if all(isinstance(column, list) for column in columns) and len(columns[0]) == len(columns[1]):
            given = [{"text": text, "start": start} for text, start in zip(*columns, strict=True)]
    if not isinstance(given, list):
        raise data_error(
            record.place,
            "the field 'answers' is no list",
            expected=FORM,
            received=f"{kind(given)}, {shorten(given)}",
            mend="put the answers in a list",
        )
    return [_answer(record, answer) for answer in given]


def _answer(record: Record, answer: Any) -> dict[str, Any]:
    start = answer.get("start", answer.get("answer_start")) if isinstance(answer, dict) else None
    text = answer.get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str) or type(start) is not int:
        raise data_error(
            record.place,
            "an answer is not whole",
            expected='{"text": "...", "start": 0}',
            received=f"{kind(answer)}, {shorten(answer)}",
            mend="say of each answer its text and the number of characters before it",
        )
    context = record.fields["context"]
    if not text.strip() or start < 0 or context[start : start + len(text)] != text:
        found = context.find(text) if text.strip() else -1
        raise data_error(
            record.place,
            "an answer does not stand where it says" if text.strip() else "an answer is empty",
            expected=f"{shorten(text, 40)} at character {start} of the passage, counted from 0",
            received=f"{shorten(context[max(0, start) : max(0, start) + len(text)], 40)} there",
            mend=f"write start {found}, where it stands"
            if found >= 0
            else "copy the answer from the passage character by character",
        )
    return {"text": text, "start": start}
