"""Reads predicates with their phrases from BIO tags and from the bracket columns of CoNLL-2005."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from regard._errors import DataError

OPENING = re.compile(r"\(((?:\\\*|[^*(])+)")
CLOSING = re.compile(r"([^)]*)\)")


@dataclass
class Phrase:
    """Words `first` to `last`, both included, under a role; `pieces` are the phrases right inside it.

    >>> Phrase("A0", 0, 3).pieces
    []
    """

    role: str
    first: int
    last: int = -1
    pieces: list[Phrase] = field(default_factory=list)


@dataclass(frozen=True)
class Proposition:
    """A predicate as it is written in the first column, with the phrases of its own column."""

    verb: str
    phrases: list[Phrase]


@dataclass(frozen=True)
class Sentence:
    """How many words it has, and its propositions by the position of their predicate."""

    words: int
    propositions: dict[int, Proposition]


def tagged_phrases(tags: Sequence[str]) -> list[Phrase]:
    """The phrases of BIO tags; an I-ROLE that continues nothing begins one.

    Raises:
        DataError: a tag is neither O nor B-ROLE nor I-ROLE.

    >>> [(phrase.role, phrase.first, phrase.last) for phrase in tagged_phrases(["B-A0", "I-A0", "O", "I-A1"])]
    [('A0', 0, 1), ('A1', 3, 3)]
    """
    phrases: list[Phrase] = []
    before = "O"
    for position, tag in enumerate(tags):
        kind, _, role = tag.partition("-")
        if tag != "O" and (kind not in {"B", "I"} or not role):
            raise DataError(
                f"word {position} has the tag {tag!r}. Expected: O, B-ROLE or I-ROLE. Received: {tag!r}. "
                "To mend it: convert the tags to BIO."
            )
        if kind == "B" or (kind == "I" and before != role):
            phrases.append(Phrase(role, position, position))
        elif kind == "I":
            phrases[-1].last = position
        before = role
    return phrases


def read_props(text: str) -> list[Sentence]:
    r"""The sentences of a props file, the format of CoNLL-2005: verbs or "-", then a column for each verb.

    Raises:
        DataError: a line has another number of columns, or brackets do not match; the message names the line.

    >>> sentence = read_props("-   (A0*\n-   *)\nrun (V*)")[0]
    >>> print(sentence.words, sentence.propositions[2].verb, len(sentence.propositions[2].phrases))
    3 run 2
    """
    sentences, rows = [], []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if fields := line.split():
            rows.append((number, fields))
        elif rows:
            sentences.append(_sentence(rows))
            rows = []
    return sentences


def _sentence(rows: list[tuple[int, list[str]]]) -> Sentence:
    verbs = [(position, fields[0]) for position, (_, fields) in enumerate(rows) if fields[0] != "-"]
    for number, fields in rows:
        if len(fields) != 1 + len(verbs):
            raise DataError(
                f"line {number} has {len(fields)} columns. Expected: {1 + len(verbs)}, the first and one for each of "
                f"the sentence's {len(verbs)} predicates. Received: {' '.join(fields)!r}. To mend it: write '*' where "
                "an argument neither begins nor ends."
            )
    columns = [_bracketed([(number, fields[i + 1]) for number, fields in rows]) for i in range(len(verbs))]
    pairs = zip(verbs, columns, strict=True)
    return Sentence(len(rows), {position: Proposition(verb, phrases) for (position, verb), phrases in pairs})


def _bracketed(column: list[tuple[int, str]]) -> list[Phrase]:
    """The phrases of one column, by where they begin, the longer first; of two with one extent the inner one."""
    begun: list[Phrase] = []
    ended: list[Phrase] = []
    for position, (number, tag) in enumerate(column):
        opening, star, closing = tag.rpartition("*")
        roles, ends = OPENING.findall(opening), CLOSING.findall(closing)
        whole = not OPENING.sub("", opening) and not CLOSING.sub("", closing)
        begun += [Phrase(role, position) for role in roles]
        fits = len(ends) <= len(begun) and all(
            end in {"", phrase.role} for end, phrase in zip(ends, reversed(begun), strict=False)
        )
        if not (star and whole and fits):
            raise _unreadable(number, tag)
        for _ in ends:
            phrase = begun.pop()
            phrase.last = position
            if begun:
                begun[-1].pieces.append(phrase)
            ended.append(phrase)
    if begun:
        raise _unreadable(column[-1][0], f"({begun[-1].role} is never closed")
    extents: dict[tuple[int, int], Phrase] = {}
    for phrase in ended:
        extents.setdefault((phrase.first, phrase.last), phrase)
    return sorted(extents.values(), key=lambda phrase: (phrase.first, -phrase.last))


def _unreadable(number: int, tag: str) -> DataError:
    return DataError(
        f"the brackets of line {number} do not match. Expected: '(ROLE*' where an argument begins, '*)' where it "
        f"ends, '*' elsewhere. Received: {tag!r}. To mend it: close every bracket in the column that opened it."
    )
