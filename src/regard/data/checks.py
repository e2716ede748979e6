"""What every record must be: each text there, visible, whole, and not too long."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regard._errors import nearest
from regard.data.lines import data_error, kind, listed, shorten

MAX_CHARACTERS = 20_000
RAISE = "raise the limit with --max-characters, from Python with regard.load(folder, max_characters=...)"
BLANK = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})  # Unicode categories of characters that leave no mark


@dataclass(frozen=True, slots=True)
class Record:
    """One example and where it stands: `fields` by name, `file` and `line` (from 1) for messages."""

    fields: dict[str, Any]
    file: str
    line: int

    @property
    def place(self) -> str:
        """File and line, as messages begin."""
        return f"{self.file}, line {self.line}"


def checked(record: Record, fields: Sequence[str], max_characters: int) -> Record:
    """`record` when every one of `fields` is sound text; else `DataError`. Completes `target` and `targets`."""
    values = record.fields
    for field in fields:
        if field == "target" and "targets" in values:
            values["target"] = values.get("target", _first_reference(record))
        if field not in values:
            raise data_error(
                record.place,
                f"the field {field!r} is missing",
                expected=listed(fields),
                received=f"{listed(list(values)) or 'no field'}{nearest(field, values)}",
                mend=f"give every record a field {field!r}",
            )
        check_text(record, field, values[field])
        check_length(record, field, max_characters)
        if field == "target":
            values.setdefault("targets", [values["target"]])
            for reference in values["targets"]:
                check_text(record, "targets", reference)
            check_length(record, "targets", max_characters)
    return record


def _first_reference(record: Record) -> object:
    references = record.fields["targets"]
    if not isinstance(references, list) or not references:
        raise data_error(
            record.place,
            "the field 'targets' holds no references",
            expected="a list of at least one text",
            received=f"{kind(references)}, {shorten(references)}",
            mend='write "targets": ["...", "..."], or "target": "..." for a single one',
        )
    return references[0]


def check_text(record: Record, field: str, value: object) -> None:
    """Raises `DataError` when `value`, given in `field`, is no whole text with a visible character."""
    if not isinstance(value, str):
        raise data_error(
            record.place,
            f"the field {field!r} is not text",
            expected="a string",
            received=f"{kind(value)}, {shorten(value)}",
            mend="give several texts in a list, a text each"
            if isinstance(value, tuple)  # which no file holds
            else "put the text in quotes, or leave the record out",
        )
    if is_blank(value):
        raise data_error(
            record.place,
            f"the field {field!r} is empty",
            expected="text with at least one visible character",
            received=shorten(value),
            mend="fill the field in or remove the record",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise data_error(
            record.place,
            f"the field {field!r} holds half of a character",
            expected="Unicode text",
            received=shorten(value),
            mend="write the character whole; a \\ud83d in JSON needs its second half, such as \\ude00",
        ) from error


def is_blank(text: str) -> bool:
    """Whether `text` has no visible character: only spaces, controls and zero-width marks."""
    # Most words are told apart at once.
    return not text.isalnum() and all(unicodedata.category(character) in BLANK for character in text)


def check_length(record: Record, field: str, limit: int = MAX_CHARACTERS) -> None:
    """Raises `DataError` when a text of `field` has more than `limit` characters."""
    value = record.fields[field]
    for text in [value] if isinstance(value, str) else value:
        if len(text) > limit:
            raise data_error(
                record.place,
                f"the field {field!r} is too long",
                expected=f"at most {limit:,} characters",
                received=f"{len(text):,} characters, beginning {shorten(text, 40)}",
                mend=f"split the text into several records, or {RAISE}",
            )
