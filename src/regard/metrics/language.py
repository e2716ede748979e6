"""What a language model leaves to guess: bits per character and byte, perplexity; and the share of right strings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from regard.metrics.measurement import Measurement, averaged, divided, measured, paired


def bits_per_character(nats: Sequence[float], texts: Sequence[str | int]) -> Measurement:
    """Σ nats / (ln 2 · Σ characters), characters as Unicode code points.

    Args:
        nats: the summed negative log-likelihood of each text.
        texts: what was predicted, or how many characters of each text were.

    Returns:
        The bits; less is better.

    Raises:
        DataError: counts differ, or there are no texts.

    >>> print(bits_per_character([4 * math.log(2)], ["ab"]))
    bits-per-character 2.0 (unit:code-point)
    """
    paired(nats, texts, "texts")
    sizes = [text if isinstance(text, int) else len(text) for text in texts]
    return _bits("bits-per-character", "unit:code-point", nats, sizes)


def nats_per_character(nats: Sequence[float], texts: Sequence[str | int]) -> Measurement:
    """Σ nats / Σ characters: the loss of a model of characters, comparable between all units.

    Args:
        nats: the summed negative log-likelihood of each text.
        texts: what was predicted, or how many characters of each text were.

    Returns:
        The nats; less is better.

    Raises:
        DataError: counts differ, or there are no texts.

    >>> nats_per_character([3.0, 5.0], ["ab", 2]).value
    2.0
    """
    paired(nats, texts, "texts")
    sizes = [text if isinstance(text, int) else len(text) for text in texts]
    return measured(
        "nats-per-character", "unit:code-point", _columns(nats, sizes), _mean, less_is_better=True
    )


def nats_per_token(nats: Sequence[float], tokens: Sequence[int]) -> Measurement:
    """Σ nats / Σ tokens, the logarithm of the perplexity; it compares only models with the same tokenizer.

    Args, what is returned and raised are those of `perplexity`.

    >>> nats_per_token([3.0, 5.0], [2, 2]).value
    2.0
    """
    paired(nats, tokens, "counts of tokens")
    return measured("nats-per-token", "unit:token", _columns(nats, tokens), _mean, less_is_better=True)


def bits_per_byte(nats: Sequence[float], texts: Sequence[str | bytes]) -> Measurement:
    """Σ nats / (ln 2 · Σ bytes), bytes of UTF-8: the same for every tokenizer and alphabet.

    Args:
        nats: the summed negative log-likelihood of each text.
        texts: what was predicted.

    Returns:
        The bits; less is better.

    Raises:
        DataError: counts differ, or there are no texts.

    >>> bits_per_byte([6 * math.log(2)], ["é!"]).value
    2.0
    """
    paired(nats, texts, "texts")
    sizes = [len(text if isinstance(text, bytes) else text.encode()) for text in texts]
    return _bits("bits-per-byte", "unit:utf8", nats, sizes)


def perplexity(nats: Sequence[float], tokens: Sequence[int], units: str = "") -> Measurement:
    """exp(Σ nats / Σ tokens); it compares only models with the same tokenizer.

    Args:
        nats: the summed negative log-likelihood of each text.
        tokens: how many tokens of each text were predicted.
        units: what tells tokenizers apart, such as a checksum; it is a part of the signature.

    Returns:
        The perplexity, at least 1; less is better.

    Raises:
        DataError: counts differ, or there are no texts.

    >>> round(perplexity([math.log(2), math.log(8)], [1, 1]).value, 6)
    4.0
    """
    paired(nats, tokens, "counts of tokens")
    signature = f"unit:token|{units}" if units else "unit:token"
    return measured("perplexity", signature, _columns(nats, tokens), _perplexity, less_is_better=True)


def exact_strings(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> Measurement:
    """100 × the share of predictions that equal their reference, or one of several, to the letter.

    Raises:
        DataError: counts differ, or there are no examples.

    >>> exact_strings(["4", "x"], ["4", ["y", "z"]]).value
    50.0
    """
    paired(predictions, references)
    texts = [[one] if isinstance(one, str) else one for one in references]
    right = [float(one in many) for one, many in zip(predictions, texts, strict=True)]
    return averaged("exact", "case:mixed", right)


def _columns(nats: Sequence[float], units: Sequence[int]) -> np.ndarray:
    return np.stack([np.asarray(nats, dtype=np.float64), np.asarray(units, dtype=np.float64)], axis=1)


def _bits(name: str, signature: str, nats: Sequence[float], units: Sequence[int]) -> Measurement:
    return measured(name, signature, _columns(nats, units), _per_unit, less_is_better=True)


def _per_unit(sums: np.ndarray) -> np.ndarray:
    return divided(sums[..., 0] / math.log(2), sums[..., 1])


def _perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(divided(sums[..., 0], sums[..., 1]))


def _mean(sums: np.ndarray) -> np.ndarray:
    return divided(sums[..., 0], sums[..., 1])
