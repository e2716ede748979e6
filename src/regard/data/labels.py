"""Records of texts or pictures with their labels, checked at the door: one kind of each in all files of a run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from regard._errors import DataError
from regard.data.checks import Record, checked, is_blank
from regard.data.lines import data_error, find_file, kind, listed, shorten
from regard.data.pictures import picture_in, picture_size
from regard.data.records import Source, read_records, source_paths
from regard.data.tables import columns

TEXT, IMAGE = "text", "image"
LABEL, LABELS = "label", "labels"
MEASURED = 10_000  # pictures whose size is remembered


@dataclass
class LabelReader:
    """Reads records with a text or a picture, and a label or several.

    What the first record is, all others must be, of every file that this reader reads: texts or pictures, one label or
    lists of them.

    Arguments:
        text: name of the field of texts; by default `text`, or `image` for pictures.
        label: name of the field of labels; by default `label`, or `labels`.
        input: "text" or "image", as soon as it is known.
        several: whether a record has any number of labels, as soon as it is known.

    >>> reader = LabelReader(label="language")
    >>> reader.check(Record({"text": "Guten Tag", "language": "de"}, "x.jsonl", 1), 100).fields["text"]
    'Guten Tag'
    """

    text: str | None = None
    label: str | None = None
    input: str | None = None
    several: bool | None = None
    sides: list[int] = field(default_factory=list, repr=False)
    """The shorter sides of the first pictures that were read."""

    @property
    def name(self) -> str:
        """The field of texts or pictures."""
        return IMAGE if self.input == IMAGE else self.text or TEXT

    def known(self) -> dict[str, Any]:
        """What `LabelReader(**known)` needs to read on."""
        facts = asdict(self)
        del facts["sides"]
        return facts

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """The records of a file, each checked; without `answers` labels are not asked for.

        Pictures are named from then on by whole paths.

        Raises:
            DataError: a line cannot be used; the message names it.
        """
        fields = [self.name if self.input else self._guess(source)]
        if answers:
            fields.append(self.label or LABEL)
        return read_records(source, fields, check=lambda record: self.check(record, max_characters, answers))

    def check(self, record: Record, max_characters: int, answers: bool = True) -> Record:
        """A record of a file, when it is sound; else DataError."""
        self.check_input(record)
        if self.input == TEXT:
            checked(record, (self.name,), max_characters)
        else:
            record.fields[IMAGE] = picture_in(record.fields[IMAGE], record.place, record.file)
            side = min(picture_size(record.fields[IMAGE], record.place))
            if len(self.sides) < MEASURED:
                self.sides.append(side)
        if answers:
            several = isinstance(record.fields.get(self._label_field(record)), list)
            self.labels(record)
            self._check_several(record, several)
        return record

    def labels(self, record: Record) -> tuple[str, ...]:
        """The labels of a record, each once and in order; DataError when they are none."""
        name = self._label_field(record)
        given = record.fields[name]
        found = [_label(record, name, one) for one in (given if isinstance(given, list) else [given])]
        return tuple(sorted(set(found)))

    def _label_field(self, record: Record) -> str:
        names = [self.label] if self.label else [LABEL, LABELS]
        found = [name for name in names if name in record.fields]
        if len(found) != 1:
            raise data_error(
                record.place,
                "there are two fields of labels" if found else "the label is missing",
                expected=" or ".join(map(repr, names)),
                received=listed(list(record.fields)) or "no field",
                mend="leave one of them out" if found else "add the field, or name it with --label FIELD",
            )
        return found[0]

    def check_input(self, record: Record) -> None:
        """Raises `DataError` when a record has no text or picture, both, or another kind than those before."""
        name = self.text or TEXT
        found = [one for one in dict.fromkeys((name, IMAGE)) if one in record.fields]
        if self.text in found:
            found = [name]
        if len(found) != 1:
            raise data_error(
                record.place,
                "there are a text and a picture" if found else f"the field {self.name!r} is missing",
                expected=f"{name!r} or {IMAGE!r}",
                received=listed(list(record.fields)) or "no field",
                mend="leave one of them out"
                if found
                else "add the field, or name it with --text FIELD where regard trains, evaluates or compares",
            )
        kind_here = IMAGE if found[0] == IMAGE and self.text != IMAGE else TEXT
        if self.input is None:
            self.input = kind_here
        elif self.input != kind_here:
            raise data_error(
                record.place,
                "texts and pictures are mixed",
                expected=f"{self.name!r}, as in the records before or in training",
                received=repr(found[0]),
                mend="train a model for each kind",
            )

    def _check_several(self, record: Record, several: bool) -> None:
        if self.several is None:
            self.several = several
        elif self.several != several:
            forms = ("a single label", "a list of labels")
            raise data_error(
                record.place,
                "single labels and lists of labels are mixed",
                expected=f"{forms[self.several]}, as in the records before or in training",
                received=forms[several],
                mend="write lists everywhere where any record may have several labels",
            )

    def _guess(self, source: Source) -> str:
        """The field of a table whose first line may be a header; of other files it serves for messages alone."""
        if self.text is None and IMAGE in columns(find_file(source_paths(source)[0])):
            return IMAGE
        return self.text or TEXT


def _label(record: Record, name: str, given: object) -> str:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str) or is_blank(given):
        raise data_error(
            record.place,
            f"a label in {name!r} is {'empty' if isinstance(given, str) else 'no text'}",
            expected="a string, or a list of strings",
            received=f"{kind(given)}, {shorten(given)}",
            mend="name every class in quotes; a number that is measured is no class",
        )
    return given


def check_classes(found: Collection[str], several: bool, files: str) -> None:
    """Raises `DataError` where the labels of all records, single ones or several, leave nothing to be told apart."""
    if len(found) < (1 if several else 2):
        raise data_error(
            files,
            "no record has a label" if several else "all records have the same label",
            expected="at least one label in all lists" if several else "at least two labels",
            received="empty lists" if several else listed(list(found)) or "no record",
            mend="add records of other classes, or name the field of the classes with --label FIELD",
        )


def label_numbers(labels: Sequence[str], known: dict[str, int], place: str) -> list[int]:
    """The numbers of labels; DataError where one was never seen in training.

    >>> label_numbers(["b"], {"a": 0, "b": 1}, "x.jsonl, line 1")
    [1]
    """
    for label in labels:
        if label not in known:
            raise unknown_label(label, known, place)
    return [known[label] for label in labels]


def unknown_label(label: str, known: Collection[str], place: str, what: str = "label") -> DataError:
    """The error for a label that was never seen in training."""
    several = list(itertools.islice(known, 8))
    return data_error(
        place,
        f"the {what} {shorten(label)} was never seen in training",
        expected=f"one of {len(known)}: {', '.join(map(repr, several))}{', ...' if len(known) > 8 else ''}",
        received=shorten(label),
        mend="correct it, train with examples of it, or take the record out",
    )
