"""Pictures from files, rows of arrays and arrays: checked at the door, decoded to pixels (height, width, 3).

A picture is named by the path of a file, or by `images.npz#17`, row 17 of the array `images` in an `.npz` file. From Python
it may also be the bytes of a file, an open file, an array or an image of Pillow.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from regard._errors import DataError, nearest
from regard.data.lines import data_error, is_there, kind, shorten

MAX_PIXELS = 50_000_000  # a small file may claim to be any size: this much is decoded, and no more
MAX_BYTES = 1 << 32  # of an array of pictures, which memory holds whole
IMAGES = "images"
ROW = re.compile(r"(.+\.npz)#(-?\d+)", re.DOTALL)
EXPECTED = "a PNG, JPEG, WebP, GIF, BMP or TIFF file, or any other that Pillow reads"
# What Pillow's decoders raise on broken files; AssertionError where one is closed.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zlib.error,
)
# What zipfile and NumPy raise on broken files; RuntimeError where one is encrypted.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels` (height, width, 3), uint8, and the `name` of the picture for people; equal where both are."""

    name: str
    pixels: Pixels

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picture):
            return NotImplemented
        return self.name == other.name and np.array_equal(self.pixels, other.pixels)

    def __hash__(self) -> int:
        return hash(self.name)


def picture_name(value: Any, place: str, folder: Path, rows: Path) -> str:
    """The whole name of what a record of a file gives: a path, from `folder`, or a row number, in the file `rows`.

    Raises:
        DataError: it is neither a path nor a number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{rows}#{value}"
    if isinstance(value, str) and value.strip() and "\0" not in value:
        row = ROW.fullmatch(value)
        return f"{(folder / row[1]).resolve()}#{row[2]}" if row else str((folder / value).resolve())
    raise data_error(
        place,
        "the picture is neither a path nor a row number",
        expected="the path of a file, from the folder of this file, or a row of the array in the .npz beside it",
        received=f"{kind(value)}, {shorten(value)}",
        mend='write "image": "pictures/dog.png", or "image": 17',
    )


def picture_in(value: Any, place: str, file: str) -> str:
    """The whole name of what a record of `file` gives: paths start there, rows are of the `.npz` beside it of the same name.

    Raises:
        DataError: it is neither a path nor a number.
    """
    path = Path(file)
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    return picture_name(value, place, path.parent, (path.parent / f"{stem}.npz").resolve())


def picture_size(given: Any, place: str) -> tuple[int, int]:
    """Height and width of a picture, by the head of its file alone.

    Raises:
        DataError: there is none, it is no picture, or too large.
    """
    if isinstance(given, str) and not ROW.fullmatch(given):
        with _opened(given, place) as image:
            return image.height, image.width
    height, width = _array(given, place).shape[:2]
    return height, width


def load_picture(given: Any, place: str, side: int) -> Picture:
    """The picture of a name, of the bytes of a file, an open file, an array (height, width[, 3 or 1]) of uint8, or an image of Pillow.

    The pixels are red, green and blue; what is transparent becomes white, and a photograph is turned upright as its
    camera noted. A picture whose longer side has more than `side` pixels is scaled down to that. The caller's own pixels are copied.

    Raises:
        DataError: there is none, it is no picture, broken, closed, or too large.
    """
    if isinstance(given, Picture):
        return Picture(given.name, _fitted(given.pixels, side))
    if isinstance(given, Image.Image):
        _check_pixels(given.height, given.width, place)
        with _sound("a picture", place):
            return Picture("a picture", _fitted(_rgb(ImageOps.exif_transpose(given), place), side))
    if isinstance(given, bytes | bytearray | memoryview):
        given = io.BytesIO(given)
    if isinstance(given, Path):
        given = str(given)
    if not hasattr(given, "read") and (not isinstance(given, str) or ROW.fullmatch(given)):
        name = given if isinstance(given, str) else "an array"
        return Picture(name, _fitted(_three(_array(given, place)), side))
    name = given if isinstance(given, str) else "a picture"
    with _opened(given, place) as image, _sound(name, place):
        image.draft("RGB", (side, side))  # a JPEG is decoded at a fraction of its size where that is enough
        return Picture(name, _fitted(_rgb(ImageOps.exif_transpose(image), place), side))


@contextmanager
def _sound(name: str, place: str) -> Iterator[None]:
    """Turns what Pillow raises on a broken picture into DataError."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise _no_picture(name, place, "a file that begins like none of them") from error
    except BROKEN as error:
        raise _no_picture(name, place, f"{error}" or "an image that was closed") from error


def _opened(given: str | IO[bytes], place: str) -> Image.Image:
    """The picture of a path or an open file, its head read and found to be of a size that may be decoded."""
    name = given if isinstance(given, str) else "a picture"
    if isinstance(given, str):
        _check_path(given, place)
    try:
        with _sound(name, place):
            image = Image.open(given)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(place, f"{name}: {error}") from error
    try:
        _check_pixels(image.height, image.width, place)
    except DataError:
        image.close()
        raise
    return image


def _check_path(path: str, place: str) -> None:
    if not is_there(Path(path)) or Path(path).is_dir():
        folder = Path(path).parent
        names = [entry.name for entry in folder.iterdir()] if is_there(folder) and folder.is_dir() else []
        raise data_error(
            place,
            f"there is no picture {shorten(path, 300)}",
            expected="the path of an existing file, from the folder of this file",
            received=f"no such file{nearest(Path(path).name, names)}",
            mend="correct the path, or take the record out",
        )


def _rgb(image: Image.Image, place: str) -> Pixels:
    if image.mode == "F":
        raise _no_picture("this", place, "floating-point pixels, whose range nothing tells")
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow itself would cut them off at 255
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return _three((wide // 257).astype(np.uint8))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _array(given: Any, place: str) -> NDArray[Any]:
    """A checked array (height, width[, channels]), which may be a row of a file."""
    row = ROW.fullmatch(given) if isinstance(given, str) else None
    pixels = given if row is None else _row(row[1], int(row[2]), place)
    shape = getattr(pixels, "shape", None)
    if shape is None:
        raise data_error(
            place,
            "this is no picture",
            expected="the path of a file, its bytes, an open file, an array of uint8 or an image of Pillow",
            received=f"{kind(given)}, {shorten(given)}",
            mend="give one of them",
        )
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in {1, 3})
    if not fits or pixels.dtype != np.uint8:
        raise data_error(
            place,
            "this array is no picture",
            expected="uint8 of shape (height, width), or with 3 or 1 channels last",
            received=f"{pixels.dtype} of shape {shape}",
            mend="convert it; numbers between 0 and 1 times 255",
        )
    _check_pixels(pixels.shape[0], pixels.shape[1], place)
    return np.asarray(pixels)


def _row(path: str, number: int, place: str) -> Any:
    try:
        stat = Path(path).stat()
        images = _images(path, stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError as error:
        raise data_error(
            place,
            f"the file of pictures {path} is not there",
            expected=f"an .npz file with an array {IMAGES!r}, beside the data and of the same name",
            received="no such file",
            mend="copy it there, or name each picture's own file",
        ) from error
    except UNREADABLE as error:
        raise data_error(
            place,
            f"the file of pictures {path} cannot be read",
            expected=f"an .npz file with an array {IMAGES!r}, uint8, pictures x height x width x 3 (or 1)",
            received=str(error),
            mend=f"write it with numpy.savez_compressed(path, {IMAGES}=pictures), large pictures scaled down before",
        ) from error
    if not 0 <= number < len(images):
        raise data_error(
            place,
            f"the picture is outside the array {IMAGES!r} of {path}",
            expected=f"a row from 0 to {len(images) - 1}",
            received=str(number),
            mend="correct the number, or put the .npz of this very file beside it",
        )
    return images[number]


@lru_cache(maxsize=1)
def _images(path: str, _changed: int, _size: int) -> NDArray[Any]:
    """The array of a file, kept for the next picture of the same file."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{IMAGES}.npy")
        with archive.open(member) as file:
            _check_head(file, member.file_size)
        with archive.open(member) as file:  # numpy.load might take another of like name
            images: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return images


def _check_head(file: IO[bytes], size: int) -> None:
    """Raises ValueError for an array that is not of pictures or too large, by its head alone: unpacked, it might fill the memory."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"version {version} of NumPy's format")
    shape, _, dtype = read[version](file)
    held = size - file.tell()
    if len(shape) not in {3, 4} or min(shape) < 0 or dtype != np.uint8:
        raise ValueError(f"{dtype} of shape {shape}")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise ValueError(f"pictures of {shape[2]:,} x {shape[1]:,} pixels, more than {MAX_PIXELS:,}")
    if math.prod(shape) != held:
        raise ValueError(f"{held:,} bytes for {dtype} of shape {shape}")
    if held > MAX_BYTES:
        raise ValueError(f"{held:,} bytes of pictures, more than {MAX_BYTES:,}")


def _three(pixels: NDArray[Any]) -> Pixels:
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _fitted(pixels: Pixels, side: int) -> Pixels:
    """At most `side` pixels on the longer side, of one's own: the caller's may change, and a row keeps its whole array."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        return pixels.copy()
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _check_pixels(height: int, width: int, place: str) -> None:
    if height < 1 or width < 1:
        raise _no_picture("this", place, f"{width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise _too_large(place, f"{width:,} x {height:,} pixels")


def _too_large(place: str, received: str) -> DataError:
    return data_error(
        place,
        "the picture is too large",
        expected=f"at most {MAX_PIXELS:,} pixels",
        received=received,
        mend="scale it down; a model sees small pictures anyway",
    )


def _no_picture(name: str, place: str, received: str) -> DataError:
    return data_error(
        place,
        f"{name} is no picture that can be read",
        expected=EXPECTED,
        received=received,
        mend="save it again, for example as PNG, or take the record out",
    )
