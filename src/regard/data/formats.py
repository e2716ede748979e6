"""The formats in which records come: JSON lines, tables, parallel text, plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from regard._errors import DataError
from regard.data.checks import Record, is_blank
from regard.data.lines import data_error, kind, listed, read_lines, shorten
from regard.data.tables import read_csv, read_tsv

FORMATS = ".jsonl, .csv, .tsv (all also with .gz; several with commas between them), or parallel text files given as 'a.en,a.de'"

COLUMNS = ".conll"  # a word a line, which only sentences with roles are read from

# What is no text of ours by its name, and how to make it one.
AS_TABLE = "save the table as CSV in UTF-8, with the names of the columns in its first line"
AS_TEXT = "write the text out in UTF-8, one sentence a line, to one .txt file for each field"
AS_LINES = "write one JSON object a line and let the name end in .jsonl"
REMEDIES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), AS_TABLE),
    **dict.fromkeys((".html", ".htm", ".docx", ".doc", ".odt", ".pdf"), AS_TEXT),
    ".json": AS_LINES,
}

Reader = Callable[[list[Path], Sequence[str]], Iterator[Record]]


def reader(paths: list[Path], fields: Sequence[str]) -> Reader:
    """How to read `paths`, judged by their number and names; `DataError` when the format is not known."""
    for path in paths:
        if _suffix(path) in REMEDIES:
            raise _unknown(path)
    whole = [has_records(path) for path in paths]
    if all(whole):
        return _in_turn
    if any(whole):
        raise _mixed(paths[whole.index(True)], paths[whole.index(False)], fields)
    if len(paths) > 1:
        return _parallel
    if len(fields) == 1:
        return _text
    raise _unknown(paths[0])


def has_records(path: Path) -> bool:
    """Whether a file by its name holds whole records, and not the texts of one field."""
    return _suffix(path) in RECORDS


def is_plain(path: Path) -> bool:
    """Whether a file by its name holds a text on each line."""
    return _suffix(path) not in {*RECORDS, *REMEDIES, COLUMNS}


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()


def _unknown(path: Path) -> DataError:
    suffix = _suffix(path)
    return data_error(
        str(path),
        "the format of this file is not known",
        expected=FORMATS,
        received=f"a name ending in {suffix!r}" if suffix else "a name without an ending",
        mend=REMEDIES.get(suffix, AS_LINES),
    )


def _mixed(records: Path, text: Path, fields: Sequence[str]) -> DataError:
    return data_error(
        f"{records},{text}",
        "files of records and parallel text are mixed",
        expected=FORMATS,
        received=f"records in {records}, and {text}, which by its name is plain text",
        mend=f"let the names of files with {listed(fields)} in each record end in .jsonl, .csv or .tsv",
    )


def _in_turn(paths: list[Path], fields: Sequence[str]) -> Iterator[Record]:
    for path in paths:
        yield from RECORDS[_suffix(path)](path, fields)


def _text(paths: list[Path], fields: Sequence[str]) -> Iterator[Record]:
    (path,) = paths
    for number, line in read_lines(path):
        yield Record({fields[0]: line}, str(path), number)


def _parallel(paths: list[Path], fields: Sequence[str]) -> Iterator[Record]:
    if len(paths) != len(fields):
        raise data_error(
            ",".join(map(str, paths)),
            "there is not one file for each field",
            expected=f"{len(fields)} files, for {listed(fields)} in this order",
            received=f"{len(paths)} files",
            mend="name one text file for each field, with commas between them",
        )
    for number, lines in enumerate(zip_longest(*map(read_lines, paths)), start=1):
        if None in lines:
            short, longer = lines.index(None), next(i for i, line in enumerate(lines) if line is not None)
            raise data_error(
                f"{paths[short]}, line {number}",
                "the parallel files have unequal numbers of lines",
                expected=f"a line beside line {number} of {paths[longer]}, {shorten(lines[longer][1], 50)}",
                received=f"an end after {number - 1} lines",
                mend="make line n of each file belong to line n of the others",
            )
        values = {field: line for field, (_, line) in zip(fields, lines, strict=True)}
        # The message about a blank line names the file in which it is.
        blank = next((i for i, (_, line) in enumerate(lines) if is_blank(line)), 0)
        yield Record(values, str(paths[blank]), number)


def _jsonl(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise data_error(
                place,
                "the line is empty" if is_blank(line) else f"the line is not JSON ({error})",
                expected=f"one JSON object a line, with {listed(fields)}",
                received=shorten(line),
                mend="remove the line"
                if is_blank(line)
                else "write each record with a JSON library, on one line",
            ) from error
        if not isinstance(value, dict):
            raise data_error(
                place,
                "the line is JSON but no object",
                expected=f"an object with {listed(fields)}",
                received=f"{kind(value)}, {shorten(line)}",
                mend='write {"' + '": "...", "'.join(fields) + '": "..."}',
            )
        yield Record(value, str(path), number)


# What holds whole records, by the ending of its name.
RECORDS = {".jsonl": _jsonl, ".tsv": read_tsv, ".csv": read_csv}
