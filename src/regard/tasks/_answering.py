"""From the scores of spans to answers: which spans are the most probable, and whether one of them is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.data.checks import is_blank
from regard.nn.reader import PassageReader, SpanScores
from regard.tasks._examples import Example
from regard.tasks._reading import Answer, Candidate

Span = tuple[int, int]


def check_options(model: PassageReader, no_answer: float | None, candidates: int) -> None:
    """ConfigError where a model cannot do what it is asked for."""
    if no_answer is not None and not 0 <= no_answer <= 1:
        raise ConfigError(
            f"no_answer is a probability. Expected: a number from 0 to 1. Received: {no_answer}."
        )
    if no_answer is not None and model.threshold is None:
        raise ConfigError(
            "this model always answers: every question that it learned from has an answer. Expected: no_answer left out. "
            f"Received: {no_answer}. To mend it: train with some questions whose answers are []."
        )
    if candidates < 1:
        raise ConfigError(
            f"candidates is how many spans come with an answer. Expected: 1 or more. Received: {candidates}."
        )


def answers_of(
    batch: Sequence[Example],
    scores: SpanScores,
    asked: NDArray[np.int64],
    no_answer: float | None,
    count: int,
) -> Iterator[Answer]:
    """An answer to every question of a batch, with its `count` most probable spans.

    Arguments:
        batch: passages with their questions.
        scores: of all readings.
        asked: (R,) the number of each reading's question.
        no_answer: how probable it must be that there is no answer before none is given; None: more so than any span.
        count: of spans, at least 1.
    """
    table, offsets = scores.spans.double().numpy(), scores.offsets
    nothing = None if scores.nothing is None else scores.nothing.double().numpy()
    bounds = np.searchsorted(asked, np.arange(asked[-1] + 2))
    questions = ((one, question.text) for one in batch for question in one.questions)
    for (one, question), begin, end in zip(questions, bounds[:-1], bounds[1:], strict=True):
        parts = [table[offsets[reading] : offsets[reading + 1]] for reading in range(begin, end)]
        text = one.passage.text
        none = -np.inf if nothing is None else float(nothing[begin:end].mean())
        found, silence = best_spans(parts, one.starts, text, one.passage.spans, none, count)
        candidates = tuple(_candidate(text, *span) for span in found)
        surest = candidates[0].probability if candidates else 0.0
        is_silent = nothing is not None and silence > (surest if no_answer is None else no_answer)
        if is_silent or not candidates:
            yield Answer(question, "", None, None, silence, silence, candidates=candidates)
        else:
            best = candidates[0]
            yield Answer(question, best.text, best.start, best.end, surest, silence, candidates=candidates)


def best_spans(
    parts: Sequence[NDArray[np.float64]],
    starts: Sequence[int],
    text: str,
    spans: Sequence[Span],
    none: float,
    count: int,
) -> tuple[list[tuple[int, int, float]], float]:
    """Where the most probable spans begin and end in a text, none of which overlap, with their probabilities; and that of no answer.

    A span of characters that several windows hold, or of which several pieces stand for one end, such as the bytes of a character,
    has the sum of its probabilities. Spans that begin or end with a piece of no visible character are not chosen; a passage may
    have fewer than `count` others.

    Arguments: for each window the scores (pieces, longest) of its spans and where it begins, the text, the characters of all its
    pieces, and the score of there being no answer.
    """
    if not spans:
        return [], float(none > -np.inf)
    longest = parts[0].shape[1]
    peak = max(none, *(float(part.max()) for part in parts))
    shares = np.zeros((len(spans), longest))
    for part, start in zip(parts, starts, strict=True):
        shares[start : start + len(part)] += np.exp(part - peak)
    silence = float(np.exp(none - peak))
    whole = float(shares.sum()) + silence
    lasts = np.minimum(np.arange(len(spans))[:, None] + np.arange(longest), len(spans) - 1)
    blank = np.array([is_blank(text[begin:end]) for begin, end in spans])
    shares[blank[:, None] | blank[lasts]] = 0.0
    begins, ends, sums = _by_characters(shares, lasts, np.array(spans, np.int64))
    found: list[tuple[int, int, float]] = []
    while len(found) < count and sums.any():
        best = int(sums.argmax())
        found.append((int(begins[best]), int(ends[best]), float(sums[best]) / whole))
        sums[(begins < ends[best]) & (ends > begins[best])] = 0.0
    return found, silence / whole


def _by_characters(
    shares: NDArray[np.float64], lasts: NDArray[np.int64], spans: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Where spans of characters begin and end, each once, and the sum of their shares (pieces, longest)."""
    if (np.diff(spans, axis=0) > 0).all():  # no two pieces are of one character, as nearly always
        begins = np.broadcast_to(spans[:, :1], shares.shape)
        return begins.ravel(), spans[lasts, 1].ravel(), shares.ravel()
    size = int(spans.max()) + 1
    keys, numbers = np.unique(spans[:, :1] * size + spans[lasts, 1], return_inverse=True)
    sums = np.bincount(numbers.ravel(), shares.ravel()).astype(np.float64)
    return keys // size, keys % size, sums


def _candidate(text: str, begin: int, end: int, chance: float) -> Candidate:
    return Candidate(text[begin:end], begin, end, chance)
