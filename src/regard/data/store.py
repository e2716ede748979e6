"""Token ids on disk, memory-mapped: a corpus of any size in constant memory, gathered packed and without padding.

A folder holds, for each field, `<field>.values` (int32, all examples one after another) and `<field>.offsets` (int64,
n + 1), then `lengths` (int32, n x fields), and `store.json`, which is written last: a folder without it is unfinished.

A token may be a row of bytes instead, such as a patch of a picture: a field whose examples are arrays (tokens, width) of
uint8 has its values as they are.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import DataError

FORM = 1
BUFFER = 1 << 18
Tokens = Sequence[int] | NDArray[np.uint8]  # ids, or rows of bytes (tokens, width)
Gathered = tuple[
    NDArray[Any], NDArray[np.int32]
]  # values (total,) or (total, width), and offsets (N + 1,) of N examples


class TokenStore:
    """`len(store)` examples of one or more `fields`; `lengths` is (n, fields), int32, memory-mapped.

    >>> store = TokenStore.write("store", [([5, 6], [7]), ([8], [9, 10, 11])], ("source", "target"))
    >>> store.gather([1, 0])["source"]
    (array([8, 5, 6], dtype=int32), array([0, 1, 3], dtype=int32))
    """

    def __init__(
        self,
        fields: tuple[str, ...],
        lengths: NDArray[np.int32],
        values: dict[str, NDArray[Any]],
        offsets: dict[str, NDArray[np.int64]],
    ) -> None:
        self.fields = fields
        self.lengths = lengths
        self._values = values
        self._offsets = offsets

    @classmethod
    def write(
        cls, folder: str | Path, examples: Iterable[tuple[Tokens, ...]], fields: tuple[str, ...]
    ) -> TokenStore:
        """Streams `examples`, a tuple with the ids or the rows of bytes of each field, into `folder` and opens it.

        Raises:
            DataError: an example does not have one list of ids for each field, an id is no int32, or a field has ids and
                bytes, or rows of unequal width.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "store.json").unlink(missing_ok=True)
        count = 0
        with ExitStack() as files:
            lengths = _Column(folder / "lengths", "i", files)
            values = [_Values(folder / f"{field}.values", files) for field in fields]
            offsets = [_Column(folder / f"{field}.offsets", "q", files) for field in fields]
            for column in offsets:
                column.extend([0])
            for example in examples:
                if len(example) != len(fields):
                    raise DataError(
                        f"example {count}: wrong number of fields. Expected: {len(fields)}, {', '.join(fields)}. "
                        f"Received: {len(example)}. To mend it: give one list of ids for each field."
                    )
                lengths.extend([len(ids) for ids in example])
                for ids, value, offset in zip(example, values, offsets, strict=True):
                    value.extend(ids)
                    offset.extend([value.count])
                count += 1
        tokens = [column.count for column in values]
        form = {
            "form": FORM,
            "byteorder": np.little_endian,
            "count": count,
            "fields": fields,
            "tokens": tokens,
            "widths": [column.width or 0 for column in values],
        }
        (folder / "store.json").write_text(json.dumps(form), encoding="utf-8")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """The store in `folder`.

        Raises:
            DataError: there is none, or it is unfinished or damaged.
        """
        folder = Path(folder)
        try:
            form = json.loads((folder / "store.json").read_text(encoding="utf-8"))
            fields, count = tuple(form["fields"]), form["count"]
            if form["form"] != FORM or form["byteorder"] != np.little_endian:
                raise _unusable(folder, "a store of another form or byte order")
            tokens = dict(zip(fields, form["tokens"], strict=True))
            widths = dict(zip(fields, form.get("widths", [0] * len(fields)), strict=True))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise _unusable(folder, f"{type(error).__name__}, {error}") from error
        lengths = _mapped(folder / "lengths", np.int32, count * len(fields)).reshape(count, len(fields))
        values = {
            field: _values(folder / f"{field}.values", tokens[field], widths[field]) for field in fields
        }
        offsets = {field: _mapped(folder / f"{field}.offsets", np.int64, count + 1) for field in fields}
        return cls(fields, lengths, values, offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        tokens = ", ".join(f"{field}: {len(self._values[field]):,} tokens" for field in self.fields)
        return f"TokenStore({len(self):,} examples; {tokens})"

    def gather(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> dict[str, Gathered]:
        """For each field `(values (total,) int32, offsets (len(indices) + 1,) int32)` of the chosen examples, in order.

        Of a field of bytes the values are (total, width) uint8.

        Raises:
            DataError: an index is outside the store.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise DataError(
                f"an index is outside the store. Expected: 0 to {len(self) - 1}. "
                f"Received: {chosen.min()} to {chosen.max()}. To mend it: choose indices below len(store)."
            )
        return {
            field: self._gather(field, self._offsets[field][chosen], self._offsets[field][chosen + 1])
            for field in self.fields
        }

    def cut(
        self, field: str, index: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]
    ) -> Gathered:
        """The tokens `begin` to `end` of the examples `index` (n,), which may be named several times; nothing is checked."""
        first = self._offsets[field][index]
        return self._gather(field, first + begin, first + end)

    def _gather(self, field: str, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Gathered:
        lengths = ends - begins
        offsets = np.zeros(len(begins) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        where = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
        return np.asarray(self._values[field][where]), offsets.astype(np.int32)


class _Column:
    """A growing file of integers, written in large pieces."""

    def __init__(self, path: Path, code: str, files: ExitStack) -> None:
        self.count = 0
        self._buffer = array(code)
        self._file = files.enter_context(path.open("wb"))
        files.callback(self._flush)  # runs before the file is closed

    def extend(self, numbers: Sequence[int]) -> None:
        try:
            self._buffer.extend(numbers)
        except (OverflowError, TypeError) as error:
            raise DataError(
                f"token ids that cannot be stored ({error}). Expected: 32-bit integers. Received: {numbers[:5]!r}. "
                "To mend it: give ids of the tokenizer."
            ) from error
        self.count += len(numbers)
        if len(self._buffer) >= BUFFER:
            self._flush()

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def _flush(self) -> None:
        self._buffer.tofile(self._file)
        del self._buffer[:]


class _Values:
    """The values of a field: ids, or rows of bytes of one width."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self.count = 0
        self.width: int | None = None  # of the first example: 0 for ids
        self._column = _Column(path, "i", files)

    def extend(self, tokens: Tokens) -> None:
        width = tokens.shape[1] if isinstance(tokens, np.ndarray) and tokens.ndim == 2 else 0
        if self.width is None:
            self.width = width
        if width != self.width or (width and tokens.dtype != np.uint8):  # type: ignore[union-attr]
            raise DataError(
                f"tokens that cannot be stored. Expected: {f'rows of {self.width} bytes' if self.width else 'ids'}, as the "
                f"examples before. Received: {getattr(tokens, 'dtype', 'ids')} of width {width}. To mend it: encode all "
                "examples alike."
            )
        if width:
            self._column.write(np.ascontiguousarray(tokens).tobytes())
        else:
            self._column.extend(tokens)  # type: ignore[arg-type]
        self.count += len(tokens)


def _values(path: Path, count: int, width: int) -> NDArray[Any]:
    if not width:
        return _mapped(path, np.int32, count)
    return _mapped(path, np.uint8, count * width).reshape(count, width)


def _mapped(path: Path, dtype: type[np.integer[Any]], count: int) -> NDArray[Any]:
    size = path.stat().st_size if path.is_file() else None
    if size != count * np.dtype(dtype).itemsize:
        raise _unusable(path, "no file" if size is None else f"{size} bytes for {count} numbers")
    if count == 0:
        return np.zeros(0, dtype)  # nothing can't be mapped
    return np.memmap(path, dtype, mode="r")


def _unusable(path: Path, received: str) -> DataError:
    return DataError(
        f"{path}: the token store cannot be used. Expected: a folder that TokenStore.write finished. "
        f"Received: {received}. To mend it: delete the folder and let it be written again."
    )
