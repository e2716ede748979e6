"""Probabilities that mean what they say: a temperature for each opinion whose scores are added, and the threshold of several labels at once.

Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature); Platt 1999, "Probabilistic Outputs for
Support Vector Machines" (targets just short of certain).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLDEST, HOTTEST = 0.02, 50.0


ROUNDS = 20  # over all opinions at most; a change below `SAME`, relative, ends them
SAME = 1e-4
HALVINGS = 30


def fit_temperatures(opinions: Floats, targets: Floats, several: bool = False) -> Floats:
    """The temperatures T by which `softmax(sum_k opinions[k] / T[k])`, or the sigmoid of that sum, fits the targets best.

    The log-likelihood is concave in all 1 / T: one after the other each is put where it is best beside the others, by bisection.
    An opinion that is too sure of itself so counts less beside another, and one that tells nothing hardly. Targets are moved away from
    certainty, to (n + 1) / (n + 2) of n decisions: where all are right, the best T would be 0.

    Arguments:
        opinions: (K, N, C) scores.
        targets: (N, C), 1 for each right label and 0 elsewhere.
        several: labels are independent of each other: sigmoid.

    Returns:
        (K,) between 0.02 and 50; 1 without examples.

    >>> bool(fit_temperatures(np.array([[[2.0, -2.0]] * 4]), np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]]))[0] > 1)
    True
    """
    inverse = np.ones(len(opinions))
    if not opinions.size:
        return inverse
    opinions, targets = opinions.astype(np.float64), targets.astype(np.float64)
    doubt = 1 / (len(targets) + 2)
    if several:
        targets = targets * (1 - 2 * doubt) + doubt
    else:
        others = max(1, targets.shape[1] - 1)
        targets = targets * (1 - doubt) + (1 - targets) * doubt / others
    for _ in range(ROUNDS if len(opinions) > 1 else 1):
        before = inverse.copy()
        for number, scores in enumerate(opinions):
            rest = np.tensordot(np.delete(inverse, number), np.delete(opinions, number, 0), 1)
            inverse[number] = _best_inverse(scores, rest, targets, several)
        if np.allclose(inverse, before, rtol=SAME, atol=0):
            break
    return np.asarray(1 / inverse)


def _best_inverse(scores: Floats, rest: Floats, targets: Floats, several: bool) -> float:
    """The factor b by which `b * scores + rest` fits the targets best."""
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        slope = ((targets - probabilities(middle * scores + rest, several)) * scores).sum()
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float((low * high) ** 0.5)


def probabilities(logits: Floats, several: bool = False) -> Floats:
    """`softmax(logits)` of each row, or `sigmoid(logits)` where labels may be several.

    >>> probabilities(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    if several:
        found: Floats = 0.5 * (1 + np.tanh(0.5 * logits))
        return found
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fit_threshold(chances: Floats, targets: Floats) -> float:
    """The probability from which on a label is given, so that micro-F1 of these examples is highest.

    Arguments: chances (N, C) probabilities, targets (N, C), 1 for each right label. Without a right label: 0.5.

    >>> fit_threshold(np.array([[0.9, 0.2], [0.4, 0.1]]), np.array([[1, 0], [1, 0]])).__round__(6)
    0.3
    """
    order = np.argsort(-chances, axis=None, kind="stable")
    falling, right = chances.reshape(-1)[order], targets.reshape(-1)[order]
    if not right.any():
        return 0.5
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + right.sum())
    f1[:-1][falling[:-1] == falling[1:]] = -1.0  # equal chances are on one side
    best = int(f1.argmax())
    following = falling[best + 1] if best + 1 < len(falling) else 0.0
    return float((falling[best] + following) / 2)
