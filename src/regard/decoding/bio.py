"""The best tags, and the probability of a span, where tags must be valid BIO: I-X stands after B-X or I-X only.

Tag 0 is O; role number r has the tags 1 + 2r (B) and 2 + 2r (I). So what may come before a tag is known without a table, and a
step costs K, not K * K. All sequences of a packed batch go forward together, the longest first.

Shape letters: T tokens of all sequences, K tags, R roles, N sequences, A sequences that are not at their end yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BEGIN, INSIDE = slice(1, None, 2), slice(2, None, 2)


def best_tags(scores_TK: NDArray[np.floating], offsets: NDArray[np.integer]) -> Integers:
    """The valid tags with the largest sum of scores in each sequence (Viterbi 1967).

    `argmax over valid tags y of sum_t scores[t, y_t]`, where I-X follows B-X or I-X and begins no sequence.

    Arguments:
        scores_TK: (T, K), such as log-probabilities; -inf forbids a tag, but O or a B must stay possible everywhere.
        offsets: (N + 1,): sequence n has the rows `offsets[n]:offsets[n + 1]`.

    Returns:
        (T,) tags.

    >>> best_tags(np.log([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]]), np.array([0, 2]))
    array([1, 2])
    """
    tags = np.zeros(len(scores_TK), np.int64)
    ended = np.zeros(len(scores_TK), np.int64)  # the best tag of a sequence that would end here
    goes_on = np.zeros((len(scores_TK), (scores_TK.shape[1] - 1) // 2), bool)  # an I here: whether after an I
    steps = list(_steps(offsets))
    sums = np.zeros((0, scores_TK.shape[1]))
    for t, rows in enumerate(steps):
        before, sums = sums[: len(rows)], scores_TK[rows].astype(np.float64)
        if t == 0:
            sums[:, INSIDE] = -np.inf
        else:
            begun, inside = before[:, BEGIN], before[:, INSIDE]
            goes_on[rows] = inside > begun
            best = before[np.arange(len(rows)), ended[rows - 1]]
            sums[:, 0] += best
            sums[:, BEGIN] += best[:, None]
            sums[:, INSIDE] += np.maximum(begun, inside)
        ended[rows] = sums.argmax(axis=1)
    following = np.zeros(0, np.int64)
    for rows in reversed(steps):
        tags[rows] = ended[rows]
        known = rows[: len(following)]  # those that go on after this step
        after = tags[following]
        continued = (after > 0) & (after % 2 == 0)
        inside = goes_on[following[continued], after[continued] // 2 - 1]
        tags[known[continued]] = np.where(inside, after[continued], after[continued] - 1)
        following = rows
    return tags


def span_probabilities(
    scores_TK: NDArray[np.floating], offsets: NDArray[np.integer], spans: Sequence[tuple[int, int, int]]
) -> Floats:
    """The probability that exactly these words have exactly this role, over all valid tags of the sequence.

    `sum over valid y with the span of exp(sum_t scores[t, y_t])`, divided by the same sum over all valid y: forward and
    backward sums (Rabiner 1989).

    Arguments:
        scores_TK: (T, K) log-probabilities; -inf forbids a tag, but O or a B must stay possible everywhere.
        offsets: (N + 1,): sequence n has the rows `offsets[n]:offsets[n + 1]`.
        spans: first row, last row and role number of each span.

    Returns:
        A probability for each span.

    >>> span_probabilities(np.log([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]]), np.array([0, 2]), [(0, 1, 0)])
    array([0.4375])
    """
    begins, lasts, roles = np.array(spans, np.int64).reshape(-1, 3).T
    before, after = _sums_before(scores_TK, offsets), _sums_after(scores_TK, offsets)
    inside = np.array(
        [
            scores_TK[begin + 1 : last + 1, 2 + 2 * role].sum(dtype=np.float64)
            for begin, last, role in zip(begins, lasts, roles, strict=True)
        ]
    )
    number = np.searchsorted(offsets, begins, side="right") - 1
    whole = before[offsets[number + 1] + number]
    # Behind the last row of sequence n stands one sum more, so row t of it is entry t + n.
    logarithms = before[begins + number] + scores_TK[begins, 1 + 2 * roles] + inside + after[lasts]
    return np.exp(np.asarray(logarithms - whole, np.float64))


def _sums_before(scores_TK: NDArray[np.floating], offsets: NDArray[np.integer]) -> Floats:
    """(T + N,): the log of the sum over all tags before each row, and before the end of each sequence."""
    out = np.zeros(len(scores_TK) + len(offsets) - 1)
    shift = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sums = np.zeros((0, scores_TK.shape[1]))
    for t, rows in enumerate(_steps(offsets)):
        before, sums = sums[: len(rows)], scores_TK[rows].astype(np.float64)
        places = rows + shift[rows]
        if t == 0:
            sums[:, INSIDE] = -np.inf
        else:
            sums[:, 0] += out[places]
            sums[:, BEGIN] += out[places, None]
            sums[:, INSIDE] += np.logaddexp(before[:, BEGIN], before[:, INSIDE])
        out[places + 1] = np.logaddexp.reduce(sums, axis=1)
    return out


def _sums_after(scores_TK: NDArray[np.floating], offsets: NDArray[np.integer]) -> Floats:
    """(T,): the log of the sum over all tags after each row that continue no span."""
    out = np.zeros(len(scores_TK))
    inside = np.zeros((0, (scores_TK.shape[1] - 1) // 2))  # sums from an I of the step after, itself included
    for rows in reversed(list(_steps(offsets))):
        follow = np.zeros((len(rows), inside.shape[1]))
        known = len(inside)
        follow[:known] = np.logaddexp(out[rows[:known], None], inside)
        # `follow`: what may come after a B or an I here; where the sequence ends, nothing does.
        outside = out[rows]
        starts = np.concatenate(
            [(scores_TK[rows, 0] + outside)[:, None], scores_TK[rows][:, BEGIN] + follow], axis=1
        )
        inside = scores_TK[rows][:, INSIDE] + follow
        first = np.isin(rows, offsets[:-1])
        out[rows[~first] - 1] = np.logaddexp.reduce(starts[~first], axis=1)
    return out


def _steps(offsets: NDArray[np.integer]) -> Iterator[Integers]:
    """For each position the rows (A,) of the sequences that reach it, the longest sequence first."""
    lengths = np.diff(offsets).astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    starts, falling = offsets[:-1][order].astype(np.int64), lengths[order]
    for t in range(int(lengths.max(initial=0))):
        yield starts[: int(np.count_nonzero(falling > t))] + t
