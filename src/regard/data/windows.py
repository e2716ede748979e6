"""Long documents in windows that lie elsewhere in every epoch, as a function of (seed, epoch): nothing is stored, resuming is exact.

A document of T + 1 tokens asks for T predictions. Each epoch makes every one of them exactly once: a document longer than the
context is cut every `context` predictions, the first cut drawn anew; a shorter one stays whole. The tokens of a window are those
of its predictions and the one before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regard.data.permutation import derived, uniform
from regard.data.store import Gathered, TokenStore

Integers = NDArray[np.int64]


class Windows:
    """The windows of the documents of a store; `lengths(epoch)` and `gather(indices, epoch)` are what a training loop asks for.

    Arguments:
        store: of one field, whose examples are documents.
        context: predictions of a window, at most.
        seed: any integer.

    >>> store = TokenStore.write("documents", [([5, 6, 7, 8, 9],), ([3, 4],)], ("text",))
    >>> windows = Windows(store, context=2, seed=0)
    >>> windows.lengths(0).tolist(), windows.lengths(1).tolist()
    ([1, 2, 1, 1], [2, 2, 0, 1])
    >>> windows.gather(np.array([1]), 0)["text"]
    (array([6, 7, 8], dtype=int32), array([0, 3], dtype=int32))
    """

    def __init__(self, store: TokenStore, context: int, seed: int) -> None:
        self.store, self.context, self.seed = store, context, seed
        self.predictions: Integers = np.maximum(store.lengths[:, 0].astype(np.int64) - 1, 0)
        long = self.predictions > context
        # Wherever the first cut lies, so many windows hold a document; one of them may be empty.
        counts = np.where(long, -(-self.predictions // context) + 1, 1)
        self.document: Integers = np.repeat(np.arange(len(counts)), counts)
        self.number: Integers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self.long = long

    def __len__(self) -> int:
        return len(self.document)

    def bounds(self, indices: Integers, epoch: int) -> tuple[Integers, Integers]:
        """The first prediction of each window and the one behind its last, from 0."""
        document = self.document[indices]
        shift = (uniform(derived(self.seed, epoch), document) * self.context).astype(np.int64)
        begin = self.number[indices] * self.context - np.where(self.long[document], shift, 0)
        most = self.predictions[document]
        return np.clip(begin, 0, most), np.clip(begin + self.context, 0, most)

    def lengths(self, epoch: int) -> Integers:
        """(n,) predictions of each window."""
        begin, end = self.bounds(np.arange(len(self)), epoch)
        return end - begin

    def gather(self, indices: Integers, epoch: int) -> dict[str, Gathered]:
        """As `TokenStore.gather`: the tokens of some windows that are not empty; those that are, are left out."""
        begin, end = self.bounds(indices, epoch)
        some = end > begin
        (field,) = self.store.fields
        return {field: self.store.cut(field, self.document[indices[some]], begin[some], end[some] + 1)}


def covering(predictions: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """Windows (begin, counted, end) over a text: from `counted` on the predictions of a window count, each of the text once.

    With `stride == context` windows do not overlap; with less, all but the first predictions of a text see
    `context - stride` tokens before them at least.

    >>> covering(5, context=4, stride=4), covering(5, context=4, stride=1)
    ([(0, 0, 4), (4, 4, 5)], [(0, 0, 4), (1, 4, 5)])
    """
    found, counted, end = [], 0, min(context, predictions)
    while counted < predictions:
        begin = max(0, end - context) if stride < context else counted
        found.append((begin, counted, end))
        counted, end = end, min(end + stride, predictions)
    return found
