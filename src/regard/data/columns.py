"""Sentences in the columns of CoNLL: a word, a mark of predicates, and for each predicate a column of roles.

The mark is "-" for words that are no predicate and anything else, such as the lemma, for those that are. Roles are
brackets, as CoNLL-2005 and 2012 write them, or BIO. A blank line ends a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from regard.data.checks import Record
from regard.data.lines import data_error, read_lines, shorten

CELL = re.compile(r"(?:\(([^()*\s]+))?\*(\))?")
Row = tuple[int, list[str]]  # the line's number and its cells


def read_columns(path: Path, answers: bool) -> Iterator[Record]:
    """The sentences of a file, not checked yet; without `answers` columns beyond the second are not looked at.

    Raises:
        DataError: a line has another number of columns, brackets do not match, or without `answers` every word is a predicate.
    """
    rows: list[Row] = []
    for number, line in read_lines(path):
        if cells := line.split():
            rows.append((number, cells))
        elif rows:
            yield _sentence(path, rows, answers)
            rows = []
    if rows:
        yield _sentence(path, rows, answers)


def write_columns(words: Sequence[str], predicates: Sequence[int], roles: Sequence[Sequence[str]]) -> str:
    r"""A sentence as lines of columns, roles in brackets, which `read_columns` reads; without the words they are a props file of CoNLL-2005.

    >>> print(write_columns(["Dogs", "chase", "the", "cat"], [1], [["B-ARG0", "B-V", "B-ARG1", "I-ARG1"]]))
    Dogs   -      (ARG0*)
    chase  chase  (V*)
    the    -      (ARG1*
    cat    -      *)
    <BLANKLINE>
    """
    order = sorted(range(len(predicates)), key=predicates.__getitem__)
    marks = [word if number in predicates else "-" for number, word in enumerate(words)]
    columns = [_cells(words), _cells(marks), *(_brackets(roles[number]) for number in order)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    return "\n".join([*lines, ""])


def _cells(words: Sequence[str]) -> list[str]:
    """Words as cells, with no space in them: one would begin another column."""
    return ["_".join(word.split()) for word in words]


def _brackets(tags: Sequence[str]) -> list[str]:
    following = [*tags[1:], "O"]
    return [
        (f"({tag[2:]}" if tag[0] == "B" else "") + "*" + (")" if tag != "O" and after[0] != "I" else "")
        for tag, after in zip(tags, following, strict=True)
    ]


def _sentence(path: Path, rows: list[Row], answers: bool) -> Record:
    words = [cells[0] for _, cells in rows]
    marked = len(rows[0][1]) > 1
    predicates = [place for place, (_, cells) in enumerate(rows) if marked and cells[1:2] != ["-"]]
    columns = 2 + len(predicates) if answers else 1 + marked
    for number, cells in rows:
        if len(cells) < columns or (answers and len(cells) > columns):
            raise data_error(
                f"{path}, line {number}",
                "the line has the wrong number of columns",
                expected=f"{columns}: a word, '-' or a predicate's mark"
                + (f", and roles for each of the sentence's {len(predicates)} predicates" if answers else ""),
                received=f"{len(cells)}, {shorten(' '.join(cells))}",
                mend="write '*' or O where a word has no role, and a blank line after each sentence",
            )
    if not answers:
        _check_marks(path, rows, len(predicates))
    fields: dict[str, object] = {"words": words}
    if marked:
        fields["predicates"] = predicates
    if answers:
        fields["roles"] = [
            _tags(path, [(number, cells[2 + i]) for number, cells in rows]) for i in range(len(predicates))
        ]
    return Record(fields, str(path), rows[0][0])


def _check_marks(path: Path, rows: list[Row], predicates: int) -> None:
    """Refuse a second column of something else, such as parts of speech: sentences without a "-" are rare, unless roles tell."""
    has_roles = all(len(cells) == 2 + predicates for _, cells in rows)
    if len(rows) > 1 and predicates == len(rows) and not has_roles:
        raise data_error(
            f"{path}, line {rows[0][0]}",
            "the second column marks every word of the sentence as a predicate",
            expected="'-' for words that are no predicate",
            received=shorten(" ".join(cells[1] for _, cells in rows)),
            mend="leave columns of something else out: the words alone, or beside them '-' and the predicates' marks",
        )


def _tags(path: Path, column: list[tuple[int, str]]) -> list[str]:
    """A column of brackets or BIO as BIO."""
    if not any("*" in cell for _, cell in column):
        return [cell for _, cell in column]
    tags, role = [], ""
    for number, cell in column:
        match = CELL.fullmatch(cell)
        if match is None or (match[1] and role) or (match[2] and not (match[1] or role)):
            raise _mismatch(path, number, cell)
        tags.append(f"B-{match[1]}" if match[1] else f"I-{role}" if role else "O")
        role = "" if match[2] else match[1] or role
    if role:
        raise _mismatch(path, column[-1][0], f"({role} is never closed")
    return tags


def _mismatch(path: Path, number: int, received: str) -> Exception:
    return data_error(
        f"{path}, line {number}",
        "the brackets of the roles do not match",
        expected="'(ROLE*' where a role begins, '*)' where it ends, '*' elsewhere, none inside another",
        received=shorten(received),
        mend="close every bracket in the column that opened it",
    )
