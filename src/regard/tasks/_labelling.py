"""What a person gets for a sentence: for each of its predicates who did what to whom, with probabilities.

Shape letters: B blocks, H heads, W words, Q predicates, T rows (the words of a sentence once for each predicate), K tags.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.data.checks import Record
from regard.data.columns import write_columns
from regard.data.lines import data_error, shorten
from regard.data.roles import check_predicates, check_roles
from regard.data.sentences import Sentence, sentence_of
from regard.decoding.bio import best_tags, span_probabilities
from regard.metrics.propositions import tagged_phrases
from regard.pictures import AttentionPicture
from regard.tasks._mismatch import mismatch


@dataclass(frozen=True)
class Span:
    """Words `first` to `last`, both included, under a role; `probability` is that of exactly this span with this role."""

    role: str
    first: int
    last: int
    text: str
    probability: float

    def as_json(self) -> dict[str, Any]:
        """Role, place, text and probability."""
        chance = None if math.isnan(self.probability) else round(self.probability, 4)
        return {**vars(self), "probability": chance}


@dataclass(frozen=True)
class Proposition:
    """A predicate, its position, with a BIO tag for each word and the spans that the tags make."""

    predicate: int
    roles: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Labelling:
    """A sentence with its propositions; as text one line for each, `[ARG0 The dog] [V chases] [ARG1 the cat]`.

    `found` are the positions where the model sees predicates, also where others were given, None where nobody looked for them;
    `attention` is there on request.
    """

    sentence: Sentence
    propositions: tuple[Proposition, ...]
    found: tuple[int, ...] | None
    attention: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """(blocks, heads, predicates, words, words): what each word looked at while it was labelled for each predicate."""

    def __str__(self) -> str:
        lines = [self._line(proposition) for proposition in self.propositions]
        return "\n".join(lines or [self.sentence.span(0, len(self.sentence.words) - 1)])

    def as_json(self) -> dict[str, Any]:
        """The sentence in the form of a record, with the spans of every predicate beside it."""
        name = self.sentence.identity
        return {
            **({} if name is None else {"id": name}),
            "words": list(self.sentence.words),
            "predicates": [one.predicate for one in self.propositions],
            **({} if self.found is None else {"found": list(self.found)}),
            "roles": [list(one.roles) for one in self.propositions],
            "spans": [[span.as_json() for span in one.spans] for one in self.propositions],
        }

    def as_columns(self) -> str:
        """The sentence in the columns of CoNLL, a blank line at its end."""
        predicates = [one.predicate for one in self.propositions]
        return write_columns(self.sentence.words, predicates, [one.roles for one in self.propositions])

    def picture(self, number: int = 0) -> AttentionPicture:
        """What every word looked at while it was labelled for one predicate; for a labelling with attention.

        Arguments:
            number: which predicate, from 0.
        """
        if self.attention is None:
            raise ConfigError(
                "this labelling was made without looking. Expected: attention=True when it is made."
            )
        if not 0 <= number < len(self.propositions):
            below = f"a number below {len(self.propositions)}, the predicates of this sentence"
            raise ConfigError(
                f"there is no predicate {number}. Expected: {below if self.propositions else 'a sentence with a predicate'}. "
                f"Received: {number}."
            )
        one, words = self.propositions[number], self.sentence.words
        queries = [
            word if tag == "O" else f"{word} {tag}" for word, tag in zip(words, one.roles, strict=True)
        ]
        weights_BHWW = self.attention[:, :, number]
        return AttentionPicture(
            weights_BHWW,
            queries,
            words,
            title=self._line(one),
            query_name="word and role",
            key_name="sentence",
        )

    @property
    def pictured(self) -> str:
        """Which of several predicates `picture` shows unless it is told another; nothing where there are not several."""
        if len(self.propositions) < 2:
            return ""
        first, *others = (
            f"{self.sentence.words[one.predicate]!r} (word {one.predicate})" for one in self.propositions
        )
        return f'the predicate {first}, not {", ".join(others)}; a record with "predicate" shows another'

    def _line(self, proposition: Proposition) -> str:
        parts, word = [], 0
        for span in proposition.spans:
            parts += [*self.sentence.words[word : span.first], f"[{span.role} {span.text}]"]
            word = span.last + 1
        return " ".join([*parts, *self.sentence.words[word:]])


def restored_labelling(entry: Record, record: Record) -> Labelling:
    """A labelling from its words, predicates and roles, and where they are there from the predicates found and the probabilities."""
    words = record.fields["words"]
    if entry.fields.get("words") != words:
        expected, received = (
            "'words', 'predicates' and 'roles', the words being those",
            entry.fields.get("words"),
        )
        wrong = "this is no labelling of the record"
        raise mismatch(entry, record, wrong, expected, " ".join(words), received)
    places = check_predicates(entry, len(words))
    sentence = sentence_of(record)
    chances = _probabilities(entry, places)
    propositions = []
    for place, row in zip(places, check_roles(entry, len(words), places), strict=True):
        spans = (
            Span(
                one.role,
                one.first,
                one.last,
                sentence.span(one.first, one.last),
                chances.get((place, one.first, one.last), math.nan),
            )
            for one in tagged_phrases(row)
        )
        propositions.append(Proposition(place, tuple(row), tuple(spans)))
    if (given := entry.fields.get("found")) is None:
        return Labelling(sentence, tuple(propositions), None)
    found = check_predicates(Record({"predicates": given}, entry.file, entry.line), len(words))
    return Labelling(sentence, tuple(propositions), tuple(found))


def _probabilities(entry: Record, places: Sequence[int]) -> dict[tuple[int, int, int], float]:
    """Those that an entry gives of its spans, by predicate, first and last word."""
    rows = entry.fields.get("spans")
    if rows is None:
        return {}
    is_sound = (
        isinstance(rows, list)
        and len(rows) == len(places)
        and all(isinstance(row, list) and all(map(_is_span, row)) for row in rows)
    )
    if not is_sound:
        raise data_error(
            entry.place,
            "the field 'spans' holds no spans",
            expected=f"a list for each of {len(places)} predicates, of objects with 'first', 'last' and 'probability' (0 to 1, or null)",
            received=shorten(rows),
            mend="write them as regard evaluate --predictions does, or leave 'spans' out: the roles tell the spans",
        )
    pairs = ((place, one) for place, row in zip(places, rows, strict=True) for one in row)
    return {
        (place, one["first"], one["last"]): float(one["probability"])
        for place, one in pairs
        if one.get("probability") is not None
    }


def _is_span(one: Any) -> bool:
    if not isinstance(one, dict) or type(one.get("first")) is not int or type(one.get("last")) is not int:
        return False
    chance = one.get("probability")
    return chance is None or (type(chance) in {int, float} and 0 <= chance <= 1)


def read_propositions(
    scores_TK: NDArray[np.float32],
    offsets: NDArray[np.integer],
    pairs: Sequence[tuple[Sentence, int]],
    roles: Sequence[str],
) -> list[Proposition]:
    """The best valid tags of every row, where the predicate, and no other word, begins the role V.

    Arguments:
        scores_TK: log-probabilities of tags, which are overwritten.
        offsets: (Q + 1,): the rows of each predicate.
        pairs: (Q,): the sentence of each predicate, and its position.
        roles: V first; role r has the tags 1 + 2r (B) and 2 + 2r (I).
    """
    own = offsets[:-1] + np.array([predicate for _, predicate in pairs], np.int64)
    at_predicate = scores_TK[own, 1]
    scores_TK[:, 1] = scores_TK[own] = -np.inf
    scores_TK[own, 1] = at_predicate
    names = np.array(["O", *(f"{mark}-{role}" for role in roles for mark in "BI")])
    tags = names[best_tags(scores_TK, offsets)].tolist()
    rows = [tags[begin:end] for begin, end in itertools.pairwise(offsets.tolist())]
    phrases = [tagged_phrases(row) for row in rows]
    numbers = {role: number for number, role in enumerate(roles)}
    places = [
        (begin + one.first, begin + one.last, numbers[one.role])
        for begin, found in zip(offsets[:-1].tolist(), phrases, strict=True)
        for one in found
    ]
    chances = iter(span_probabilities(scores_TK, offsets, places).tolist())
    return [
        Proposition(
            predicate,
            tuple(row),
            tuple(Span(p.role, p.first, p.last, one.span(p.first, p.last), next(chances)) for p in found),
        )
        for (one, predicate), row, found in zip(pairs, rows, phrases, strict=True)
    ]
