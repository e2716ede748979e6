"""What a word's spelling tells beside its pieces: its shape and its last letters, as numbers for an embedding."""

from __future__ import annotations

import zlib

SHAPES = 8
SUFFIXES = 1024  # numbers for endings of one length; rare endings may share one
LENGTHS = (2, 3)
FEATURES = SHAPES + SUFFIXES * len(LENGTHS)
COUNT = 1 + len(LENGTHS)


def word_features(word: str) -> list[int]:
    """The numbers, below `FEATURES`, of a word's shape and of its endings of two and three letters.

    >>> word_features("Running")[0] == word_features("Walking")[0] != word_features("WALKING")[0]
    True
    >>> word_features("Running")[1:] == word_features("WALKING")[1:]
    False
    """
    folded = word.lower()
    endings = [zlib.crc32(folded[-length:].encode("utf-8", "replace")) % SUFFIXES for length in LENGTHS]
    return [_shape(word), *(SHAPES + SUFFIXES * number + ending for number, ending in enumerate(endings))]


def _shape(word: str) -> int:
    if word.isalpha():
        if word.islower():
            return 0
        if word.isupper():
            return 1 if len(word) > 1 else 2
        return 3 if word[1:].islower() else 4
    if word.isdigit():
        return 5
    return 6 if any(character.isalnum() for character in word) else 7
