"""The result of a classification, and what was looked at for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.data.checks import Record
from regard.data.pictures import Picture
from regard.data.tokenizer import Tokenizer
from regard.data.words import merge_pieces_to_words
from regard.pictures import AttentionPicture, PatchPicture
from regard.tasks._attention import word_numbers
from regard.tasks._mismatch import mismatch


@dataclass(frozen=True)
class Item:
    """What is classified: a text, or a picture with its pixels, and what names it."""

    content: str | Picture = field(repr=False)
    id: Any = None


@dataclass(frozen=True)
class Seen:
    """What counted: `weights` (heads, words) with the `words`, or (heads, rows, columns) over the `pixels` of a picture.

    The weights of a head sum to one.
    """

    weights: NDArray[np.float32]
    words: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None
    patch: int = 0


@dataclass(frozen=True)
class Classification:
    """What a text or picture was found to be.

    `labels` are those that were chosen, the most probable first: one, or any number where a model gives several. All are strings,
    also where the data had integers: 3 is "3". `probabilities` has every label, in the order of the alphabet. `attention` is there on request, `id` is that of the record.
    """

    source: Any = field(repr=False)
    labels: tuple[str, ...]
    probabilities: dict[str, float] = field(repr=False, hash=False)
    several: bool = field(repr=False)
    id: Any = field(default=None, repr=False)
    attention: Seen | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str | None:
        """The most probable of the chosen labels; None where none was."""
        return self.labels[0] if self.labels else None

    @property
    def probability(self) -> float | None:
        """Of `label`."""
        return self.probabilities[self.labels[0]] if self.labels else None

    def __str__(self) -> str:
        return ", ".join(f"{label}\t{self.probabilities[label]:.3f}" for label in self.labels) or "-"

    def as_json(self) -> dict[str, Any]:
        """Text or image, label(s) with their probability, and all probabilities."""
        is_picture = isinstance(self.source, Picture)
        given = {} if self.id is None else {"id": self.id}
        given |= {"image": self.source.name} if is_picture else {"text": self.source}
        rounded = {label: round(chance, 4) for label, chance in self.probabilities.items()}
        if self.several:
            return {**given, "labels": list(self.labels), "probabilities": rounded}
        found = {"label": self.label, "probability": rounded[self.labels[0]]}
        return {**given, **found, "probabilities": rounded}

    def picture(self) -> AttentionPicture | PatchPicture:
        """What the pooling query looked at: the words, or the places of the picture."""
        seen = self.attention
        if seen is None:
            raise ConfigError(
                "this was classified without looking. Expected: attention=True when it is done."
            )
        title = str(self).replace("\t", " ")
        if seen.pixels is not None:
            return PatchPicture(seen.weights, seen.pixels, seen.patch, title=title)
        weights_1H1W = seen.weights[None, :, None]
        return AttentionPicture(
            weights_1H1W, [self.label or "-"], seen.words, title=title, query_name="label", key_name="text"
        )


def restored_classification(
    entry: Record, record: Record, name: str, given: str, several: bool
) -> Classification:
    """A classification of `given`, the field `name`, text or image, from its label(s) and all probabilities."""
    found: Any = entry.fields.get("labels") if several else [entry.fields.get("label")]
    chances: Any = entry.fields.get("probabilities")
    is_sound = (
        isinstance(found, list)
        and isinstance(chances, dict)
        and all(isinstance(chance, int | float) for chance in chances.values())
        and all(label in chances for label in found)
    )
    if entry.fields.get(name) != given or not is_sound:
        expected = f"{name!r}, label(s) and 'probabilities', the {name} being that"
        raise mismatch(
            entry, record, "this is no classification of the record", expected, given, entry.fields
        )
    by_name = {label: float(chance) for label, chance in chances.items()}
    source = given if name == "text" else Picture(given, np.zeros((0, 0, 3), np.uint8))
    return Classification(source, tuple(found), by_name, several, record.fields.get("id"))


def seen_words(weights_HS: NDArray[np.float32], tokenizer: Tokenizer, text: str) -> Seen:
    """Weights over the pieces of a text as weights over its words."""
    spans = tokenizer.spans(text)
    numbers = word_numbers(text, spans)[:-1]  # without the end
    names = [""] * (max(numbers, default=-1) + 1)
    before = None
    for number, span in zip(numbers, spans, strict=True):
        names[number] += (
            "" if span == before else text[span[0] : span[1]]
        )  # bytes of one character have one span
        before = span
    return Seen(merge_pieces_to_words(weights_HS, numbers, "keys"), tuple(names))


def seen_patches(
    weights_HS: NDArray[np.float32], pixels: NDArray[np.uint8], size: Sequence[int], patch: int
) -> Seen:
    """Weights over the patches of a picture, in their places."""
    return Seen(weights_HS.reshape(-1, *size), pixels=pixels, patch=patch)
