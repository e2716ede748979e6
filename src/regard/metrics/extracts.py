"""Summaries that need no model, to stand beside any score: a sentence of the document itself."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from regard.metrics.measurement import paired, several
from regard.metrics.summaries import KINDS, rouge

# An end before a new beginning; where there are no spaces, the end alone.
END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]*[^\s\W_a-z])|[。！？][”’」』）]*|\n+")
EXTRACTS = ("first sentence", "longest sentence", "best sentence")


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut where an end is followed by a capital, a digit or a new line; never none.

    >>> sentences("It is e.g. a dog. It runs! 狗跑。猫睡。")
    ['It is e.g. a dog.', 'It runs!', '狗跑。', '猫睡。']
    """
    bounds = [0, *(match.end() for match in END.finditer(text)), len(text)]
    found = [text[begin:end].strip() for begin, end in itertools.pairwise(bounds)]
    return [part for part in found if part] or [text]


def extracts(
    documents: Sequence[str], references: Sequence[str | Sequence[str]]
) -> dict[str, dict[str, float]]:
    """ROUGE of three summaries that are one sentence of the document: its first, its longest, and the best one there is.

    The best sentence is the one with the highest sum of the three F1, chosen by looking at the references: what choosing one
    sentence can reach at most (Nallapati et al. 2017 call such a choice an oracle).

    Args:
        documents: the texts.
        references: for each of them its summary, or a list of one or more.

    Returns:
        For each of `EXTRACTS` "rouge1", "rouge2" and "rougeL", 0 to 100.

    Raises:
        DataError: counts differ, or a document has no reference.

    >>> extracts(["A dog runs. The grey cat sleeps."], ["the cat sleeps"])["best sentence"]["rouge1"].__round__(1)
    85.7
    """
    paired(documents, references)
    return _extracts(tuple(documents), tuple(map(tuple, several(references))))


@functools.lru_cache(maxsize=2)  # a run is scored on the same documents again and again
def _extracts(
    documents: tuple[str, ...], references: tuple[tuple[str, ...], ...]
) -> dict[str, dict[str, float]]:
    cut = [sentences(text) for text in documents]
    first = [parts[0] for parts in cut]
    longest = [max(parts, key=lambda part: len(part.split())) for parts in cut]
    chosen = first, longest, _best(cut, references)
    found = {}
    for name, texts in zip(EXTRACTS, chosen, strict=True):
        scores = rouge(texts, references)
        found[name] = {kind: scores[kind].value for kind in KINDS}
    return found


def _best(cut: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[str]:
    every = [part for parts in cut for part in parts]
    repeated = [texts for parts, texts in zip(cut, references, strict=True) for _ in parts]
    scores = rouge(every, repeated)
    worth = np.sum([scores[kind].statistics[:, 0] for kind in KINDS], axis=0)
    best, begin = [], 0
    for parts in cut:
        here = worth[begin : begin + len(parts)]
        best.append(parts[int(here.argmax())])
        begin += len(parts)
    return best
