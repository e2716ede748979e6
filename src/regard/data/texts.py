"""Texts to learn to write: documents from plain files, lines or records, and prompts to go on from.

A plain file is one document. It is read in parts of whole lines, so that files of any size stream; what belongs together is
known by its `_document`, the number of its `_part`, and whether it is the `_last`: names beside which a file of records may have
columns of any usual name. Parts that follow each other are joined again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from regard.data.checks import Record, check_length, checked, is_blank
from regard.data.formats import has_records
from regard.data.lines import data_error, find_file, kind, read_lines, shorten
from regard.data.records import Source, read_records, source_paths

PART = 2048  # characters of a part, at least
MOST = 1000  # parts that are joined at once: what stands in memory
WAYS = ("files", "lines")
DOCUMENT, NUMBER, LAST = "_document", "_part", "_last"


def read_texts(
    source: Source, max_characters: int, documents: str = "files", field: str = "text"
) -> Iterator[Record]:
    """Streams documents, or parts of them: records with `text`.

    Arguments:
        source: plain text files, several with commas between them, or `.jsonl`, `.csv` or `.tsv` with a column `field`.
        max_characters: the longest document of a record or a line that is taken; files may have any length.
        documents: of plain text, "files" or "lines": what is one document.
        field: the column that holds the text.

    Raises:
        DataError: a file is missing, empty, blank or not UTF-8, or a record cannot be used.
    """
    paths = [find_file(path) for path in source_paths(source)]
    for path in paths:
        plain = documents == "files" and not has_records(path)
        if plain:
            yield from _parts(path, max_characters)
        else:
            for record in read_records(path, (field,), max_characters=max_characters, check=_kept):
                yield _document(record, field, max_characters)


def read_prompts(source: Source, max_characters: int) -> Iterator[Record]:
    """Streams prompts: a line each, or records with `prompt` and, if they are to be compared, `candidates`."""
    for record in read_records(source, ("prompt",), check=_kept):
        yield prompt_record(record, max_characters)


def prompt_record(record: Record, max_characters: int) -> Record:
    """`record` when it holds a prompt, which may be empty, and candidates that go on from it, if any; else DataError."""
    fields = record.fields
    prompt, candidates = fields.get("prompt"), fields.get("candidates", ())
    if not isinstance(prompt, str):
        raise data_error(
            record.place, "there is no prompt", expected="a text, or an object with 'prompt'",
            received=f"{kind(prompt)}, {shorten(prompt)}", mend="give the text to go on from",
        )  # fmt: skip
    texts = isinstance(candidates, list | tuple) and all(isinstance(one, str) and one for one in candidates)
    if not texts or ("candidates" in fields and not candidates):
        raise data_error(
            record.place, "the candidates are no texts", expected="a list of texts, none of them empty",
            received=shorten(candidates), mend="give the texts that might follow the prompt",
        )  # fmt: skip
    checked = Record({"prompt": prompt, "candidates": tuple(candidates)}, record.file, record.line)
    for name in ("prompt", "candidates"):
        check_length(checked, name, max_characters)
    return checked


def passage_record(passage: Any, place: tuple[str, int], max_characters: int) -> Record:
    """A document or a part of one, of which `place_of` knows which, as a record when it is sound text; else DataError."""
    document, part = place_of(passage)
    which = {} if document is None else {DOCUMENT: document, NUMBER: part}
    record = Record({"text": passage.text, LAST: passage.last, **which}, *place)
    return checked(record, ("text",), max_characters)


def joined(parts: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of records or passages that follow each other in one document, some at a time."""
    held: list[Any] = []
    for one in parts:
        document, part = place_of(one)
        follows = held and document is not None and (document, part - 1) == place_of(held[-1])
        if held and (not follows or len(held) == MOST):
            yield held
            held = []
        held.append(one)
    if held:
        yield held


def place_of(one: Any) -> tuple[Any, int]:
    """The document and the number of a part; a document that is one record has the name None."""
    if isinstance(one, Record):
        return one.fields.get(DOCUMENT), one.fields.get(NUMBER, 0)
    return one.document, one.part


def _parts(path: Path, max_characters: int) -> Iterator[Record]:
    before: Record | None = None
    visible = False
    for number, (line, text) in enumerate(_pieces(path, max_characters)):
        if before is not None:
            yield before
        fields = {"text": text, DOCUMENT: str(path), NUMBER: number, LAST: False}
        before = Record(fields, str(path), line)
        visible = visible or not is_blank(text)
    if before is None or not visible:
        raise data_error(
            str(path), "the text is empty", expected="text with at least one visible character",
            received="only spaces and line ends", mend="check how the file was made or copied",
        )  # fmt: skip
    before.fields[LAST] = True
    yield before


def _pieces(path: Path, longest: int) -> Iterator[tuple[int, str]]:
    """Whole lines together, with the number of the first."""
    held: list[str] = []
    begin, size = 1, 0
    for number, line in read_lines(path, ends=True):
        if size >= PART:
            yield begin, "".join(held)
            held, begin, size = [], number, 0
        if len(line) > longest:
            check_length(Record({"line": line}, str(path), number), "line", longest)
        held.append(line)
        size += len(line)
    yield begin, "".join(held)


def _kept(record: Record) -> Record:
    return record


def _document(record: Record, field: str, max_characters: int) -> Record:
    """A record of a file: a part that a run held out as it was written, anything else a document."""
    if _is_part(record):
        return record
    for name in (DOCUMENT, NUMBER, LAST):
        record.fields.pop(name, None)
    checked(record, (field,), max_characters)
    record.fields["text"] = record.fields[field]
    return record


def _is_part(record: Record) -> bool:
    kinds = {"text": str, DOCUMENT: str, NUMBER: int, LAST: bool}
    return all(isinstance(record.fields.get(name), kind) for name, kind in kinds.items())
