"""Records of pictures with their captions, in one language or several, checked at the door."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from regard._errors import nearest
from regard.data.checks import Record, check_length, check_text
from regard.data.lines import data_error, kind, listed, shorten
from regard.data.pictures import picture_in, picture_size
from regard.data.records import Source, read_records, source_paths

IMAGE = "image"
NAMES = ("captions", "caption")
MEASURED = 10_000  # pictures whose size is remembered
PLAIN = "en"  # the language of fields that name none, where languages are asked for


@dataclass
class CaptionReader:
    """Reads records with a picture, and captions: a list in `captions`, or a single one in `caption`.

    With languages, those of `de` stand in `captions_de` or `caption_de`; those of `en` may stand without `_en`.

    Arguments:
        languages: such as ("en", "de"); none: all captions are of one language, which has no name.
        complete: whether every record must have captions in the first of them; else in any.

    >>> CaptionReader(("en", "de")).captions(Record({"captions": ["A dog."], "captions_de": ["Ein Hund."]}, "x", 1), "de")
    ['Ein Hund.']
    """

    languages: tuple[str, ...] = ()
    complete: bool = True
    sides: list[int] = field(default_factory=list, repr=False)
    """The shorter sides of the first pictures that were read."""

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """The records of a file, or of several with commas between them; without `answers` captions are not asked for.

        Pictures are named from then on by whole paths.

        Raises:
            DataError: a line cannot be used; the message names it.
        """
        for path in source_paths(source):
            yield from read_records(
                path, (IMAGE,), check=lambda one: self.check(one, max_characters, answers=answers)
            )

    def check(self, record: Record, max_characters: int, *, answers: bool = True) -> Record:
        """A record of a file, when it is sound; else DataError."""
        record.fields[IMAGE] = picture_in(image_of(record), record.place, record.file)
        side = min(picture_size(record.fields[IMAGE], record.place))  # refuses what is none, or too large
        if len(self.sides) < MEASURED:
            self.sides.append(side)
        if answers:
            self._check_captions(record, max_characters)
        return record

    def captions(self, record: Record, language: str | None) -> list[str]:
        """The captions of a checked record in a language, none where it has none."""
        for name in self._fields(language):
            if name in record.fields:
                given = record.fields[name]
                return [given] if isinstance(given, str) else list(given)
        return []

    def required(self, record: Record, language: str | None) -> list[str]:
        """The captions of a record in a language; DataError where it has none."""
        found = self.captions(record, language)
        if not found:
            raise _missing(record, self._fields(language))
        return found

    def every(self, record: Record) -> Iterator[tuple[int, str]]:
        """All captions of a record, each with the number of its language."""
        for number, language in enumerate(self.languages or (None,)):
            for caption in self.captions(record, language):
                yield number, caption

    def _fields(self, language: str | None) -> list[str]:
        if language is None:
            return list(NAMES)
        return [f"{name}_{language}" for name in NAMES] + (list(NAMES) if language == PLAIN else [])

    def _check_captions(self, record: Record, max_characters: int) -> None:
        languages: Sequence[str | None] = self.languages or (None,)
        names = [name for language in languages for name in self._fields(language)]
        found = [name for name in names if name in record.fields]
        for name in found:
            _check_list(record, name, record.fields[name])
            check_length(record, name, max_characters)
        if not found or (self.complete and not self.captions(record, languages[0])):
            raise _missing(record, self._fields(languages[0]) if self.complete else names)


def image_of(record: Record) -> Any:
    """What a record gives as its picture; DataError where it gives nothing."""
    if IMAGE not in record.fields:
        raise data_error(
            record.place,
            f"the field {IMAGE!r} is missing",
            expected="a picture: a path, or a row of the array in the .npz beside the file",
            received=f"{listed(list(record.fields)) or 'no field'}{nearest(IMAGE, record.fields)}",
            mend='write "image": "pictures/dog.png", or "image": 17',
        )
    return record.fields[IMAGE]


def _check_list(record: Record, name: str, given: Any) -> None:
    if not isinstance(given, str | list) or given == []:
        raise data_error(
            record.place,
            f"the field {name!r} holds no captions",
            expected="a list of at least one text, or one text",
            received=f"{kind(given)}, {shorten(given)}",
            mend='write "captions": ["A brown dog.", "..."], or take the record out',
        )
    for caption in [given] if isinstance(given, str) else given:
        check_text(record, name, caption)


def _missing(record: Record, names: Sequence[str]) -> Exception:
    return data_error(
        record.place,
        "the captions are missing",
        expected=" or ".join(map(repr, names)),
        received=f"{listed(list(record.fields)) or 'no field'}{nearest(names[0], record.fields)}",
        mend="add the field; captions of several languages are named by --languages en,de",
    )
