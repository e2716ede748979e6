"""Words as numbers: their pieces, and what their spelling tells beside these, their shape and last letters."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from regard.data.tokenizer import Tokenizer

SHAPES = 8
SUFFIXES = 1024  # numbers for endings of one length; rare endings may share one
LENGTHS = (2, 3)
FEATURES = SHAPES + SUFFIXES * len(LENGTHS)
COUNT = 1 + len(LENGTHS)


class Spelling:
    """Words to their pieces, where each word begins, and its features; every word is spelled once.

    >>> spell = Spelling(Tokenizer.train(["A dog runs."], vocabulary_size=256))
    >>> pieces, starts, features = spell(["A", "dog"])
    >>> starts, len(features) // COUNT
    ([0, 2], 2)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, tuple[list[int], list[int]]] = {}

    def __call__(self, words: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
        """The streams `pieces`, `starts` and `features` of a sentence."""
        pieces: list[int] = []
        starts: list[int] = []
        features: list[int] = []
        for word in words:
            if word not in self.known:
                # Byte-level vocabularies tell the begin of a word by the space before it.
                ids = self.tokenizer.encode(f" {word}") or [self.tokenizer.unk]
                self.known[word] = ids, word_features(word)
            ids, told = self.known[word]
            starts.append(len(pieces))
            pieces += ids
            features += told
        return pieces, starts, features


def word_features(word: str) -> list[int]:
    """The numbers, below `FEATURES`, of a word's shape and of its endings of two and three letters.

    >>> word_features("Running")[0] == word_features("Walking")[0] != word_features("WALKING")[0]
    True
    >>> word_features("Running")[1:] == word_features("WALKING")[1:]
    True
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
