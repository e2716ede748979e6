"""Byte-pair dropout: a word is cut now this way, now that, so that a model learns what its pieces are made of.

Source: Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".
"""

from __future__ import annotations

import json
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers

from regard._errors import ConfigError
from regard.data.permutation import derived, hashed, uniform
from regard.data.tokenizer import MARK, Tokenizer, _checked

SAMPLES = 8  # ways in which a word is cut, at most
LONGEST = 64  # symbols; no merge crosses the border between two such parts of a longer word
REMEMBERED = 24  # symbols of the longest word whose ways are kept: longer ones hardly come again
DRAWS = 1 << 12  # numbers kept for one way of one word: at least LONGEST * (LONGEST - 1) / 2

Piece = tuple[int, int]  # its id, and how many symbols it is made of


class DroppingTokenizer(Tokenizer):
    """A tokenizer that leaves out each possible merge with probability `share`, anew before every merge it makes.

    Until no merge is left: drop each merge that is possible now with probability `share`; of those that remain, make the
    one of the lowest rank, the leftmost first. Every word has up to 8 ways to be cut; which of them a word of a text gets is a
    function of (seed, variant, text, place), the same in every run. With `share` 0 it cuts as `tokenizer` does.

    Arguments:
        tokenizer: a byte-pair tokenizer, whose ids are used.
        share: probability in [0, 1); 0.1 is usual.
        seed: any integer.

    Raises:
        ConfigError: the tokenizer has no merges.

    >>> tokenizer = Tokenizer.train(["low lower lowest"] * 4, vocabulary_size=300)
    >>> dropping = DroppingTokenizer(tokenizer, share=0.5, seed=1)
    >>> tokenizer.pieces(tokenizer.encode("lower"))
    ['▁lower']
    >>> dropping.decode(dropping.encode("lower"))
    'lower'
    """

    def __init__(self, tokenizer: Tokenizer, share: float, seed: int) -> None:
        super().__init__(tokenizer._core)
        form = json.loads(tokenizer._core.to_str())
        model = form["model"]
        if model["type"] != "BPE":
            raise ConfigError(
                f"pieces can be dropped of byte-pair vocabularies alone. Received: {model['type']}. Leave bpe_dropout out."
            )
        ids = model["vocab"]
        self._merges = {
            (ids[a], ids[b]): (rank, ids[a + b]) for rank, (a, b) in enumerate(map(_pair, model["merges"]))
        }
        model["merges"] = []
        # The same tokenizer without its merges: the symbols of every word, and where they stand in the text.
        self._symbols = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(form)))
        self._ways: dict[tuple[tuple[int, ...], int], tuple[Piece, ...]] = {}
        self.share, self.seed, self.variant = share, derived(seed), 0

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, as this variant cuts it."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text."""
        texts = [_checked(text) for text in texts]
        found = self._symbols._core.encode_batch(texts, add_special_tokens=False)
        return [[index for index, _ in pieces] for pieces in self._pieces(texts, found)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode(text)` and `spans(text)` at once."""
        symbols, spans = self._symbols.encode_with_offsets(text)
        (pieces,) = self._pieces([text], [self._symbols._core.encode(text, add_special_tokens=False)])
        mark = self._core.token_to_id(MARK)
        ids, of_pieces, place = [], [], 0
        for index, count in pieces:
            # The sign for a space stands for nothing unless it is the whole piece.
            begin = place + (count > 1 and symbols[place] == mark)
            ids.append(index)
            of_pieces.append((spans[begin][0], spans[place + count - 1][1]))
            place += count
        return ids, of_pieces

    def _pieces(self, texts: Sequence[str], encodings: Sequence[Any]) -> Iterator[list[Piece]]:
        words = [_words(encoding.ids, encoding.word_ids) for encoding in encodings]
        counts = np.array([len(some) for some in words], np.int64)
        begins = np.array([zlib.crc32(text.encode()) for text in texts], np.int64) << 16
        places = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        ways = iter((hashed(self.seed + self.variant + 1, places) % np.uint64(SAMPLES)).tolist())
        for some in words:
            yield [piece for word in some for piece in self._cut(word, next(ways))]

    def _cut(self, word: tuple[int, ...], way: int) -> tuple[Piece, ...]:
        found = self._ways.get((word, way))
        if found is None:
            parts = (word[begin : begin + LONGEST] for begin in range(0, len(word), LONGEST))
            found = tuple(piece for part in parts for piece in self._merged(part, way))
            if len(word) <= REMEMBERED:
                self._ways[word, way] = found
        return found

    def _merged(self, symbols: tuple[int, ...], way: int) -> list[Piece]:
        count = len(symbols)
        begin = (zlib.crc32(array("q", symbols).tobytes()) * SAMPLES + way) * DRAWS
        draws = iter(uniform(self.seed, begin + np.arange(count * (count - 1) // 2)).tolist())
        pieces = [(symbol, 1) for symbol in symbols]
        while True:
            possible = [
                (*merge, place)
                for place in range(len(pieces) - 1)
                if (merge := self._merges.get((pieces[place][0], pieces[place + 1][0])))
                and next(draws) >= self.share
            ]
            if not possible:
                return pieces
            _, merged, place = min(possible)
            pieces[place : place + 2] = [(merged, pieces[place][1] + pieces[place + 1][1])]


def _words(ids: list[int], of_words: list[int]) -> list[tuple[int, ...]]:
    """The ids of each word, from the word that each id belongs to."""
    words, begin = [], 0
    while begin < len(ids):
        end = bisect_right(of_words, of_words[begin], begin)
        words.append(tuple(ids[begin:end]))
        begin = end
    return words


def _pair(merge: Any) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge  # older files write "a b"
