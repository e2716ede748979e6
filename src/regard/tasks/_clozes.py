"""Questions made of a passage alone: parts of a sentence ask for what stands in its gap.

They teach to find a sentence by what of it a question says, and that the answer is what the question does not say, before a
question that somebody asked is read. They are the same whatever the seed of a recipe.

Sources: Lewis et al. 2019, "Unsupervised Question Answering by Cloze Translation"; Ram et al. 2021, "Few-Shot Question
Answering by Pretraining Span Selection".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.data.matches import ALONE, RARE, UNIT, units_of
from regard.data.permutation import derived, permuted, uniform
from regard.metrics.extracts import sentence_spans

TELLING = 2  # the level of words that are in less than a twentieth of the texts
SMALL = re.compile(r"[\u3041-\u309f的了是这那们也都就]")  # endings and particles
JOINED = re.compile(r"[\s'’-]*")  # what may stand inside an answer
MOST = 8  # units of an answer
NEAREST, REACH = 2, 12  # units to each side of a gap, the fewest and the most that a question is made of
KEPT = 0.7  # of them
TIMES = 5  # that an answer is looked for
CHOICE, QUESTION, SIDES, WORDS = range(4)  # purposes of random numbers
Span = tuple[int, int]


@dataclass(frozen=True)
class Cloze:
    """A question and its answers, in the form that records have; the first one stands in the gap."""

    question: str
    answers: list[dict[str, Any]]


def clozes(passage: str, levels: Mapping[str, int], count: int, key: int) -> Iterator[Cloze]:
    """Up to `count` questions about a passage, in the order of their gaps.

    Answers are names, numbers and other words that not every text has, side by side. Wherever the passage has the same words, they are an answer.

    Arguments:
        passage: the text.
        levels: how frequent units are, as `Matcher` has them.
        count: the most questions.
        key: of random numbers: which gaps, and which words around them.

    >>> [one] = clozes("Ada Lovelace wrote it in the notes.", {"it": 0, "in": 0, "the": 0, "wrote": 0, "notes": 0}, 8, key=1)
    >>> one.answers
    [{'text': 'Ada Lovelace', 'start': 0}]
    """
    gaps = [
        (sentence, gap) for sentence in sentence_spans(passage) for gap in _gaps(passage, sentence, levels)
    ]
    chosen = np.sort(permuted(np.arange(min(count, len(gaps))), len(gaps), derived(key, CHOICE)))
    units = [match.span() for match in UNIT.finditer(passage)]
    begins, ends = ({span[side] for span in units} for side in (0, 1))
    for place in chosen.tolist():
        sentence, gap = gaps[place]
        if question := _question(passage, sentence, gap, derived(key, QUESTION, place)):
            yield Cloze(question, _answers(passage, gap, begins, ends))


def _gaps(passage: str, sentence: Span, levels: Mapping[str, int]) -> Iterator[Span]:
    """Where units that tell something stand side by side."""
    run: list[Span] = []
    for match in UNIT.finditer(passage, *sentence):
        if run and not (
            _tells(match.group(), levels) and JOINED.fullmatch(passage, run[-1][1], match.start())
        ):
            yield from _gap(run)
            run = []
        if _tells(match.group(), levels):
            run.append(match.span())
    yield from _gap(run)


def _gap(run: Sequence[Span]) -> Iterator[Span]:
    if 0 < len(run) <= MOST:
        yield run[0][0], run[-1][1]


def _tells(unit: str, levels: Mapping[str, int]) -> bool:
    if ALONE.match(unit):
        return SMALL.match(unit) is None
    return levels.get(unit.lower(), RARE) >= TELLING


def _question(passage: str, sentence: Span, gap: Span, key: int) -> str:
    """What stands beside a gap and not in it, some of it left out, in either order of its sides."""
    inside = set(units_of(passage[slice(*gap)]))
    before, after = (
        [match.span() for match in UNIT.finditer(passage, *side) if match.group().lower() not in inside]
        for side in ((sentence[0], gap[0]), (gap[1], sentence[1]))
    )
    *reaches, turn = uniform(derived(key, SIDES), np.arange(3))
    left, right = (NEAREST + int(reach * (REACH + 1 - NEAREST)) for reach in reaches)
    sides = [
        _some(passage, before[-left:], derived(key, WORDS, 0)),
        _some(passage, after[:right], derived(key, WORDS, 1)),
    ]
    return " ".join(filter(None, sides if turn < 0.5 else sides[::-1]))


def _some(passage: str, units: Sequence[Span], key: int) -> str:
    """Some of the units, with what stands between neighbours; single characters stay or go by fours."""
    fates = [
        -1 - place // 4 if ALONE.match(passage, begin) else place for place, (begin, _) in enumerate(units)
    ]
    kept = uniform(key, np.array(fates, np.int64)) < KEPT
    text, last = "", None
    for begin, end in itertools.compress(units, kept.tolist()):
        if last is not None:
            text += " " if UNIT.search(passage, last, begin) else passage[last:begin]
        text, last = text + passage[begin:end], end
    return text


def _answers(passage: str, gap: Span, begins: set[int], ends: set[int]) -> list[dict[str, Any]]:
    """The gap, and other places where the same words stand whole, from where a unit begins to where one ends."""
    text = passage[slice(*gap)]
    others = (
        match.start()
        for match in re.finditer(re.escape(text), passage)
        if match.start() in begins and match.end() in ends and match.start() != gap[0]
    )
    return [{"text": text, "start": start} for start in (gap[0], *itertools.islice(others, TIMES))]
