"""What a translation looked at, with readable names for its rows and columns.

Shape letters: L layers, H heads, T target pieces, S source pieces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from regard.data.tokenizer import MARK, Tokenizer
from regard.data.words import merge_pieces_to_words
from regard.metrics.translation import HAN, KANA

END = "</s>"
Span = tuple[int, int]


@dataclass(frozen=True)
class Attention:
    """Weights of every target piece over the source pieces; each row sums to one. The end of a sentence is a piece too.

    `source_words` and `target_words` say for each piece the number of its word: pieces of a word that is written
    without spaces around its parts belong together, Chinese and Japanese pieces stand by themselves.
    """

    weights: NDArray[np.float32]
    """(layers, heads, target, source)"""
    source: tuple[str, ...]
    target: tuple[str, ...]
    source_words: tuple[int, ...]
    target_words: tuple[int, ...]

    def words(self) -> Attention:
        """The same between words: the pieces of a source word are added, those of a target word averaged."""
        by_source = merge_pieces_to_words(self.weights, self.source_words, "keys")
        merged = merge_pieces_to_words(by_source, self.target_words, "queries")
        source, target = _joined(self.source, self.source_words), _joined(self.target, self.target_words)
        return Attention(merged, source, target, tuple(range(len(source))), tuple(range(len(target))))


def read_attention(
    weights_LHTS: NDArray[np.float32], tokenizer: Tokenizer, text: str, target: Sequence[int]
) -> Attention:
    """Weights over the pieces of `text` and over `target`, both with an end, with names from the texts themselves."""
    source_spans = tokenizer.spans(text)
    written, target_spans = _written(tokenizer, target)
    return Attention(
        weights_LHTS,
        _names(text, source_spans),
        _names(written, target_spans),
        word_numbers(text, source_spans),
        word_numbers(written, target_spans),
    )


def written_words(tokenizer: Tokenizer, target: Sequence[int]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """For each piece of a target, and for its end, the number of its word; and the words, without the end."""
    written, spans = _written(tokenizer, target)
    numbers = word_numbers(written, spans)
    return numbers, _joined(_names(written, spans), numbers)[:-1]


def word_numbers(text: str, spans: Sequence[Span]) -> tuple[int, ...]:
    """For each piece `text[begin:end]`, and for the end of the text, the number of its word.

    >>> word_numbers("A puppy.小狗", [(0, 1), (2, 5), (5, 7), (7, 8), (8, 9), (9, 10)])
    (0, 1, 1, 2, 3, 4, 5)
    """
    numbers = []
    number = -1
    before: Span | None = None
    for span in spans:
        if before is None or not _continues(text, before, span):
            number += 1
        numbers.append(number)
        before = span
    return (*numbers, number + 1)


def _continues(text: str, before: Span, span: Span) -> bool:
    is_lone_space = before[0] == before[1]
    if is_lone_space or span == before:  # equal: bytes of one character
        return True
    return (
        span[0] == before[1]
        and span[0] < span[1]
        and _in_word(text[before[1] - 1])
        and _in_word(text[span[0]])
    )


def _in_word(character: str) -> bool:
    if HAN.match(character) or KANA.match(character):
        return False
    return unicodedata.category(character)[0] in "LMN" or character in "'’"


def _names(text: str, spans: Sequence[Span]) -> tuple[str, ...]:
    """The text of each piece; of several bytes of one character, all of which have its span, the first is named."""
    names = [text[begin:end] for begin, end in spans]
    repeated = [number > 0 and span == spans[number - 1] for number, span in enumerate(spans)]
    return (*("" if again else name for name, again in zip(names, repeated, strict=True)), END)


def _written(tokenizer: Tokenizer, target: Sequence[int]) -> tuple[str, list[Span]]:
    """The text of a target and the span of each of its pieces, which the tokenizer might have cut otherwise."""
    text = tokenizer.decode(target)
    if tokenizer.encode(text) == list(target):
        return text, tokenizer.spans(text)
    spans, text = [], ""
    for piece in tokenizer.pieces(target):
        name = piece.removeprefix(MARK)
        text += " " if name != piece else ""
        spans.append((len(text), len(text) + len(name)))
        text += name
    return text, spans


def _joined(names: Sequence[str], words: Sequence[int]) -> tuple[str, ...]:
    by_word = groupby(zip(words, names, strict=True), key=itemgetter(0))
    return tuple("".join(name for _, name in pieces) for _, pieces in by_word)
