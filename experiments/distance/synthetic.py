"""Three questions whose answer lies a chosen number of tokens back: agreement, copying and associative recall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from distance.examples import Example

Generator = np.random.Generator
TRAINING, TESTING = range(2)  # random numbers of either are never those of the other


@dataclass(frozen=True)
class Question:
    """How examples are made: `make(generator, gap)`, with so many token ids and labels."""

    make: Callable[[Generator, int], Example]
    vocabulary: int
    labels: int


# Of agreement: ids of adverbs, prepositions, nouns (singular and plural ones), comma and verb.
ADVERBS, PREPOSITIONS, NOUNS, COMMA, VERB = range(10), range(10, 14), range(14, 54), 54, 55


def agreement(generator: Generator, gap: int) -> Example:
    """Is the verb singular or plural? As its subject is, `gap` words before it: the only noun that follows no preposition.

    Prepositional phrases and adverbs stand between, and up to two phrases before. Their nouns are drawn like the subject.
    """
    before = [word for _ in range(generator.integers(3)) for word in _phrase(generator)]
    subject = _draw(generator, NOUNS)
    between: list[int] = []
    while len(between) < gap:
        fits = gap - len(between) >= 2 and generator.random() < 0.7
        between += _phrase(generator) if fits else [_draw(generator, ADVERBS)]
    tokens = [*before, COMMA, subject, *between, VERB]
    return Example(tokens, [len(tokens) - 1], [subject % 2])


SYMBOLS, COPIED, BLANK, AGAIN = 8, 5, 8, 9


def copying(generator: Generator, gap: int) -> Example:
    """Five symbols, `gap` blanks, then five requests for the symbols in their order (Hochreiter and Schmidhuber 1997)."""
    symbols = generator.integers(SYMBOLS, size=COPIED).tolist()
    tokens = [*symbols, *[BLANK] * gap, *[AGAIN] * COPIED]
    return Example(tokens, list(range(COPIED + gap, len(tokens))), symbols)


KEYS, PAIRS = 8, 3
FILLER = 3 * KEYS


def recall(generator: Generator, gap: int) -> Example:
    """Three pairs of a key and a value, `gap` fillers, then a key whose value is asked (Graves et al. 2014)."""
    keys = generator.permutation(KEYS)[:PAIRS]
    values = generator.integers(KEYS, size=PAIRS)
    asked = generator.integers(PAIRS)
    pairs = np.stack([keys, KEYS + values], axis=1).ravel().tolist()
    tokens = [*pairs, *[FILLER] * gap, 2 * KEYS + int(keys[asked])]
    return Example(tokens, [len(tokens) - 1], [int(values[asked])])


QUESTIONS = {
    "agreement": Question(agreement, VERB + 1, 2),
    "copying": Question(copying, AGAIN + 1, SYMBOLS),
    "recall": Question(recall, FILLER + 1, KEYS),
}


def endless(question: Question, count: int, seed: int, longest: int) -> Iterator[list[Example]]:
    """Batches of so many examples, with gaps from 0 to `longest`."""
    generator = np.random.default_rng([TRAINING, seed])
    while True:
        yield [question.make(generator, int(generator.integers(longest + 1))) for _ in range(count)]


def held_out(question: Question, count: int, gap: int) -> list[Example]:
    """So many examples of one gap, the same for every model."""
    generator = np.random.default_rng([TESTING, gap])
    return [question.make(generator, gap) for _ in range(count)]


def _phrase(generator: Generator) -> list[int]:
    return [_draw(generator, PREPOSITIONS), _draw(generator, NOUNS)]


def _draw(generator: Generator, ids: range) -> int:
    return int(generator.integers(ids.start, ids.stop))
