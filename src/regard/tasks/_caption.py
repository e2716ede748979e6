"""What a captioner gives, and how its examples are read and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard._errors import ConfigError
from regard._packed import Packed
from regard.data.checks import Record
from regard.data.packing import pack_streams
from regard.data.tokenizer import Tokenizer
from regard.data.words import merge_pieces_to_words
from regard.nn.captioner import Captioner
from regard.nn.patches import CHANNELS
from regard.nn.watch import watch
from regard.pictures import CaptionPicture
from regard.tasks._attention import written_words
from regard.tasks._mismatch import mismatch

STREAMS = ("lengths", "captions", "size", "patches")
Source = tuple[Sequence[int], NDArray[np.uint8]]
"""Of one picture: (rows, columns), and its patches (rows * columns, bytes)."""


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
            raise ConfigError(
                "this caption was made without looking. Expected: attention=True when it is made."
            )
        return CaptionPicture(seen.weights, seen.words, seen.pixels, seen.patch, title=self.text)


def restored_caption(entry: Record, record: Record) -> Caption:
    """A caption of a record's picture from its picture, its text and, if it has one, its score."""
    image, text, score, language = (entry.fields.get(name) for name in ("image", "text", "score", "language"))
    if image != record.fields["image"] or not isinstance(text, str):
        expected, received = "'image' and 'text', the image being that", {"image": image, "text": text}
        wrong = "this is no caption of the record"
        raise mismatch(entry, record, wrong, expected, record.fields["image"], received)
    number = float(score) if isinstance(score, int | float) else math.nan
    return Caption(image, text, number, language if isinstance(language, str) else None)


def joined_streams(captions: Sequence[tuple[int, Sequence[int]]], end: int) -> tuple[list[int], list[int]]:
    """The lengths of captions, and all of them one after the other, each with the token that begins it and with `end`.

    >>> joined_streams([(1, [7, 8]), (3, [9])], end=2)
    ([4, 3], [1, 7, 8, 2, 3, 9, 2])
    """
    whole = [[begin, *ids, end] for begin, ids in captions]
    return [len(ids) for ids in whole], [token for ids in whole for token in ids]


def teacher_forced(batch: dict[str, Packed]) -> tuple[Packed, Tensor, Tensor]:
    """Of all captions of a batch what the decoder reads, what it is to write, and (M,) the picture that each is of."""
    lengths = batch["lengths"].values.numpy()
    tokens = batch["captions"].values
    ends = np.cumsum(lengths)
    is_last, is_first = np.zeros(len(tokens), bool), np.zeros(len(tokens), bool)
    is_last[ends - 1], is_first[ends - lengths] = True, True
    offsets = np.concatenate([[0], np.cumsum(lengths - 1)])
    pictures = np.repeat(np.arange(len(batch["lengths"])), batch["lengths"].lengths)
    read = Packed(tokens[torch.from_numpy(~is_last)], offsets)
    return read, tokens[torch.from_numpy(~is_first)], torch.from_numpy(pictures)


def encoded(model: Captioner, sources: Sequence[Source]) -> Packed:
    """The encodings of some pictures, each given as (rows, columns) and its patches."""
    batch = pack_streams(list(sources), ("size", "patches"))
    return model.encode(batch["patches"], sizes_of(batch))


def sizes_of(batch: dict[str, Packed]) -> NDArray[np.int64]:
    """(N, 2), rows and columns of the pictures of a batch."""
    sizes: NDArray[np.int64] = batch["size"].values.view(-1, 2).numpy()
    return sizes


def look(
    model: Captioner,
    tokenizer: Tokenizer,
    pixels: NDArray[np.uint8],
    source: Source,
    begin: int,
    pieces: Sequence[int],
) -> SeenWords:
    """Where the decoder looked: one pass over the finished caption, with the kernel that always runs."""
    lengths, tokens = joined_streams([(begin, pieces)], tokenizer.eos)
    batch = pack_streams([(lengths, tokens, *source)], STREAMS)
    read, _, pictures = teacher_forced(batch)
    with watch(model.decoder) as seen:
        model(batch["patches"], sizes_of(batch), read, pictures)
    weights_HTS = torch.stack(seen).mean(dim=0).transpose(0, 1).float().numpy()
    numbers, words = written_words(tokenizer, pieces)
    merged = merge_pieces_to_words(weights_HTS[:, :-1], numbers[:-1], "queries")  # without the end
    size, patches = source
    patch = round((patches.shape[1] // CHANNELS) ** 0.5)
    shaped = merged.swapaxes(0, 1).reshape(len(words), merged.shape[0], *size)
    return SeenWords(shaped, words, pixels, patch)
