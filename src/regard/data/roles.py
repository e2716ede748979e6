"""What words, predicates and roles must be: whole, inside the sentence, one BIO tag a word, the predicate itself B-V.

From Python lists may be tuples, as results hold them, and positions numbers of NumPy.
"""

from __future__ import annotations

import operator
from typing import Any

from regard._errors import nearest
from regard.data.checks import Record, is_blank
from regard.data.lines import data_error, kind, listed, shorten

PREDICATE = "B-V"


def check_words(record: Record) -> list[str]:
    """The words of a record: at least one, each of them visible text."""
    words = _list(_field(record, "words"))
    if not isinstance(words, list) or not words:
        raise data_error(
            record.place,
            "the field 'words' holds no words",
            expected="a list of at least one word",
            received=f"{kind(words)}, {shorten(words)}",
            mend='write "words": ["The", "dog", "runs"]',
        )
    for number, word in enumerate(words):
        if not isinstance(word, str) or is_blank(word) or not _is_whole(word):
            raise data_error(
                record.place,
                f"word {number} is no word",
                expected="text with at least one visible character",
                received=f"{kind(word)}, {shorten(word)}",
                mend="fill the word in, or leave it out with its tags",
            )
    return words


def check_predicates(record: Record, words: int) -> list[int]:
    """The positions of a record's predicates, given as `predicate` or `predicates`: inside the sentence, none twice."""
    several = "predicates" in record.fields
    given = _list(record.fields["predicates"]) if several else [_field(record, "predicate")]
    if not isinstance(given, list):
        raise data_error(
            record.place,
            "the field 'predicates' is no list",
            expected="a list of positions",
            received=f"{kind(given)}, {shorten(given)}",
            mend='write "predicates": [1, 4], or "predicate": 1 for one',
        )
    places = []
    for position in given:
        place = _index(position)
        if place is None or not 0 <= place < words:
            raise data_error(
                record.place,
                "a predicate is outside the sentence",
                expected=f"a position from 0 to {words - 1}",
                received=f"{kind(position)}, {shorten(position)}",
                mend="count words from 0",
            )
        places.append(place)
    if len(set(places)) < len(places):
        raise data_error(
            record.place,
            "a predicate is named twice",
            expected="every position once",
            received=shorten(places),
            mend="leave one of them out, with its roles",
        )
    return places


def check_roles(record: Record, words: int, predicates: list[int]) -> list[list[str]]:
    """One row of BIO tags for each predicate: valid, a tag a word, B-V at the predicate and nowhere else."""
    given = _list(_field(record, "roles"))
    rows = given if "predicates" in record.fields else [given]
    if not isinstance(rows, list) or len(rows) != len(predicates):
        raise data_error(
            record.place,
            "the rows of roles do not match the predicates",
            expected=f"a list of {len(predicates)} rows, one for each predicate",
            received=f"{kind(rows)}, {shorten(rows)}",
            mend="write a row of tags for each predicate",
        )
    rows = [_list(row) for row in rows]
    for row, predicate in zip(rows, predicates, strict=True):
        if not isinstance(row, list) or len(row) != words:
            raise data_error(
                record.place,
                "roles and words do not match",
                expected=f"a list of {words} tags, one for each word",
                received=f"{len(row)} tags, {shorten(row)}" if isinstance(row, list) else kind(row),
                mend="tag words, not pieces of words",
            )
        _check_tags(record, row)
        _check_predicate(record, row, predicate)
    return rows


def _check_tags(record: Record, row: list[Any]) -> None:
    before = "O"
    for number, tag in enumerate(row):
        marker, _, role = tag.partition("-") if isinstance(tag, str) else ("", "", "")
        if tag != "O" and (marker not in {"B", "I"} or not role):
            raise data_error(
                record.place,
                f"the tag of word {number} is not BIO",
                expected="O, B-ROLE or I-ROLE",
                received=shorten(tag),
                mend="convert the tags to BIO",
            )
        if marker == "I" and before not in {f"B-{role}", tag}:
            raise data_error(
                record.place,
                f"the tag of word {number} continues nothing",
                expected=f"B-{role}, or B-{role} or I-{role} on the word before",
                received=f"{tag} after {before}",
                mend="begin every span with B",
            )
        before = tag


def _check_predicate(record: Record, row: list[str], predicate: int) -> None:
    if row[predicate] != PREDICATE or row.count(PREDICATE) > 1:
        found = [number for number, tag in enumerate(row) if tag == PREDICATE]
        raise data_error(
            record.place,
            f"the predicate, word {predicate}, is not the one with the tag {PREDICATE}",
            expected=f"{PREDICATE} at word {predicate} and nowhere else",
            received=f"{PREDICATE} at {', '.join(map(str, found)) or 'no word'}; word {predicate} has {row[predicate]}",
            mend=f"tag the predicate {PREDICATE}; other words of it are I-V, or C-V where words stand between",
        )


def _list(given: Any) -> Any:
    return list(given) if isinstance(given, tuple) else given


def _index(given: Any) -> int | None:
    """A position as Python's own integer; None where it is none."""
    try:
        return None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        return None


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _field(record: Record, field: str) -> Any:
    if field not in record.fields:
        raise data_error(
            record.place,
            f"the field {field!r} is missing",
            expected=listed(("words", "predicate", "roles")),
            received=f"{listed(list(record.fields)) or 'no field'}{nearest(field, record.fields)}",
            mend=f"give every record a field {field!r}",
        )
    return record.fields[field]
