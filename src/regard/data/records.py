"""Records from files of text: `.jsonl`, `.csv`, `.tsv` and parallel text, each checked at the door, none skipped.

for record in read_records("train.jsonl.gz", ("source", "target")):
    print(record.fields["source"], record.line)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from regard.data.checks import MAX_CHARACTERS, Record, check_length, checked
from regard.data.formats import FORMATS, is_plain, reader
from regard.data.lines import data_error, find_file, is_there, shorten

__all__ = ["MAX_CHARACTERS", "Record", "Source", "check_length", "plain_file", "read_records", "source_paths"]

Source = str | Path | Sequence[str | Path]


def read_records(
    source: Source,
    fields: Sequence[str],
    *,
    max_characters: int = MAX_CHARACTERS,
    check: Callable[[Record], Record] | None = None,
) -> Iterator[Record]:
    """Streams the records of `source`, every one with all `fields` as text that is not blank.

    A field `target` may be given as `targets`, a list of several references. After reading, a record that was
    asked for `target` has both: `target` (the first reference where only `targets` was given) and `targets`.
    Other columns of the file are kept as they are.

    Args:
        source: one path or several, read in turn (`.jsonl`, `.csv`, `.tsv`, with `.gz` or not; a `.tsv` without a header has
            exactly the columns `fields`, two of them; for one field any other name is plain text, a field a line), or one
            text file for each field: `"a.en,a.de"` or a tuple of paths. Documents (`.xlsx`, `.html`) are refused.
        fields: names of the text fields that every record must have.
        max_characters: the longest text allowed in one field.
        check: a check of every record in place of the one that all `fields` are text.

    Raises:
        DataError: at once when a file is missing, a folder or empty; while iterating when a line cannot be used.
            The message names file and line, what was expected, what was received and how to mend it.
    """
    paths = [find_file(path) for path in source_paths(source)]
    read = reader(paths, fields)
    records = read(paths, fields)
    return map(check, records) if check else (checked(one, fields, max_characters) for one in records)


def plain_file(source: Source) -> Path | None:
    """The file with a text on each line that `source` names; None where by their names its files hold anything else."""
    paths = source_paths(source)
    return find_file(paths[0]) if len(paths) == 1 and is_plain(paths[0]) else None


def source_paths(source: Source) -> list[Path]:
    """The paths that `source` names: one, several with commas between them, or a sequence of them."""
    if isinstance(source, Path):
        return [source]
    if isinstance(source, str):
        parts = [Path(part.strip()) for part in source.split(",")]
        if len(parts) > 1 and is_there(Path(source)):
            parts = [Path(source)]
    else:
        parts = [Path(part) for part in source]
    if not parts or any(str(part) == "." for part in parts):
        raise data_error(
            "source",
            "a path is empty",
            expected=FORMATS,
            received=shorten(source),
            mend="name the file or files",
        )
    return parts
