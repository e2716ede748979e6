"""The formats in which records come: JSON lines, tab-separated columns, parallel text, plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from itertools import chain, zip_longest
from pathlib import Path

from regard._errors import DataError, nearest
from regard.data.checks import Record, is_blank
from regard.data.lines import data_error, kind, listed, read_lines, shorten

FORMATS = ".jsonl or .tsv (both also with .gz; several with commas between them), or parallel text files given as 'a.en,a.de'"

# What is no text of ours by its name, and how to make it one.
AS_TABLE = "save the table as tab-separated text in UTF-8 and let its name end in .tsv"
AS_TEXT = "write the text out in UTF-8, one sentence a line, to one .txt file for each field"
AS_LINES = "write one JSON object a line and let the name end in .jsonl"
REMEDIES = {
    **dict.fromkeys((".csv", ".xlsx", ".xls", ".ods"), AS_TABLE),
    **dict.fromkeys((".html", ".htm", ".docx", ".doc", ".odt", ".pdf"), AS_TEXT),
    ".json": AS_LINES,
}

# A first line of two of these names columns; trained on as a pair it would be a mistake that nobody sees.
HEADINGS = (
    "ar bg ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv nl no pl pt ro ru sk sl sr sv th tr uk vi zh "
    "ara ces cmn deu eng fra ger ita jpn kor nld pol por rus spa swe tur ukr zho arabic bulgarian catalan chinese "
    "croatian czech danish dutch english estonian finnish french german greek hebrew hindi hungarian indonesian italian "
    "japanese korean latvian lithuanian mandarin norwegian persian polish portuguese romanian russian serbian slovak "
    "slovenian spanish swedish thai turkish ukrainian vietnamese deutsch français español italiano português русский "
    "中文 日本語 한국어 src tgt trg input output original translation reference text sentence"
)
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
        mend=f"let the names of files with {listed(fields)} in each record end in .jsonl or .tsv",
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


def _tsv(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    rows: Iterator[tuple[int, list[str]]] = ((number, line.split("\t")) for number, line in read_lines(path))
    first = next(rows)
    header = first[1]
    if _is_pair(header, fields):
        _check_no_heading(path, header, fields)
        header, rows = list(fields), chain([first], rows)
    else:
        _check_header(path, header, fields)
    for number, cells in rows:
        if len(cells) != len(header):
            raise data_error(
                f"{path}, line {number}",
                "the line has the wrong number of columns",
                expected=f"{len(header)} columns ({', '.join(header)}), with tabs between them",
                received=f"{len(cells)}, {shorten(cells)}",
                mend="write exactly one tab between columns and none inside a text",
            )
        yield Record(dict(zip(header, cells, strict=True)), str(path), number)


def _is_pair(cells: list[str], fields: Sequence[str]) -> bool:
    """Whether the first line is already a pair; a cell that resembles a column's name makes it a header."""
    names = [cell.strip().casefold() for cell in cells]
    resembles = any(get_close_matches(name, [*fields, "targets"], n=1, cutoff=0.8) for name in names)
    return len(cells) == 2 and len(fields) == 2 and not resembles


def _check_no_heading(path: Path, cells: list[str], fields: Sequence[str]) -> None:
    words = [cell.strip().casefold().split("-")[0].split("_")[0] for cell in cells]  # zh-CN is zh
    if words[0] != words[1] and set(HEADINGS.split()).issuperset(words):
        raise data_error(
            f"{path}, line 1",
            "the line looks like the names of the columns and not like a pair of texts",
            expected=f"a header with {listed(fields)}, or a first pair and no header",
            received=listed(cells),
            mend=f"name the columns {listed(fields)} in the first line, in the order in which they stand, with a tab between",
        )


def _check_header(path: Path, header: list[str], fields: Sequence[str]) -> None:
    one = len(fields) == 1
    for field in fields:
        if field not in header:
            raise data_error(
                f"{path}, line 1",
                f"the column {field!r} is missing",
                expected=f"a header with {listed(fields)}"
                + ("" if one else ", or exactly two columns and no header"),
                received=f"{len(header)} columns, {shorten(header)}{nearest(field, header)}",
                mend="name the columns in the first line"
                + (
                    ", or put the texts alone, one a line, into a file whose name ends in .txt" if one else ""
                ),
            )
    if len(set(header)) != len(header):
        raise data_error(
            f"{path}, line 1",
            "two columns have the same name",
            expected="every name once",
            received=shorten(header),
            mend="rename one of them",
        )


# What holds whole records, by the ending of its name.
RECORDS = {".jsonl": _jsonl, ".tsv": _tsv}
