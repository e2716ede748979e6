"""Texts that never say the same few words twice, whatever model writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.decoding.beam import Candidates, Stepper

Array = NDArray[Any]
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomials that stand for words
PERIODS, TIMES = (1, 2, 3, 4), 3  # of what is said on end: tokens of a row, and how often it may be said


class NoRepeats:
    """A `Stepper` around another one that never says a row of `order` words which its hypothesis has already.

    A word is a token that begins one, and those behind it that do not. After `order - 1` words that stood there before, the
    token with which the word behind them began gets the probability 0; the others keep theirs. So does, against loops inside a
    word, what would say a row of up to four tokens four times on end. An end is never held back.

    Arguments:
        stepper: the model, in the middle of writing.
        begins: (vocabulary,) booleans: the tokens that begin a word; by default every token is a word.
        order: how many words in a row may not come twice; 3 are usual.

    Source: Paulus et al. 2018, "A Deep Reinforced Model for Abstractive Summarization", section 2.5.

    >>> class Stutter:
    ...     refills = True
    ...     def begin(self, sources):
    ...         pass
    ...     def step(self, tokens, sources, parents, count, end):
    ...         ids, log_p = np.array([2, 3, 1])[:count], np.log([0.6, 0.3, 0.1])[:count]
    ...         return Candidates(*(np.tile(one, (len(tokens), 1)) for one in (ids, log_p)), np.log([0.1] * len(tokens)))
    >>> from regard.decoding import search
    >>> search(NoRepeats(Stutter(), order=2), [5], beam=1, bos=0, eos=1)[0][0].tokens
    (2, 2, 3, 2)
    """

    def __init__(self, stepper: Stepper, begins: Array | None = None, order: int = 3) -> None:
        self.stepper, self.begins, self.order = stepper, begins, order
        self.refills = stepper.refills
        self.written: Array = np.empty((0, 0), np.int64)  # of each hypothesis of the last step
        self.length: Array = np.empty(0, np.int64)

    def begin(self, sources: Array) -> None:
        """As `Stepper.begin`."""
        self.stepper.begin(sources)

    def step(self, tokens: Array, sources: Array, parents: Array, count: int, end: int) -> Candidates:
        """As `Stepper.step`."""
        self._take_in(tokens, parents)
        found_rows, found_tokens = zip(self._completions(), *map(self._loops, PERIODS), strict=True)
        rows, banned = np.concatenate(found_rows), np.concatenate(found_tokens)
        # Behind those that would repeat there must be enough others.
        most = int(np.bincount(rows).max(initial=0))
        found = self.stepper.step(tokens, sources, parents, count + most, end)
        if not len(rows):
            return found
        log_p = np.array(found.log_p)
        row, place = np.nonzero(found.ids[rows] == banned[:, None])
        log_p[rows[row], place] = -np.inf
        best = np.argsort(-log_p, axis=1, kind="stable")
        ids = np.take_along_axis(np.asarray(found.ids), best, axis=1)
        return Candidates(ids, np.take_along_axis(log_p, best, axis=1), found.end_log_p)

    def _take_in(self, tokens: Array, parents: Array) -> None:
        """What every hypothesis has so far; the first token of each is the begin and does not count."""
        goes_on = parents >= 0
        written = np.full((len(tokens), int(self.length.max(initial=0)) + 1), -1, np.int64)
        length = np.zeros(len(tokens), np.int64)
        before = parents[goes_on]
        written[goes_on, : self.written.shape[1]] = self.written[before, : written.shape[1]]
        length[goes_on] = self.length[before]
        written[goes_on, length[goes_on]] = tokens[goes_on]
        length[goes_on] += 1
        self.written, self.length = written[:, : int(length.max(initial=0))], length

    def _completions(self) -> tuple[Array, Array]:
        """Numbers of hypotheses, and for each a token that would begin a row of words which it has already."""
        words, first, count = self._words()
        head = self.order - 1
        places = words.shape[1] - head
        if places < 1:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        # Rows with a word behind them, whose words are the last ones of the hypothesis.
        same = np.arange(places) + head < count[:, None]
        for offset in range(head):
            last = np.take_along_axis(words, np.maximum(count - head + offset, 0)[:, None], axis=1)
            same &= words[:, offset : offset + places] == last
        rows, starts = np.nonzero(same)
        return rows, first[rows, starts + head]

    def _loops(self, period: int) -> tuple[Array, Array]:
        """Numbers of hypotheses that end in one row of tokens said so often, and with which token it begins."""
        rows = np.flatnonzero(self.length >= period * TIMES)
        back = self.length[rows, None] - 1 - np.arange(period * TIMES)
        last = self.written[rows[:, None], back]
        rows = rows[(last[:, period:] == last[:, :-period]).all(axis=1)]
        return rows, self.written[rows, self.length[rows] - period]

    def _words(self) -> tuple[Array, Array, Array]:
        """The words (M, W) of every hypothesis, each as one number, their first tokens (M, W), and how many there are (M,)."""
        written, place = self.written, np.arange(self.written.shape[1])
        is_there = place < self.length[:, None]
        if self.begins is None:
            return written, written, self.length
        starts = self.begins[np.maximum(written, 0)] | (place == 0)
        number = np.cumsum(starts, axis=1) - 1
        within = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
        terms = (written + 1).astype(np.uint64) * BASE ** within.astype(np.uint64)  # modulo 2 ** 64
        words, first = np.zeros(written.shape, np.uint64), np.zeros(written.shape, np.int64)
        rows, columns = np.nonzero(is_there)
        np.add.at(words, (rows, number[rows, columns]), terms[rows, columns])
        rows, columns = np.nonzero(is_there & starts)
        first[rows, number[rows, columns]] = written[rows, columns]
        return words, first, (is_there & starts).sum(axis=1)
