"""What a captioner gives, and how its examples are read and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.data.checks import Record
from regard.data.lines import data_error, shorten
from regard.data.pictures import Picture
from regard.pictures import CaptionPicture


@dataclass(frozen=True)
class SeenWords:
    """Where the decoder looked while it wrote each word."""

    weights: NDArray[np.float32]
    """(words, heads, rows, columns), the mean over the layers; of each word and head they sum to one."""
    words: tuple[str, ...]
    pixels: NDArray[np.uint8]
    """(height, width, 3), the picture as the model saw it."""
    patch: int
    """Side of a patch in pixels."""


@dataclass(frozen=True)
class Caption:
    """A sentence about a picture; `score` is the mean log-probability of a piece, in nats; `attention` is there on request."""

    image: str
    text: str
    score: float
    language: str | None = None
    pieces: tuple[int, ...] = field(default=(), repr=False)
    attention: SeenWords | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, Any]:
        """Picture, text, language where the model knows several, and score, which is None where there is none."""
        language = {} if self.language is None else {"language": self.language}
        score = round(self.score, 4) if math.isfinite(self.score) else None
        return {"image": self.image, "text": self.text, **language, "score": score}

    def picture(self) -> CaptionPicture:
        """The picture, and its patches shaded for every word that was written; for a caption with attention."""
        seen = self.attention
        if seen is None:
            raise ConfigError("this caption was made without looking. Expected: attention=True when it is made.")
        return CaptionPicture(seen.weights, seen.words, seen.pixels, seen.patch, title=self.text)


def restored_caption(entry: Record, record: Record) -> Caption:
    """A caption of a record's picture from its picture, its text and, if it has one, its score."""
    image, text, score, language = (entry.fields.get(name) for name in ("image", "text", "score", "language"))
    if image != record.fields["image"] or not isinstance(text, str):
        raise data_error(
            entry.place,
            "this is no caption of the record",
            expected=f"'image' and 'text', the image being that of {record.place}: {shorten(record.fields['image'])}",
            received=shorten({"image": image, "text": text}),
            mend="name the data that the predictions were made for, in the same order",
        )
    number = float(score) if isinstance(score, int | float) else math.nan
    return Caption(image, text, number, language if isinstance(language, str) else None)


def picture_title(given: Picture) -> str:
    """The name of a picture without its folder."""
    return given.name.rpartition("/")[2]


def joined_streams(captions: Sequence[tuple[int, Sequence[int]]], end: int) -> tuple[list[int], list[int]]:
    """The lengths of captions, and all of them one after the other, each with the token that begins it and with `end`.

    >>> joined_streams([(1, [7, 8]), (3, [9])], end=2)
    ([4, 3], [1, 7, 8, 2, 3, 9, 2])
    """
    whole = [[begin, *ids, end] for begin, ids in captions]
    return [len(ids) for ids in whole], [token for ids in whole for token in ids]
