"""Probabilities that mean what they say: one temperature for all scores, and the threshold of several labels at once.

Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature); Platt 1999, "Probabilistic Outputs for
Support Vector Machines" (targets just short of certain).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLDEST, HOTTEST = 0.02, 50.0


def fit_temperature(logits: Floats, targets: Floats, several: bool = False) -> float:
    """The temperature T by which `softmax(logits / T)`, or `sigmoid(logits / T)`, fits the targets best.

    The log-likelihood is concave in 1 / T, so that its one maximum is found by bisection. Targets are moved away from
    certainty, to (n + 1) / (n + 2) of n decisions: where all are right, the best T would be 0.

    Arguments:
        logits: (N, C) scores.
        targets: (N, C), 1 for each right label and 0 elsewhere.
        several: labels are independent of each other: sigmoid.

    Returns:
        T between 0.02 and 50; 1 without examples.

    >>> fit_temperature(np.array([[2.0, -2.0]] * 4), np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])) > 1
    True
    """
    if not logits.size:
        return 1.0
    logits, targets = logits.astype(np.float64), targets.astype(np.float64)
    doubt = 1 / (len(logits) + 2)
    if several:
        targets = targets * (1 - 2 * doubt) + doubt
    else:
        others = max(1, logits.shape[1] - 1)
        targets = targets * (1 - doubt) + (1 - targets) * doubt / others
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((targets - probabilities(logits, 1 / middle, several)) * logits).sum()
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(1 / (low * high) ** 0.5)


def probabilities(logits: Floats, temperature: float, several: bool = False) -> Floats:
    """`softmax(logits / temperature)` of each row, or `sigmoid(logits / temperature)` where labels may be several.

    >>> probabilities(np.array([[0.0, 0.0]]), 1.0)
    array([[0.5, 0.5]])
    """
    scaled = logits / temperature
    if several:
        found: Floats = 0.5 * (1 + np.tanh(0.5 * scaled))
        return found
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
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
