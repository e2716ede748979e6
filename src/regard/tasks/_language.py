"""How texts become what a language model reads, and what it can't read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from regard._errors import CheckpointError
from regard.data.lines import data_error, shorten
from regard.data.records import Record
from regard.data.texts import DOCUMENT, LAST, joined, place_of
from regard.data.units import Units, UnknownCharactersError, load_units, save_units


@dataclass(frozen=True)
class Language:
    """Units, how many of them are read at once, whether a mark stands at both ends of a document, and what a document is."""

    units: Units
    context: int
    marks: bool
    field: str = "text"
    documents: str = "files"

    @cached_property
    def signature(self) -> str:
        """The kind of units, how many there are and a checksum of them: what models say of a token compares only where it is the same."""
        names = [*self.units.names(range(len(self.units))), self.marks]
        return f"{self.units.kind}:{len(self.units)}#{zlib.crc32(repr(names).encode()):08x}"

    def texts(self, records: Iterable[Record]) -> Iterator[list[int]]:
        """The tokens of every document, or of as much of it as comes together."""
        for parts in joined(records):
            tokens: list[int] = []
            for record in parts:
                tokens += self.ids(record.fields["text"], record)
            begins = place_of(parts[0])[1] == 0
            yield self.marked(tokens, begins=begins, ends=parts[-1].fields.get(LAST, True))

    def marked(self, tokens: list[int], *, begins: bool, ends: bool) -> list[int]:
        """Tokens with the marks that belong to them."""
        mark = [self.units.mark]
        return mark * (self.marks and begins) + tokens + mark * (self.marks and ends)

    def ids(self, text: str, record: Record) -> list[int]:
        """The tokens of a text of a record; DataError names characters that the model does not know."""
        try:
            return self.units.encode(text)
        except UnknownCharactersError as error:
            # A part of a file has lines, a record is one.
            line = record.line + (text[: error.place].count("\n") if DOCUMENT in record.fields else 0)
            raise data_error(
                f"{record.file}, line {line}",
                "the text has characters that training did not show",
                expected=f"some of the {len(self.units) - 1} characters of the training data",
                received=", ".join(f"{one!r} (U+{ord(one):04X})" for one in error.characters[:10]),
                mend="leave them out, train on text that has them, or train with --units bytes, which knows every character",
            ) from None

    def begin(self, prompt: str) -> list[int]:
        """The tokens of a prompt that was checked."""
        return self.marked(self.units.encode(prompt), begins=True, ends=False)

    def after(self, prompt: str, candidate: str, record: Record) -> list[int]:
        """The tokens of a candidate, which together with the prompt are what the model reads."""
        begin = self.begin(prompt)
        whole = self.marked(self.ids(prompt + candidate, record), begins=True, ends=False)
        # Pieces may join where the two texts meet; a candidate is then read by itself.
        ids = whole[len(begin) :] if whole[: len(begin)] == begin else self.ids(candidate, record)
        if not ids or len(begin) + len(ids) > self.context + 1:
            raise data_error(
                record.place,
                "a candidate does not fit behind the prompt",
                expected=f"at most {self.context + 1} tokens together, and something in the candidate",
                received=f"{len(begin)} and {len(ids)} tokens, {shorten(candidate, 40)}",
                mend="shorten the prompt, or train with a larger --context",
            )
        return ids

    def checked(self, record: Record) -> Record:
        """A prompt that the model can read, with its candidates; else DataError."""
        prompt = record.fields["prompt"]
        count = len(self.marked(self.ids(prompt, record), begins=True, ends=False))
        if count == 0:
            raise data_error(
                record.place,
                "the prompt is empty",
                expected="a text to go on from: this model learned long texts, not how they begin",
                received=shorten(prompt),
                mend="give at least one character, such as a line end",
            )
        if count > self.context:
            raise data_error(
                record.place,
                "the prompt is longer than what the model reads at once",
                expected=f"at most {self.context} tokens",
                received=f"{count:,} tokens, beginning {shorten(prompt, 40)}",
                mend="give the end of the text alone, or train with a larger --context",
            )
        for candidate in record.fields["candidates"]:
            self.after(prompt, candidate, record)
        return record

    def save(self, folder: Path) -> None:
        """Write `units.json` and, of subwords, `tokenizer.json`."""
        names = ("context", "marks", "field", "documents")
        save_units(self.units, folder, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path) -> Language:
        """Read what `save` wrote; CheckpointError where it cannot be used."""
        units, facts = load_units(folder)
        try:
            named = str(facts["field"]), str(facts["documents"])
            return cls(units, int(facts["context"]), bool(facts["marks"]), *named)
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{folder / 'units.json'}: the context cannot be read. Expected: the file that regard train wrote. Received: "
                f"{type(error).__name__}, {error}. To mend it: copy the run folder again, or train again."
            ) from error
