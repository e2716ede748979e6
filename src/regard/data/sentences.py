"""Sentences with their predicates and roles: JSON lines, the columns of CoNLL, or plain text; all predicates together.

A record is a sentence: `words`, `predicates` (positions from 0), `roles` (for each predicate a BIO tag a word), and `id`
where there is one. Files hold either that or one predicate a line, `words`, `predicate` and `roles`, as PropBank is often
given: consecutive lines of one sentence become one record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from regard.data.checks import RAISE, Record, check_text, is_blank
from regard.data.columns import read_columns
from regard.data.formats import reader
from regard.data.lexicon import NO_WORDS, RUN, UNSPACED, Lexicon
from regard.data.lines import data_error, find_file, shorten
from regard.data.records import Source, source_paths
from regard.data.roles import check_predicates, check_roles, check_words
from regard.data.signs import SIGN

# Of one emoji: what may be drawn together, by a joiner, and colours of skin, forms and the letters of flags behind it.
SYMBOL = "\u2190-\u2bff\U0001f000-\U0001faff"
CHANGE = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
EMOJI = rf"[\U0001f1e6-\U0001f1ff]{{2}}|[{SYMBOL}](?:[{CHANGE}]|\u200d[{SYMBOL}])+{SIGN}*"
# Apart from contractions, which English corpora cut: digits with their points stay together, as does a row of one mark.
WORD = re.compile(
    rf"[{UNSPACED}]+"
    r"|(?:[A-Za-z]\.){2,}"  # U.S.
    r"|\d+(?:[.,:]\d+)*(?:\ufe0f?\u20e3)?"  # the last is a key around a digit
    r"|n['’]t\b|['’](?:s|m|d|re|ve|ll)\b"
    rf"|(?:(?!n['’]t\b)[^\W\d_{UNSPACED}]{SIGN}*)+(?:\d+)?"
    rf"|{EMOJI}"
    rf"|([^\w\s])(?:\1(?![{CHANGE}]))*{SIGN}*|\S",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sentence:
    """Words, the positions of its predicates (None: to be found), where the words stand in a text, and what names it."""

    words: tuple[str, ...]
    predicates: tuple[int, ...] | None = None
    text: str | None = None
    places: tuple[tuple[int, int], ...] = ()
    identity: Any = None

    def span(self, first: int, last: int) -> str:
        """The words `first` to `last`, both included, as they were written.

        >>> cut("I don't know.").span(1, 3)
        "don't know"
        """
        if self.text is None:
            return " ".join(self.words[first : last + 1])
        return self.text[self.places[first][0] : self.places[last][1]]

    def fields(self) -> dict[str, Any]:
        """The fields of a record, from which `sentence_record` and `sentence_of` make the sentence again."""
        given = {
            "id": self.identity,
            "text": self.text,
            "words": list(self.words),
            "predicates": self.predicates,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        return fields if self.predicates is None else fields | {"predicates": list(self.predicates)}


def cut(text: str, lexicon: Lexicon = NO_WORDS) -> Sentence:
    """The words of a text, cut at spaces and punctuation; English contractions are cut as corpora do.

    Chinese and Japanese are cut into the words of a lexicon, and else into characters.

    >>> cut("She can't pay $3.50...").words
    ('She', 'ca', "n't", 'pay', '$', '3.50', '...')
    """
    words, places = [], []
    for match in WORD.finditer(text):
        end = match.start()
        for word in lexicon.cut(match[0]) if RUN.match(match[0]) else (match[0],):
            begin, end = end, end + len(word)
            if not is_blank(word):  # a mark without width, which is no space
                words.append(word)
                places.append((begin, end))
    return Sentence(tuple(words), None, text, tuple(places))


def read_sentences(
    source: Source, max_characters: int, *, answers: bool = True, lexicon: Lexicon = NO_WORDS
) -> Iterator[Record]:
    """Streams the sentences of a file, each checked, none skipped.

    Args:
        source: `.jsonl`, or `.conll` with a column of words, one that marks predicates and one of roles for each of them
            (both also with `.gz`); without `answers` also lines of plain text. Several files are read in turn: a tuple of paths,
            or one string with commas between them.
        max_characters: the longest sentence.
        answers: whether predicates and roles must be there; without, roles are not looked at.
        lexicon: the words into which Chinese and Japanese text is cut.

    Raises:
        DataError: at once when the file is missing or empty; while iterating when a line cannot be used.
    """
    paths = [find_file(path) for path in source_paths(source)]
    return chain.from_iterable(_read(path, max_characters, answers, lexicon) for path in paths)


def _read(path: Path, max_characters: int, answers: bool, lexicon: Lexicon) -> Iterator[Record]:
    if path.name.removesuffix(".gz").lower().endswith(".conll"):
        return (sentence_record(record, max_characters, answers) for record in read_columns(path, answers))
    fields = ("words", "predicate", "roles") if answers else ("words",)
    return _joined(reader([path], fields)([path], fields), max_characters, answers, lexicon)


def sentence_record(
    record: Record, max_characters: int, answers: bool, lexicon: Lexicon = NO_WORDS
) -> Record:
    """A record of one sentence in its full form; `DataError` says what is wrong with it."""
    given = record.fields
    fields: dict[str, Any] = {"id": given["id"]} if "id" in given else {}
    plain = given.get("text", given.get("words"))
    if not answers and isinstance(plain, str):
        fields |= _words_of_text(record, plain, lexicon)
    else:
        fields["words"] = check_words(record)
    _check_length(record, fields["words"], max_characters)
    if answers or "predicate" in given or "predicates" in given:
        fields["predicates"] = check_predicates(record, len(fields["words"]))
    if answers:
        fields["roles"] = check_roles(record, len(fields["words"]), fields["predicates"])
    return Record(fields, record.file, record.line)


def _words_of_text(record: Record, text: str, lexicon: Lexicon) -> dict[str, Any]:
    """The words that a record gives, by which it counts its predicates, or else those of its text; and the text where both agree."""
    if isinstance(record.fields.get("words"), list | tuple):
        words = check_words(record)
        places = _places(text, words)
    else:
        sentence = cut(_sound(record, text), lexicon)
        words, places = list(sentence.words), list(sentence.places)
    return {"text": text, "words": words, "places": places} if places else {"words": words}


def _places(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where in a text its words stand, nothing visible beside them; none where they are not the words of the text."""
    places = []
    end = 0
    for word in words:
        begin = text.find(word, end)
        if begin < 0 or not is_blank(text[end:begin]):
            return []
        end = begin + len(word)
        places.append((begin, end))
    return places if is_blank(text[end:]) else []


def sentence_of(record: Record) -> Sentence:
    """What a prediction needs of a record."""
    fields = record.fields
    predicates = tuple(fields["predicates"]) if "predicates" in fields else None
    places = tuple((begin, end) for begin, end in fields.get("places", ()))
    return Sentence(tuple(fields["words"]), predicates, fields.get("text"), places, fields.get("id"))


def _joined(rows: Iterator[Record], max_characters: int, answers: bool, lexicon: Lexicon) -> Iterator[Record]:
    """Consecutive lines of one sentence, a predicate a line, as one record; a predicate that comes again begins the sentence anew.

    A line with a list of predicates is a sentence by itself, also where the next one has the same words.
    """
    held: Record | None = None
    for row in rows:
        is_part = "predicate" in row.fields and "predicates" not in row.fields
        if held is not None and not is_part:
            yield held
            held = None
        record = sentence_record(row, max_characters, answers, lexicon)
        if not is_part:
            yield record
        elif held is not None and _goes_on(held.fields, record.fields):
            held.fields["predicates"] += record.fields["predicates"]
            if answers:
                held.fields["roles"] += record.fields["roles"]
        else:
            if held is not None:
                yield held
            held = record
    if held is not None:
        yield held


def _goes_on(held: dict[str, Any], fields: dict[str, Any]) -> bool:
    same = all(held.get(name) == fields.get(name) for name in ("id", "words", "text"))
    return same and not set(held["predicates"]) & set(fields["predicates"])


def _sound(record: Record, text: str) -> str:
    if is_blank(text):
        raise data_error(
            record.place,
            "the sentence is empty",
            expected="text with at least one visible character",
            received=shorten(text),
            mend="fill it in or remove the line",
        )
    check_text(record, "text", text)
    return text


def _check_length(record: Record, words: list[str], limit: int) -> None:
    length = sum(map(len, words)) + len(words) - 1
    if length > limit:
        raise data_error(
            record.place,
            "the sentence is too long",
            expected=f"at most {limit:,} characters",
            received=f"{length:,} characters, beginning {shorten(' '.join(words[:10]), 40)}",
            mend=f"split it into several, or {RAISE}",
        )
