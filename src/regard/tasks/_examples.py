"""Passages with their questions as examples: their streams, and how a model reads a batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._packed import Packed
from regard.data.matches import CODES, SPELLINGS, Matcher, Text
from regard.data.passages import best_window, covering_pieces, window_starts
from regard.nn.reader import PassageReader, SpanScores

END_CODE, END_SPELLING = CODES - 1, SPELLINGS - 1  # of the end of a question, which no piece has
SHORTEST, LONGEST = 8, 64  # between them is by default the longest span that is looked for
COVERED = 0.99  # of the training answers are no longer than that


@dataclass(frozen=True)
class Window:
    """How a passage is cut: pieces in a window, how far the next one begins, and the longest span looked for."""

    size: int
    stride: int
    longest: int

    @classmethod
    def fitting(cls, lengths: Sequence[int], size: int, stride: int, longest: int | None) -> Window:
        """A window for answers of these lengths; `longest`, where it is not given, covers nearly all of them.

        Windows overlap by the longest span at least, so that every answer lies within one of them.
        """
        if longest is None:
            usual = sorted([SHORTEST, *lengths])[min(len(lengths), int((len(lengths) + 1) * COVERED))]
            longest = min(max(SHORTEST, usual), LONGEST, max(1, size // 2))
        return cls(size, max(1, min(stride, size - longest)), longest)


def remarks_on(questions: int, passages: int, lengths: Sequence[int], longest: int) -> list[str]:
    """What is to be said of training data with answers of these lengths."""
    found = [f"{questions:,} questions on {passages:,} passages"]
    longer = sum(length > longest for length in lengths)
    if longer:
        found.append(
            f"{longer:,} of {len(lengths):,} answers are longer than the {longest} pieces that are looked for; --longest-answer N "
            "looks for more"
        )
    return found


class Example:
    """A passage with some questions, on its way to the streams of the task."""

    def __init__(self, passage: Text, matcher: Matcher, window: Window, end: int, abstains: bool) -> None:
        self.passage, self.matcher, self.window = passage, matcher, window
        self.end, self.abstains = end, abstains
        self.starts = window_starts(len(passage.ids), window.size, window.stride)
        self.questions: list[Text] = []
        self.readings: list[tuple[int, int]] = []  # question, window
        self.codes: list[int] = []
        self.golds: list[int] = []

    def add(self, question: Text, windows: Iterable[int] | None = None) -> None:
        """A question that reads these windows, or all."""
        asked, told = self.matcher.codes(question, self.passage)
        for number in range(len(self.starts)) if windows is None else windows:
            self.readings.append((len(self.questions), number))
            start = self.starts[number]
            self.codes += [*asked.tolist(), END_CODE, *told[start : start + self.window.size].tolist()]
        self.questions.append(question)

    def add_trained(
        self, question: Text, answers: Iterable[dict[str, Any]], number: int, whole: bool = False
    ) -> None:
        """A question with its answers, `number` among those of its passage.

        It reads the window of the first answer and one other, or, `whole`, all windows.
        """
        starts, size = self.starts, self.window.size
        pieces = [
            covering_pieces(self.passage.spans, one["start"], one["start"] + len(one["text"]))
            for one in answers
        ]
        spans = [(first, min(last, first + self.window.longest - 1)) for first, last in pieces]
        golds = sorted(set(spans))
        home = best_window(starts, size, *spans[0]) if spans else number % len(starts)
        other = (home + 1 + number % max(1, len(starts) - 1)) % len(starts)
        chosen = range(len(starts)) if whole else sorted({home, other})
        for reading, window in enumerate(chosen, start=len(self.readings)):
            for first, last in golds:
                if starts[window] <= first and last < starts[window] + size:
                    self.golds += [reading, first - starts[window], last - first + 1]
        if not golds and self.abstains:
            self.golds += [len(self.readings), 0, 0]
        self.add(question, chosen)

    def streams(self) -> tuple[Sequence[int], ...]:
        """Golds (reading, place, length), lengths of texts, readings (question, window), spellings, texts, codes."""
        size = self.window.size
        used = sorted({window for _, window in self.readings})
        places = {window: len(self.questions) + place for place, window in enumerate(used)}
        texts: list[int] = []
        looks: list[int] = []
        lengths: list[int] = []
        for question in self.questions:
            texts += [*question.ids, self.end]
            looks += [*question.spellings(asked=True).tolist(), END_SPELLING]
            lengths.append(len(question.ids) + 1)
        spelled = self.passage.spellings(asked=False)
        for window in used:
            piece = slice(self.starts[window], self.starts[window] + size)
            texts += self.passage.ids[piece]
            looks += spelled[piece].tolist()
            lengths.append(len(self.passage.ids[piece]))
        readings = [number for question, window in self.readings for number in (question, places[window])]
        return self.golds, lengths, readings, looks, texts, self.codes


def read(model: PassageReader, batch: dict[str, Packed]) -> tuple[SpanScores, NDArray[np.int64]]:
    """The scores of all readings of a batch, and for each reading the number of its question in the batch."""
    lengths, texts = batch["lengths"], batch["texts"]
    pairs = (
        rows_of(batch["readings"], 2)
        + np.repeat(lengths.offsets[:-1], batch["readings"].lengths // 2)[:, None]
    )
    offsets = np.concatenate([[0], np.cumsum(lengths.values.numpy())])
    asked = np.unique(pairs[:, 0], return_inverse=True)[1]
    scores = model(Packed(texts.values, offsets), batch["spellings"].values, pairs, batch["codes"].values)
    return scores, asked


def outcomes(
    scores: SpanScores, asked: NDArray[np.int64], golds: NDArray[np.int64]
) -> Iterator[tuple[float, bool, float]]:
    """Of each question with a gold: how well its best span meets one, whether it has an answer, and the chance that it has none.

    The first is the F1 of tokens. `golds` (G, 3) are a reading, a place and a length, 0 of which say that there is no answer.
    """
    spans = scores.spans.double().numpy()
    absent = np.full(len(spans), -np.inf) if scores.nothing is None else scores.nothing.double().numpy()
    spans_of: dict[int, list[tuple[int, int]]] = {}
    for reading, place, length in golds.tolist():
        spans_of.setdefault(reading, []).append((place, length))
    for question in np.unique(asked[golds[:, 0]]):
        begin, end = np.searchsorted(asked, (question, question + 1))
        first, none = scores.offsets[begin], float(absent[begin:end].mean())
        rows = spans[first : scores.offsets[end]]
        peak = max(none, float(rows.max(initial=-np.inf)))
        silence = float(np.exp(none - peak) / (np.exp(rows - peak).sum() + np.exp(none - peak)))
        answerable = any(length for reading in range(begin, end) for _, length in spans_of.get(reading, ()))
        share = 0.0
        if answerable:
            row, size = np.unravel_index(int(rows.argmax()), rows.shape)
            reading = int(np.searchsorted(scores.offsets, first + row, side="right")) - 1
            place, taken = int(first + row - scores.offsets[reading]), int(size) + 1
            overlaps = (
                2 * max(0, min(place + taken, gold + length) - max(place, gold)) / (taken + length)
                for gold, length in spans_of.get(reading, ())
            )
            share = max(overlaps, default=0.0)
        yield share, answerable, silence


def rows_of(stream: Packed, width: int) -> NDArray[np.int64]:
    """The entries of a stream as rows (n, width), which may be changed."""
    return np.array(stream.values.numpy(), np.int64).reshape(-1, width)


def firsts(stream: Packed, width: int) -> NDArray[np.int64]:
    """(N,): the number of each example's first row of `width` entries."""
    return stream.offsets[:-1].astype(np.int64) // width
