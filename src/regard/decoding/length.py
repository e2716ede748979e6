"""How long texts should be: the exponent of the length in the score of a beam, chosen on examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regard.decoding.beam import Hypothesis

PENALTIES = tuple(round(0.2 * step, 1) for step in range(13))  # 0 to 2.4


def fit_penalty(
    found: Sequence[Sequence[Hypothesis]], worth: Sequence[Sequence[float] | NDArray[np.float64]]
) -> float:
    """The length penalty by which the hypotheses of a beam that come first are worth most.

    Arguments:
        found: the finished hypotheses of each source, as `search` gives them.
        worth: of each of them, such as its ROUGE.

    Returns:
        One of `PENALTIES`; of equal ones the nearest to 1.

    >>> short, long = Hypothesis((5,), -1.0), Hypothesis((5, 6, 7), -3.0)
    >>> fit_penalty([[short, long]], [[0.2, 0.9]])
    1.6
    """

    def mean(penalty: float) -> float:
        chosen = [
            worths[int(np.argmax([one.score(penalty) for one in some]))]
            for some, worths in zip(found, worth, strict=True)
            if some
        ]
        return float(np.mean(chosen)) if chosen else 0.0

    return max(PENALTIES, key=lambda penalty: (mean(penalty), -abs(penalty - 1)))
