"""Summaries that need no model, to stand beside any score: a sentence of the document itself."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from regard.metrics.measurement import overlap_f1, paired, several
from regard.metrics.summaries import KINDS, TOKENIZERS, rouge
from regard.metrics.words import in_characters

# An end before a new beginning; where there are no spaces, the end alone.
END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]*[^\s\W_a-z])|[。！？][”’」』）]*|\n+")
EXTRACTS = ("first sentence", "longest sentence", "best sentence")


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut where an end is followed by a capital, a digit or a new line; never none.

    >>> sentences("It is e.g. a dog. It runs! 狗跑。猫睡。")
    ['It is e.g. a dog.', 'It runs!', '狗跑。', '猫睡。']
    """
    return [text[begin:end].strip() for begin, end in sentence_spans(text)] or [text]


def gap_sentence(text: str) -> tuple[str, str, str] | None:
    """What stands before a sentence of a text, the sentence, and what stands after; None where there are no two sentences.

    The sentence is the one with the highest ROUGE-1 against all others together, the first of equals: what says most of the text,
    and so comes nearest to a summary of it. In time that grows with the text.

    Source: Zhang et al. 2020, "PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization", Ind-Orig.

    >>> gap_sentence("It rains. A dog and a cat sleep. The cat is grey.")
    ('It rains.', 'A dog and a cat sleep.', 'The cat is grey.')
    """
    spans = sentence_spans(text)
    if len(spans) < 2:
        return None
    cut = TOKENIZERS["characters" if in_characters([text]) else "english"]
    counts = [Counter(cut(text[begin:end])) for begin, end in spans]
    every = sum(counts, Counter())
    scores = []
    for count in counts:
        common = sum(min(here, every[word] - here) for word, here in count.items())
        scores.append(overlap_f1(common, count.total(), every.total() - count.total()))
    begin, end = spans[scores.index(max(scores))]
    return text[:begin].strip(), text[begin:end].strip(), text[end:].strip()


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends."""
    bounds = [0, *(match.end() for match in END.finditer(text)), len(text)]
    return [(begin, end) for begin, end in itertools.pairwise(bounds) if text[begin:end].strip()]


def extracts(
    documents: Sequence[str], references: Sequence[str | Sequence[str]]
) -> dict[str, dict[str, float]]:
    """ROUGE of three summaries that are one sentence of the document: its first, its longest, and the best one there is.

    The best sentence is the one with the highest sum of the three F1, chosen by looking at the references: nearly what choosing one
    sentence can reach at most (Nallapati et al. 2017 call such a choice an oracle). Chosen for one of the three alone, that one
    would be a little higher.

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
