"""BLEU and CIDEr-D of captions, to the digit what the evaluation code of COCO computes, without its Java."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from regard._errors import ConfigError, nearest
from regard.metrics.measurement import Measurement, averaged, measured, paired, several
from regard.metrics.words import Tokenizer, caption_words, characters, in_characters, words

TOKENIZERS: dict[str, Tokenizer] = {
    "coco": caption_words,
    "characters": characters,
    "words": words,
    "none": str.split,
}
ORDER = 4
# What the evaluation code adds so that nothing is divided by zero.
TINY, SMALL = 1e-15, 1e-9
# Width of CIDEr-D's penalty on a difference in length.
SIGMA = 6.0

Grams = Counter[tuple[str, ...]]


def caption_bleu(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], tokenizer: str | None = None
) -> Measurement:
    """BLEU-4 of the corpus against the closest length of each example's references, without smoothing.

    Args:
        predictions: one caption for each image.
        references: for each image its captions.
        tokenizer: "coco" for languages like English, "characters" for Chinese and Japanese, "words" of any script
            with spaces, "none" for text that is tokenized. When not given, looked up in the references.

    Returns:
        The score, 0 to 100.

    Raises:
        DataError: counts differ, there are no examples, or one has no reference.
        ConfigError: an unknown tokenizer.

    Source: Papineni et al. 2002; bleu_scorer.py of pycocoevalcap.

    >>> print(round(caption_bleu(["a dog runs on the beach"], [["a dog runs on the sand", "a dog"]]).value, 4))
    75.9836
    """
    ours, theirs, signature = _cut(predictions, references, tokenizer)
    rows = [_bleu_row(one, many) for one, many in zip(ours, theirs, strict=True)]
    return measured("bleu4", signature, rows, _bleu)


def cider(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], tokenizer: str | None = None
) -> Measurement:
    """CIDEr-D × 100, as it is printed in papers: likeness of n-grams weighted by how rare they are among the images.

    Document frequencies come from the references of this very call, so scores of different test sets don't compare,
    and a single image scores 0, as the signature says then. A caption like its only reference scores up to 1000.

    Args:
        predictions: one caption for each image.
        references: for each image its captions.
        tokenizer: as for `caption_bleu`.

    Returns:
        100 × what pycocoevalcap's Cider gives.

    Raises:
        DataError: counts differ, there are no examples, or one has no reference.
        ConfigError: an unknown tokenizer.

    Source: Vedantam, Zitnick and Parikh 2015, "CIDEr", section 5.2; cider_scorer.py of pycocoevalcap.

    >>> print(round(cider(["a dog runs", "two cats"], [["a dog runs fast"], ["two cats sleep"]]).value, 4))
    482.4072
    """
    ours, theirs, signature = _cut(predictions, references, tokenizer)
    frequency = Counter(gram for many in theirs for gram in set().union(*many))
    rarity = {gram: math.log(len(theirs)) - math.log(count) for gram, count in frequency.items()}
    unseen = math.log(len(theirs)) if theirs else 0.0
    values = []
    for one, many in zip(ours, theirs, strict=True):
        vectors = [_Vector(grams, rarity, unseen) for grams in (one, *many)]
        values.append(10.0 * sum(vectors[0].likeness(other) for other in vectors[1:]) / len(many))
    alone = "; 0 of every picture that is alone" if len(theirs) == 1 else ""
    return averaged("cider", signature + alone, values)


class _Vector:
    """Weights of a caption's n-grams by order, their norms, and the length that CIDEr-D compares: its word pairs."""

    def __init__(self, grams: Grams, rarity: dict[tuple[str, ...], float], unseen: float) -> None:
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
        for gram, count in grams.items():
            self.weights[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
        self.norms = [math.sqrt(sum(weight**2 for weight in weights.values())) for weights in self.weights]
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)

    def likeness(self, reference: _Vector) -> float:
        """Mean over the orders of the clipped cosine, less where lengths differ."""
        total = 0.0
        for order in range(ORDER):
            theirs = reference.weights[order]
            common = sum(
                min(weight, theirs[gram]) * theirs[gram]
                for gram, weight in self.weights[order].items()
                if gram in theirs
            )
            norms = self.norms[order] * reference.norms[order]
            total += common / norms if norms else common
        return total / ORDER * math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))


def _cut(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], tokenizer: str | None
) -> tuple[list[Grams], list[list[Grams]], str]:
    paired(predictions, references)
    texts = several(references)
    if tokenizer is None:
        tokenizer = "characters" if in_characters([text for one in texts for text in one]) else "coco"
    if tokenizer not in TOKENIZERS:
        raise ConfigError(
            f"unknown tokenizer {tokenizer!r}. Expected: one of {', '.join(TOKENIZERS)}. Received: {tokenizer!r}"
            f"{nearest(tokenizer, TOKENIZERS)}. To mend it: choose one of them."
        )
    cut = TOKENIZERS[tokenizer]
    ours = [_grams(cut(text)) for text in predictions]
    return ours, [[_grams(cut(text)) for text in many] for many in texts], f"tok:{tokenizer}"


def _grams(tokens: list[str]) -> Grams:
    return Counter(
        tuple(tokens[i : i + order]) for order in range(1, ORDER + 1) for i in range(len(tokens) - order + 1)
    )


def _length(grams: Grams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 1)


def _bleu_row(prediction: Grams, references: list[Grams]) -> list[int]:
    """Right n-grams of each order, n-grams of each order, length, closest length of a reference."""
    length = _length(prediction)
    most: Grams = Counter()
    for grams in references:
        most |= grams
    right = [0] * ORDER
    for gram, count in (prediction & most).items():
        right[len(gram) - 1] += count
    closest = min((abs(_length(grams) - length), _length(grams)) for grams in references)[1]
    return [*right, *(max(0, length - order) for order in range(ORDER)), length, closest]


def _bleu(sums: np.ndarray) -> np.ndarray:
    right, total = sums[..., :ORDER], sums[..., ORDER : 2 * ORDER]
    product = np.prod((right + TINY) / (total + SMALL), axis=-1)
    lengths = (sums[..., -2] + TINY) / (sums[..., -1] + SMALL)
    # A ratio of next to nothing is an empty prediction: exp(1 - 1 / ratio) is 0 then.
    penalty = np.where(lengths < 1, np.exp(np.minimum(0.0, 1 - 1 / lengths)), 1.0)
    return np.asarray(100.0 * product ** (1 / ORDER) * penalty)
