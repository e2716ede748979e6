"""What a passage and a question have in common, token by token: the features that carry small data.

Text is taken as units: words, numbers, single Chinese characters and hiragana, runs of katakana. Every piece of a passage gets
one number, its code, that says whether its unit occurs in the question, in which form, in how long a common run, how frequent
the unit is, and how much of the question occurs close by. Codes are looked up in `PARTS`.

Sources: Chen et al. 2017, "Reading Wikipedia to Answer Open-Domain Questions" (exact and lemma match, frequency); Weissenborn
et al. 2017, "Making Neural QA as Simple as Possible but not Simpler" (weighted word in question).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from regard.data.signs import SIGN
from regard.data.tokenizer import Tokenizer

Integers = NDArray[np.int64]
SINGLE = "\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # hiragana and Chinese characters
KATAKANA = "\u30a0-\u30ff"
LETTER = rf"[^\W_{SINGLE}{KATAKANA}]"
UNIT = re.compile(rf"[{SINGLE}]{SIGN}*|[{KATAKANA}]+(?:{SIGN}+[{KATAKANA}]*)*|{LETTER}+(?:{SIGN}+{LETTER}*)*")
ALONE = re.compile(rf"[{SINGLE}]")
PREFIX = 5  # letters that words of one stem mostly share

SHARES = (0.2, 0.05, 0.01, 0.002)  # of all texts; a unit in more of them than that has the level of its place
RARE = len(SHARES)
WEIGHTS = np.array([0.0, 1.0, 2.5, 4.0, 6.0])  # of a level, as inverse document frequency grows
NEAR = (5, 20)  # units to both sides
STEPS = 8  # of the share of the question that is found nearby
RUN_LENGTHS = (1, 2, 3, 4, 6)

# For each feature, how many values it has: form of the match, common run, level (and one for what is no unit), nearby shares.
SIZES = (4, len(RUN_LENGTHS) + 1, RARE + 2, STEPS, STEPS)
NO_UNIT = RARE + 1
PASSAGE_CODES = int(np.prod(SIZES))
CODES = PASSAGE_CODES + 2 * (
    RARE + 2
)  # of a question's pieces: whether the passage has the unit, and its level
SHAPES = 9
SPELLINGS = (
    4 * SHAPES + 1
)  # of a passage's pieces and a question's, inside a unit and at its beginning, and of an end


def _parts() -> Integers:
    """(CODES, F): for each code the rows of an embedding table whose sum it stands for."""
    bounds = np.cumsum((0, *SIZES))
    inside = np.stack(np.unravel_index(np.arange(PASSAGE_CODES), SIZES), axis=1) + bounds[:-1]
    asked = np.zeros((CODES - PASSAGE_CODES, len(SIZES)), np.int64)
    asked[:] = bounds[-1] + 1  # a row of their own that says "question"
    asked[:, 0] = bounds[-1] + 2 + np.arange(len(asked))
    return np.concatenate([inside, asked])


PARTS = _parts()
ROWS = int(PARTS.max()) + 1


def units_of(text: str) -> list[str]:
    """The units of a text, in lower case; letters with their signs are put together.

    >>> units_of("In 1903 東京タワー")
    ['in', '1903', '東', '京', 'タワー']
    """
    return [_written(match).lower() for match in UNIT.finditer(text)]


def nearest_match(question: str, passage: str, begin: int, end: int) -> int:
    """Units from the characters `begin` to `end` of a passage to the nearest unit outside them that the question has too.

    Neighbours are 1 apart. Where the question has no unit of the passage it is the number of the passage's units.

    >>> nearest_match("Who wrote the notes?", "Notes on it: Ada King wrote them.", 13, 21)
    1
    """
    asked = set(units_of(question))
    matches = list(UNIT.finditer(passage))
    first = sum(match.end() <= begin for match in matches)
    behind = sum(match.start() < end for match in matches)
    return min(
        (
            first - place if place < first else place - behind + 1
            for place, match in enumerate(matches)
            if not first <= place < behind and _written(match).lower() in asked
        ),
        default=len(matches),
    )


class Text:
    """A text as pieces, and as units.

    `units[unit_of[p]]` is the unit of piece p, or, where `is_unit[p]` is false, the one that follows. A piece may cover
    several units, up to that of the next piece, and several pieces may belong to one.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.ids, self.spans = tokenizer.encode_with_offsets(text)
        matches = list(UNIT.finditer(text))
        self.written = [_written(match) for match in matches]
        self.units = [unit.lower() for unit in self.written]
        self.alone = np.array([ALONE.match(unit) is not None for unit in self.units], dtype=bool)
        starts = np.array([match.start() for match in matches], dtype=np.int64)
        ends = np.array([match.end() for match in matches], dtype=np.int64)
        begins = np.array([begin for begin, _ in self.spans], dtype=np.int64)
        self.unit_of = np.searchsorted(ends, begins, side="right")
        padded = np.append(starts, len(text) + 1)
        empty = np.array([begin == end for begin, end in self.spans], dtype=bool)
        self.is_unit = (padded[self.unit_of] <= begins) & ~empty
        self.begins_unit = padded[self.unit_of] == begins

    def spellings(self, asked: bool) -> Integers:
        """(P,) below `SPELLINGS`: what the letters of each piece's unit look like, and where the piece stands in it."""
        shapes = np.array([*map(_shape, self.written), 0], dtype=np.int64)
        found = np.where(self.is_unit, shapes[self.unit_of], 0)
        return found + SHAPES * (self.begins_unit + 2 * int(asked))


class Matcher:
    """Codes for the pieces of questions and passages; `levels` says how frequent units are, those not in it are rare.

    Without `compares`, codes say only what is question and what passage, and how frequent units are.

    >>> tokenizer = Tokenizer.train(["Who wrote it? Ada wrote notes on it."] * 2, vocabulary_size=400)
    >>> matcher = Matcher(Matcher.frequencies([["who", "wrote", "it"], ["ada", "wrote", "notes"]]))
    >>> question, passage = (Text(text, tokenizer) for text in ("Who wrote notes?", "Ada wrote it."))
    >>> asked, told = matcher.codes(question, passage)
    >>> [int(match) for match in PARTS[told][:, 0]]
    [0, 3, 0, 0]
    """

    def __init__(self, levels: Mapping[str, int], compares: bool = True) -> None:
        self.levels, self.compares = dict(levels), compares

    @staticmethod
    def frequencies(texts: Iterable[Iterable[str]]) -> dict[str, int]:
        """The level of each unit that is not rare, from the units of many texts."""
        counts: Counter[str] = Counter()
        total = 0
        for units in texts:
            counts.update(set(units))
            total += 1
        levels = {}
        for unit, count in sorted(counts.items()):
            level = next((place for place, share in enumerate(SHARES) if count > share * total), RARE)
            if level < RARE and count > 1:
                levels[unit] = level
        return levels

    def codes(self, question: Text, passage: Text) -> tuple[Integers, Integers]:
        """The codes of the question's pieces (Q,) and of the passage's (P,)."""
        known = set(passage.units) if self.compares else set[str]()
        levels = self._levels(question.units)
        said = np.array([*(unit in known for unit in question.units), False], dtype=np.int64)
        asked = said * (RARE + 2) + np.append(levels, NO_UNIT)
        codes_Q = np.where(question.is_unit, asked[question.unit_of], NO_UNIT)
        return codes_Q + PASSAGE_CODES, self._passage_codes(question, passage, levels)

    def _levels(self, units: Sequence[str]) -> Integers:
        return np.array([self.levels.get(unit, RARE) for unit in units], dtype=np.int64)

    def _passage_codes(self, question: Text, passage: Text, asked_levels: Integers) -> Integers:
        if not passage.units:
            return np.full(
                len(passage.ids), np.ravel_multi_index((0, 0, NO_UNIT, 0, 0), SIZES), dtype=np.int64
            )
        if not self.compares:
            levels = _by_piece(passage, self._levels(passage.units))
            levels[~passage.is_unit] = NO_UNIT
            nothing = np.zeros_like(levels)
            return np.ravel_multi_index((nothing, nothing, levels, nothing, nothing), SIZES)
        match = _forms(question, passage)
        run = _runs(question.units, passage.units, match > 0)
        levels = self._levels(passage.units)
        # A Chinese character by itself says little: it counts where its neighbour is common too.
        weights = WEIGHTS[levels] * (match > 0) * ~(passage.alone & (run < 2))
        whole = WEIGHTS[asked_levels].sum()
        nearby = [_steps(_window_sums(weights, reach), whole) for reach in NEAR]
        columns = [
            _by_piece(passage, values)
            for values in (match, np.searchsorted(RUN_LENGTHS, run, "right"), levels)
        ]
        columns[2][~passage.is_unit] = NO_UNIT
        place = np.minimum(passage.unit_of, len(passage.units) - 1)
        return np.ravel_multi_index((*columns, *(steps[place] for steps in nearby)), SIZES)


def _forms(question: Text, passage: Text) -> Integers:
    """For each unit of the passage: 3 where the question has it as written, 2 in other case, 1 by its beginning, else 0."""
    exact, lower = set(question.written), set(question.units)
    stems = {unit[:PREFIX] for unit in lower if len(unit) >= PREFIX}
    return np.array(
        [
            3
            if written in exact
            else 2
            if unit in lower
            else int(len(unit) >= PREFIX and unit[:PREFIX] in stems)
            for written, unit in zip(passage.written, passage.units, strict=True)
        ],
        dtype=np.int64,
    )


def _runs(asked: Sequence[str], told: Sequence[str], matched: NDArray[np.bool_]) -> Integers:
    """For each unit told the length of the longest run of units around it, up to the last of `RUN_LENGTHS`, that is asked too."""
    runs = matched.astype(np.int64)
    for length in range(2, RUN_LENGTHS[-1] + 1):
        common = _grams(asked, length)
        places = [place for place, gram in enumerate(_all_grams(told, length)) if gram in common]
        if not places:
            break
        for shift in range(length):
            runs[np.array(places) + shift] = length
    return runs


def _all_grams(units: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(itertools.islice(units, shift, None) for shift in range(length)), strict=False)


def _grams(units: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return set(_all_grams(units, length))


def _window_sums(weights: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    total = np.concatenate([[0.0], np.cumsum(weights)])
    place = np.arange(len(weights))
    return total[np.minimum(place + reach + 1, len(weights))] - total[np.maximum(place - reach, 0)]


def _steps(found: NDArray[np.float64], whole: float) -> Integers:
    return np.minimum(found / max(whole, 1e-9) * STEPS + 1e-9, STEPS - 1).astype(np.int64)


def _by_piece(text: Text, of_unit: Integers) -> Integers:
    """Values of units for the pieces: the largest of the units that a piece covers, 0 where it has none."""
    values = np.zeros(len(text.ids), dtype=np.int64)
    values[text.is_unit] = (
        np.maximum.reduceat(of_unit, text.unit_of[text.is_unit]) if text.is_unit.any() else 0
    )
    return values


def _written(match: re.Match[str]) -> str:
    """The unit that was found, in the one form that Unicode calls composed."""
    unit = match.group()
    return unit if unit.isascii() else unicodedata.normalize("NFC", unit)


def _shape(unit: str) -> int:
    """1 to 8: what kind of letters a unit is made of."""
    if unit.isdigit():
        return 5
    if "\u3041" <= unit[0] <= "\u30ff":
        return 7 if unit[0] < "\u30a0" else 8
    if "\u3400" <= unit[0] <= "\ufaff":
        return 6
    if unit.islower():
        return 1
    if unit.isupper() and len(unit) > 1:
        return 3
    return 2 if unit[1:].islower() or len(unit) == 1 else 4
