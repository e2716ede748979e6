"""Records from tables, `.tsv` and `.csv`: a row each, named by the columns of the first line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from regard._errors import nearest
from regard.data.checks import Record
from regard.data.lines import data_error, listed, read_lines, shorten

# A first line of two of these names columns; trained on as a pair it would be a mistake that nobody sees.
HEADINGS = (
    "ar bg ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv nl no pl pt ro ru sk sl sr sv th tr uk vi zh "
    "ara ces cmn deu eng fra ger ita jpn kor nld pol por rus spa swe tur ukr zho arabic bulgarian catalan chinese "
    "croatian czech danish dutch english estonian finnish french german greek hebrew hindi hungarian indonesian italian "
    "japanese korean latvian lithuanian mandarin norwegian persian polish portuguese romanian russian serbian slovak "
    "slovenian spanish swedish thai turkish ukrainian vietnamese deutsch français español italiano português русский "
    "中文 日本語 한국어 src tgt trg input output original translation reference text sentence"
)


def read_tsv(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    """The records of a `.tsv`: a line each, tabs between columns; exactly two columns, as many as `fields`, need no header."""
    rows: Iterator[tuple[int, list[str]]] = ((number, line.split("\t")) for number, line in read_lines(path))
    first = next(rows)
    header = first[1]
    if _is_pair(header, fields):
        _check_no_heading(path, header, fields)
        header, rows = list(fields), chain([first], rows)
    else:
        pair = ", or exactly two columns and no header" if len(fields) > 1 else ""
        _check_header(path, header, fields, f"tabs between{pair}")
    return _records(path, header, rows, "write exactly one tab between columns and none inside a text")


def read_csv(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    """The records of a `.csv` with a header; in quotes a text may hold commas, quotes written twice, and line breaks."""
    rows = _csv_rows(path)
    _, header = next(rows)
    _check_header(path, header, fields, "commas between")
    mend = "put texts with commas or line breaks in double quotes, and leave no line empty"
    return _records(path, header, rows, mend)


def columns(path: Path) -> list[str]:
    """The cells of a table's first line; of other files none."""
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".csv"):
        return next(_csv_rows(path))[1]
    return next(read_lines(path))[1].split("\t") if name.endswith(".tsv") else []


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of every row, with the line on which it begins."""
    rows = csv.reader((line for _, line in read_lines(path, ends=True)), strict=True)
    while True:
        begin = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise data_error(
                f"{path}, line {begin}",
                f"the row that begins here cannot be read ({error})",
                expected="commas between cells; a cell with commas, quotes or line breaks in double quotes",
                received=f"no such row up to line {rows.line_num}",
                mend='close every quote, write " inside a text as "", or write the table with a CSV library',
            ) from error
        if cells is None:
            return
        yield begin, cells


def _records(
    path: Path, header: list[str], rows: Iterator[tuple[int, list[str]]], mend: str
) -> Iterator[Record]:
    for number, cells in rows:
        if len(cells) != len(header):
            raise data_error(
                f"{path}, line {number}",
                "the line has the wrong number of columns",
                expected=f"{len(header)} columns ({', '.join(header)})",
                received=f"{len(cells)}, {shorten(cells)}",
                mend=mend,
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


def _check_header(path: Path, header: list[str], fields: Sequence[str], form: str) -> None:
    one = len(fields) == 1
    for field in fields:
        if field not in header:
            raise data_error(
                f"{path}, line 1",
                f"the column {field!r} is missing",
                expected=f"a header with {listed(fields)}, {form}",
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
