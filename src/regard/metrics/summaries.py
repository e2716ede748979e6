"""ROUGE-1, ROUGE-2 and ROUGE-L, in English to the digit what rouge-score computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from regard._errors import ConfigError, nearest
from regard.metrics.measurement import Measurement, averaged, overlap_f1, paired
from regard.metrics.measurement import several as lists_of
from regard.metrics.words import Tokenizer, characters, english_words, in_characters, stemmed_words, words

TOKENIZERS: dict[str, Tokenizer] = {
    "english": english_words,
    "stemmed": stemmed_words,
    "words": words,
    "characters": characters,
}
KINDS = ("rouge1", "rouge2", "rougeL")


def rouge(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    tokenizer: str | None = None,
    several: str = "best",
) -> dict[str, Measurement]:
    """F1 of common words, common pairs of words and the longest common subsequence.

    Args:
        predictions: one summary for each document.
        references: for each document its summary, or a list of one or more.
        tokenizer: "english" as rouge-score, "stemmed" as rouge-score with its stemmer, "words" of any script with
            spaces, "characters" for Chinese and Japanese. When not given, "characters" for references that look
            Chinese or Japanese and "english" for all others.
        several: of several references "best" takes the highest F1, for each of the three by itself; "mean" their mean.

    Returns:
        Measurements "rouge1", "rouge2" and "rougeL", 0 to 100.

    Raises:
        DataError: counts differ, or an example has no reference.
        ConfigError: an unknown tokenizer or way to treat several references.

    Source: Lin 2004, "ROUGE: a Package for Automatic Evaluation of Summaries"; rouge-score 0.1.2.

    >>> scores = rouge(["the cat sat"], [["a cat sat down", "the cat"]])
    >>> print(scores["rouge1"], scores["rougeL"].value)
    rouge1 80.0 (tok:english|refs:best) 80.0
    """
    paired(predictions, references)
    texts = lists_of(references)
    if tokenizer is None:
        tokenizer = "characters" if in_characters([text for one in texts for text in one]) else "english"
    for value, options in ((tokenizer, tuple(TOKENIZERS)), (several, ("best", "mean"))):
        if value not in options:
            raise ConfigError(
                f"unknown option {value!r}. Expected: one of {', '.join(options)}. Received: {value!r}"
                f"{nearest(value, options)}. To mend it: choose one of them."
            )
    cut = TOKENIZERS[tokenizer]
    rows = []
    for prediction, expected in zip(predictions, texts, strict=True):
        scores = [_three(cut(prediction), cut(text)) for text in expected]
        columns = zip(*scores, strict=True)
        rows.append([max(column) if several == "best" else sum(column) / len(column) for column in columns])
    signature = f"tok:{tokenizer}|refs:{several}"
    return {kind: averaged(kind, signature, [row[i] for row in rows]) for i, kind in enumerate(KINDS)}


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by one addition of whole rows for each element of `second`.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    >>> longest_common_subsequence("a cat sat", "the cat")
    4
    """
    where: dict[str, int] = {}
    for i, one in enumerate(first):
        where[one] = where.get(one, 0) | 1 << i
    every = row = (1 << len(first)) - 1
    for one in second:
        match = row & where.get(one, 0)
        row = (row + match | row - match) & every
    return len(first) - row.bit_count()


def _three(predicted: list[str], expected: list[str]) -> tuple[float, float, float]:
    longest = longest_common_subsequence(expected, predicted)
    return (
        _grams_f1(predicted, expected, 1),
        _grams_f1(predicted, expected, 2),
        overlap_f1(longest, len(predicted), len(expected)),
    )


def _grams_f1(predicted: list[str], expected: list[str], order: int) -> float:
    ours, theirs = (
        Counter(zip(*(tokens[i:] for i in range(order)), strict=False)) for tokens in (predicted, expected)
    )
    return overlap_f1((ours & theirs).total(), ours.total(), theirs.total())
