"""Which token comes next, drawn from a distribution that is made sharper, or cut, before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError

Floats = NDArray[np.float64]


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """ConfigError where an option of `probabilities` is out of its range."""
    if not 0 <= temperature < np.inf:
        raise ConfigError(
            f"a temperature is 0, for the likeliest token, or more. Received: {temperature}; 1 is as learned."
        )
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k keeps at least one token. Received: {top_k}; leave it out to keep all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(
            f"top_p is a share of the probability, above 0 and up to 1. Received: {top_p}; leave it out to keep all."
        )


def probabilities(
    scores: NDArray[Any], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Floats:
    """What is drawn from: `softmax(scores / temperature)`, cut to the likeliest tokens, each row summing to 1.

    Of tokens that are equally likely, the one with the lower id counts as likelier.

    Arguments:
        scores: (M, vocabulary), as a model gives them.
        temperature: below 1 likelier tokens become still likelier; 0 leaves only the likeliest.
        top_k: keep so many tokens.
        top_p: keep the fewest of the likeliest tokens that have at least this probability together, after `top_k`
            (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration").

    Raises:
        ConfigError: an option is out of its range.

    >>> probabilities(np.log([[0.5, 0.3, 0.2]]), top_k=2)
    array([[0.625, 0.375, 0.   ]])
    """
    check_sampling(temperature, top_k, top_p)
    scores = np.asarray(scores, np.float64)
    if temperature == 0:
        temperature, top_k = 1.0, 1
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    shares = weights / weights.sum(axis=1, keepdims=True)
    if top_k is None and top_p is None:
        return np.asarray(shares)
    order = np.argsort(-shares, axis=1, kind="stable")
    ranked = np.take_along_axis(shares, order, axis=1)
    if top_k is not None:
        ranked[:, top_k:] = 0
        ranked /= ranked.sum(axis=1, keepdims=True)
    if top_p is not None:
        # Not a sum less the token's own share, which rounding may leave below what was reached.
        before = np.zeros_like(ranked)
        np.cumsum(ranked[:, :-1], axis=1, out=before[:, 1:])
        ranked[before >= top_p] = 0
        ranked /= ranked.sum(axis=1, keepdims=True)
    kept = np.zeros_like(shares)
    np.put_along_axis(kept, order, ranked, axis=1)
    return kept


def draw(shares: Floats, uniforms: Floats) -> NDArray[np.int64]:
    """The token of each row whose stretch of [0, 1) holds the row's number: `sum(p[:i]) <= u * sum(p) < sum(p[:i + 1])`.

    Arguments:
        shares: (M, vocabulary) probabilities; a token that has none is never drawn.
        uniforms: (M,) numbers in [0, 1).

    >>> draw(np.array([[0.5, 0.0, 0.5]] * 3), np.array([0.0, 0.5, 0.99]))
    array([0, 2, 2])
    """
    totals = np.cumsum(shares, axis=1)
    found = (totals <= uniforms[:, None] * totals[:, -1:]).sum(axis=1)
    # Rounding may lead past the end; the last token with a share is meant then.
    last = shares.shape[1] - 1 - (shares[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum(found, last), np.int64)
