"""What a person gets for a question: the span of the passage that answers it, how probable it is, and what was looked at.

Shape letters: B blocks, H heads, Q words of the question, P words of the passage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.data.checks import Record
from regard.data.matches import Text, nearest_match
from regard.data.words import merge_pieces_to_words
from regard.pictures import AttentionPicture
from regard.tasks._attention import END, word_numbers
from regard.tasks._mismatch import mismatch

DISTANCES = (1, 2, 3, 5, 9)  # words, where parts of examples begin


@dataclass(frozen=True)
class Question:
    """A question and the passage in which its answer is looked for."""

    text: str
    passage: str = field(repr=False)
    id: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Looked:
    """Where the words of a question looked in a passage, in every block that reads both.

    Of a passage that is read in several windows this is the one that holds the answer best.
    """

    weights: NDArray[np.float32]
    """(B, H, Q, P), between words; each row sums to one."""
    question: tuple[str, ...]
    """Its words; the last row is that of its end."""
    passage: tuple[str, ...]
    """The words of the window."""
    start: int = 0
    """The character of the passage with which the window begins."""


@dataclass(frozen=True)
class Candidate:
    """A span, `passage[start:end] == text`, and how probable it is that it is the answer."""

    text: str
    start: int
    end: int
    probability: float

    def as_json(self) -> dict[str, Any]:
        """The same in plain values."""
        return {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "probability": round(self.probability, 4),
        }


@dataclass(frozen=True)
class Answer:
    """An answer: `passage[start:end] == text`, or no text where the passage has none; both bounds are then None.

    `probability` is that of this span, or of there being no answer, among all spans of the passage; `no_answer` that of there
    being none, 0 for a model that always answers. `candidates` are the most probable spans, as many as were asked for, none of which
    overlap; the first is there also where no answer is given. `attention` is there on request, of the window of the passage that
    holds the answer best; `id` is that of the question.
    """

    question: str
    text: str
    start: int | None
    end: int | None
    probability: float
    no_answer: float
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    id: Any = field(default=None, repr=False)
    attention: Looked | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return " ".join(self.text.split())

    def as_json(self) -> dict[str, Any]:
        """Question, text, bounds and probabilities; of several candidates these too."""
        several = [one.as_json() for one in self.candidates] if len(self.candidates) > 1 else None
        return {
            **({} if self.id is None else {"id": self.id}),
            "question": self.question,
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "probability": round(self.probability, 4),
            "no_answer": round(self.no_answer, 4),
            **({} if several is None else {"candidates": several}),
        }

    def picture(self) -> AttentionPicture:
        """Where the words of the question looked in the passage; for an answer with attention."""
        if self.attention is None:
            raise ConfigError(
                "this answer was found without looking. Expected: attention=True when it is asked for."
            )
        seen = self.attention
        title = f"{self.question} → {self}"
        return AttentionPicture(
            seen.weights, seen.question, seen.passage, title=title, query_name="question", key_name="passage"
        )


def restored_answer(entry: Record, record: Record) -> Answer:
    """An answer from its question and text and, if it has them, bounds and probabilities."""
    question, text = (entry.fields.get(name) for name in ("question", "text"))
    if question != record.fields["question"] or not isinstance(text, str):
        expected, received = (
            "'question' and 'text', the question being that",
            {"question": question, "text": text},
        )
        wrong = "this is no answer to the record's question"
        raise mismatch(entry, record, wrong, expected, record.fields["question"], received)
    start, end = (entry.fields.get(name) for name in ("start", "end"))
    chances = (entry.fields.get(name) for name in ("probability", "no_answer"))
    probability, no_answer = (float(one) if isinstance(one, int | float) else 0.0 for one in chances)
    asked = record.fields["question"]
    return Answer(asked, text, start, end, probability, no_answer, id=record.fields.get("id"))


def looked(weights_BTHP: NDArray[np.float32], question: Text, passage: Text, begin: int, size: int) -> Looked:
    """The attention of a question's pieces and its end to `size` pieces of a passage, from `begin` on, between words.

    `weights_BTHP` are those of one reading, the question first, to the pieces of the passage and what is padded. Where the
    question gave some to itself the rest is scaled.
    """
    told = weights_BTHP[:, : len(question.ids) + 1, :, :size].swapaxes(1, 2)
    told = told / np.maximum(told.sum(-1, keepdims=True), 1e-12)
    spans = passage.spans[begin : begin + size]
    columns, rows = word_numbers(passage.text, spans)[:-1], word_numbers(question.text, question.spans)
    merged = merge_pieces_to_words(merge_pieces_to_words(told, columns, "keys"), rows, "queries")
    asked = (*_words(question.text, question.spans), END)
    return Looked(merged, asked, _words(passage.text, spans), spans[0][0] if spans else 0)


def _words(text: str, spans: list[tuple[int, int]]) -> tuple[str, ...]:
    """The words that pieces make."""
    bounds: dict[int, tuple[int, int]] = {}
    for number, (begin, end) in zip(word_numbers(text, spans), spans, strict=False):
        first, last = bounds.get(number, (begin, end))
        bounds[number] = (min(first, begin), max(last, end))
    return tuple(text[begin:end] for begin, end in bounds.values())


def answer_distance(record: Record) -> int:
    """Words from an answer to the nearest word that the question has too, the least of all answers; 0 where there is none."""
    asked, told = record.fields["question"], record.fields["context"]
    bounds = [(one["start"], one["start"] + len(one["text"])) for one in record.fields["answers"]]
    return min((nearest_match(asked, told, *span) for span in bounds), default=0)
