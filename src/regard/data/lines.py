"""Lines of text files, gzipped or not, decoded at the door: what cannot be read is named by file, line and byte."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from regard._errors import DataError, nearest

GZIP_MAGIC = b"\x1f\x8b"
KINDS = {
    dict: "an object",
    list: "a list",
    tuple: "a tuple",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}


def shorten(value: object, width: int = 80) -> str:
    """`repr(value)`, cut when it is long, so that messages stay readable.

    >>> shorten("a" * 200, width=12)
    "'aaaaaaaa..."
    """
    text = value[: width + 1] if isinstance(value, str) else value
    shown = repr(text)
    return shown if len(shown) <= width else shown[: width - 3] + "..."


def data_error(place: str, wrong: str, *, expected: str, received: str, mend: str) -> DataError:
    """The one form of every message about data: place, what is wrong, expected, received, how to mend it."""
    return DataError(f"{place}: {wrong}. Expected: {expected}. Received: {received}. To mend it: {mend}.")


def listed(names: Sequence[str]) -> str:
    """Names in quotes, for messages."""
    return " and ".join(repr(name) for name in names) if len(names) < 3 else ", ".join(map(repr, names))


def kind(value: object) -> str:
    """What JSON calls the type of `value`, and of what JSON does not have its name in Python; for messages.

    >>> kind(("a", "b"))
    'a tuple'
    """
    if type(value) in KINDS:
        return KINDS[type(value)]
    return "a number" if isinstance(value, int | float) else f"a value of type {type(value).__name__!r}"


def is_there(path: Path) -> bool:
    """Whether something can be found at `path`; a sentence that was given for a path is just not there."""
    try:
        path.stat()
    except (OSError, ValueError):  # name too long, no permission, a NUL inside
        return False
    return True


def find_file(path: Path) -> Path:
    """`path` when it is a file with something in it.

    Raises:
        DataError: it does not exist (with the nearest name in its folder), is a folder, or is empty.
    """
    if not is_there(path):
        raise _not_found(path)
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir())
        raise data_error(
            str(path),
            "this is a folder",
            expected="a file",
            received=f"a folder with {len(inside)} entries {shorten(inside)}",
            mend="name one of the files in it",
        )
    if path.is_file() and path.stat().st_size == 0:
        raise empty_file(path)
    return path


def _not_found(path: Path) -> DataError:
    folder = path.parent
    found = is_there(folder) and folder.is_dir()
    names = [entry.name for entry in folder.iterdir()] if found else []
    return data_error(
        shorten(str(path), 300).strip("'"),
        "file not found",
        expected="the path of an existing file",
        received=f"the folder {str(folder)!r} "
        + (f"has no such name{nearest(path.name, names)}" if found else "does not exist either"),
        mend="correct the path",
    )


def empty_file(path: Path) -> DataError:
    """The error for a file without a single line."""
    return data_error(
        str(path),
        "the file is empty",
        expected="at least one line",
        received="nothing",
        mend="check how the file was made or copied",
    )


def read_lines(path: Path, *, ends: bool = False) -> Iterator[tuple[int, str]]:
    """Yields `(line number from 1, line without its line end)` in constant memory; `.gz` is unpacked on the fly.

    A byte order mark at the beginning is an encoding mark, not text, and is left out. With `ends` every line keeps its
    end, as a line feed, so that the lines together are the text.

    Raises:
        DataError: the file is empty, is no gzip file though it says `.gz`, ends in the middle of a gzip stream,
            or holds bytes that are not UTF-8.
    """
    number = 0
    with _open(path) as file:
        lines = iter(file)
        while True:
            try:
                raw = next(lines, None)
            except (EOFError, OSError, zlib.error) as error:
                raise _unreadable(path, number + 1, error) from error
            if raw is None:
                break
            number += 1
            line = _decode(raw, path, number)
            if not ends:
                line = line.rstrip("\r\n")
            elif line.endswith("\r\n"):
                line = line[:-2] + "\n"
            yield number, line.removeprefix("\ufeff") if number == 1 else line
    if number == 0:
        raise empty_file(path)


def _open(path: Path) -> BinaryIO:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, 1, error) from error


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if number == 1 and raw.startswith(GZIP_MAGIC):
            mend = "the file is gzipped: let its name end in .gz"
        elif number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            mend = "the file is UTF-16: convert it, for example with iconv -f UTF-16 -t UTF-8"
        else:
            mend = "save the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8 if it is Latin-1"
        raise data_error(
            f"{path}, line {number}, byte {error.start + 1} of the line",
            "the text is not UTF-8",
            expected="UTF-8",
            received=f"the byte 0x{raw[error.start]:02X} after {shorten(raw[: error.start].decode('utf-8')[-30:])}",
            mend=mend,
        ) from error


def _unreadable(path: Path, number: int, error: Exception) -> DataError:
    place = f"{path}, line {number}"
    if isinstance(error, EOFError):
        return data_error(
            place,
            "the gzip file is cut short",
            expected="a complete gzip file",
            received=f"an end in the middle, after {number - 1} whole lines",
            mend="copy or download the file again",
        )
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return data_error(
            place,
            "the file cannot be unpacked",
            expected="gzip, since its name ends in .gz",
            received=str(error),
            mend="take .gz off the name if it is plain text, or copy the file again",
        )
    return data_error(
        place,
        "the file cannot be read",
        expected="a readable file",
        received=str(error),
        mend="check its permissions and the disk",
    )
