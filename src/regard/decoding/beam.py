"""Greedy and beam search: finished sources leave at once and others take their places; hypotheses are never padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError

Array = NDArray[Any]


class Candidates(NamedTuple):
    """What may follow each of M hypotheses: the likeliest tokens, the best first, and how likely the end is."""

    ids: Array
    """(M, count)"""
    log_p: Array
    """(M, count); -inf where there are fewer"""
    end_log_p: Array
    """(M,)"""


class Stepper(Protocol):
    """A model in the middle of writing: it knows the sources, and what each live hypothesis has so far."""

    refills: bool
    """Whether sources may begin while others are being written."""

    def begin(self, sources: Array) -> None:
        """Sources (N,), by their numbers, of which the next step has the first rows."""

    def step(self, tokens: Array, sources: Array, parents: Array, count: int, end: int) -> Candidates:
        """The best `count` tokens that follow `tokens` (M,) of M hypotheses, and the log-probability of `end`.

        The hypotheses of a source stand together; `parents` (M,) says which hypothesis of the step before each one goes
        on with, or -1 for a source's first. Who is not among `sources` (M,) is done.
        """


@dataclass(frozen=True)
class Hypothesis:
    """Token ids without begin and end, and the sum of their log-probabilities with the end."""

    tokens: tuple[int, ...]
    log_probability: float

    def score(self, penalty: float) -> float:
        """The log-probability divided by `length ** penalty`, the end counted."""
        return self.log_probability / (len(self.tokens) + 1) ** penalty


def search(
    stepper: Stepper,
    limits: Sequence[int],
    *,
    beam: int,
    bos: int,
    eos: int,
    penalty: float = 1.0,
    together: int | None = None,
    sizes: Sequence[int] | None = None,
    most: int | None = None,
) -> list[list[Hypothesis]]:
    """Beam search: the likeliest ways to go on are kept at every step, by `log p / length ** penalty` in the end.

    A source is done when `beam` hypotheses are finished and its best live one, scored as if it ended now at no cost, is
    behind all of them; it leaves at once. Greedy search is done with its first end. With a penalty above 0 a live
    hypothesis might yet have overtaken them: the rule is a heuristic.

    Arguments:
        stepper: the model, with the sources.
        limits: for each source, the most tokens to write, the end counted.
        beam: hypotheses kept for each source; 1 is greedy search.
        bos: id of the begin.
        eos: id of the end.
        penalty: exponent of the length by which scores are divided; 0 favors short outputs.
        together: the most sources that are written at once; by default all of them.
        sizes: how much memory each source takes, such as its tokens.
        most: how much of it sources that are written at once may take, unless it is one alone; by default all of it.

    Returns:
        For each source its finished hypotheses, at most `beam`, by `Hypothesis.score(penalty)`, best first. There is at
        least one, unless the end has the probability 0 where the limit asks for it.

    Source: the stopping rule is that of `early_stopping=False` in transformers; for when it is not optimal see Huang et
    al. 2017, "When to Finish?".

    >>> class Stutter:
    ...     refills = True
    ...     def begin(self, sources):
    ...         pass
    ...     def step(self, tokens, sources, parents, count, end):
    ...         ids, log_p = np.array([2, 1]), np.log([0.6, 0.4])
    ...         return Candidates(*(np.tile(array, (len(tokens), 1)) for array in (ids, log_p)), log_p[[1] * len(tokens)])
    >>> [one.tokens for one in search(Stutter(), [3], beam=2, bos=0, eos=1)[0]]
    [(2, 2), (2,)]
    """
    state = _Search(np.maximum(np.asarray(limits, np.int64), 1), beam, bos, eos, penalty)
    waiting, count = 0, len(limits)
    together = max(1, count if together is None else together)
    size = np.zeros(count, np.int64) if sizes is None or most is None else np.asarray(sizes, np.int64)
    while True:
        room, alone = together - len(state.sources), len(state.sources) == 0
        # A few at a time: beginning costs nearly as much for one source as for several.
        if waiting < count and (alone or (stepper.refills and 4 * room >= together)):
            new = np.arange(waiting, min(count, waiting + room))
            fit = size[state.sources].sum() + size[new].cumsum() <= (most or 0)
            new = new[fit | (alone & (new == waiting))]
        else:
            new = np.arange(0)
        if len(new):
            stepper.begin(new)
            state.begin(new)
            waiting += len(new)
        if len(state.sources) == 0:
            return state.results()
        state.advance(stepper)


def check_beam(beam: int) -> None:
    """Raises ConfigError when `beam` is no number of hypotheses."""
    if not isinstance(beam, int | np.integer) or beam < 1:
        raise ConfigError(
            f"a beam holds at least one hypothesis, and a whole number of them. Received beam={beam!r}; 5 is usual, 1 is fastest."
        )


class _Search:
    """The live hypotheses of L sources, at most B each: those with a total above -inf."""

    def __init__(self, limits: Array, beam: int, bos: int, eos: int, penalty: float) -> None:
        self.limits, self.beam, self.bos, self.eos, self.penalty = limits, beam, bos, eos, penalty
        self.finished: list[list[Hypothesis]] = [[] for _ in limits]
        self.sources = np.empty(0, np.int64)  # (L,) by number
        self.length = np.empty(0, np.int64)  # (L,) tokens written so far
        self.bar = np.empty(0)  # (L,) the score that a live hypothesis has to pass
        self.totals: Array = np.empty((0, beam))
        self.tokens: Array = np.empty((0, beam), np.int64)  # the last ones
        self.parents: Array = np.empty((0, beam), np.int64)
        self.written = np.empty((0, beam, 32), np.int32)
        self._settle()

    def begin(self, new: Array) -> None:
        """Add sources, of which each has one hypothesis, the begin."""
        shape = len(new), self.beam
        totals = np.full(shape, -np.inf)
        totals[:, 0] = 0.0
        self.sources = np.concatenate([self.sources, new])
        self.length = np.concatenate([self.length, np.zeros(len(new), np.int64)])
        self.bar = np.concatenate([self.bar, np.full(len(new), -np.inf)])
        self.totals = np.concatenate([self.totals, totals])
        self.tokens = np.concatenate([self.tokens, np.full(shape, self.bos)])
        self.parents = np.concatenate([self.parents, np.full(shape, -1)])
        self.written = np.concatenate([self.written, np.zeros((*shape, self.written.shape[2]), np.int32)])
        self._settle()

    def _settle(self) -> None:
        """What stays as it is while the same sources are being written: a step of few hypotheses is mostly overhead."""
        count = len(self.sources)
        self.place: Array = np.arange(count)[:, None]
        self.slot = np.arange(self.beam)
        self.everyone: Array = np.arange(count * self.beam).reshape(count, self.beam)
        self.row_sources = np.repeat(self.sources, self.beam)
        self.steps_left = int((self.limits[self.sources] - self.length).min(initial=2**62))
        self.longest = int(self.length.max(initial=0))

    def advance(self, stepper: Stepper) -> None:
        """One more token for every hypothesis; sources that are done leave."""
        rows, tokens, log_p = self._candidates(stepper)
        count = len(rows)
        self.length += 1
        self.longest += 1
        self.steps_left -= 1
        scores = (self.totals[:, :, None] + log_p).reshape(count, -1)
        order: Array = np.argsort(-scores, axis=1, kind="stable")[:, : 2 * self.beam]
        best = scores[self.place, order]
        parent: Array = order // log_p.shape[2]
        token: Array = tokens.reshape(count, -1)[self.place, order]
        is_end = token == self.eos
        if is_end.any():
            self._collect(is_end, parent, best)
            best[is_end] = -np.inf
            # Those that go on, the best first; a stable sort leaves them in their order.
            chosen = np.argsort(is_end, axis=1, kind="stable")
            best, parent, token = (array[self.place, chosen] for array in (best, parent, token))
        missing = self.beam - best.shape[1]
        if missing > 0:
            best = np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf)
            parent, token = (np.pad(array, ((0, 0), (0, missing))) for array in (parent, token))
        self.totals, self.tokens, parent = best[:, : self.beam], token[:, : self.beam], parent[:, : self.beam]
        self.parents = rows[self.place, parent]
        self._write(parent)
        self._leave()

    def _candidates(self, stepper: Stepper) -> tuple[Array, Array, Array]:
        """The stepper's row of each hypothesis (L, B), and tokens and log-probabilities (L, B, count) of what may follow."""
        # Of one hypothesis the best `beam` others and the end can matter.
        count = self.beam + 1
        live: Array = self.totals > -np.inf
        if live.all():
            rows: Array = self.everyone
            parents = self.parents.reshape(-1)
            found = stepper.step(self.tokens.reshape(-1), self.row_sources, parents, count, self.eos)
            token: Array
            token, log_p, end = (array.reshape(*live.shape, -1) for array in found)
        else:
            rows = live.cumsum().reshape(live.shape) - 1
            sources = np.repeat(self.sources, live.sum(axis=1))
            found = stepper.step(self.tokens[live], sources, self.parents[live], count, self.eos)
            shape = (*live.shape, found.ids.shape[1])
            token, log_p = np.zeros(shape, np.int64), np.full(shape, -np.inf)
            end = np.full((*live.shape, 1), -np.inf)
            token[live], log_p[live], end[live, 0] = found
        if self.steps_left <= 1:  # at its limit a source can only end
            last = self.length + 1 >= self.limits[self.sources]
            log_p[last], token[last, :, 0], log_p[last, :, 0] = -np.inf, self.eos, end[last, :, 0]
        return rows, token, log_p

    def _collect(self, is_end: Array, parent: Array, best: Array) -> None:
        """Take the candidates that end among the best `beam` of their source."""
        ends = is_end[:, : self.beam] & (best[:, : self.beam] > -np.inf)
        for row, column in zip(*(places.tolist() for places in ends.nonzero()), strict=True):
            tokens = self.written[row, parent[row, column], : self.length[row] - 1].tolist()
            finished = self.finished[self.sources[row]]
            finished.append(Hypothesis(tuple(tokens), float(best[row, column])))
            if self.beam == 1:
                self.bar[row] = np.inf
            elif len(finished) >= self.beam:
                finished.sort(key=lambda one: one.score(self.penalty), reverse=True)
                del finished[self.beam :]
                self.bar[row] = finished[-1].score(self.penalty)

    def _write(self, parent: Array) -> None:
        if self.longest > self.written.shape[2]:
            self.written = np.concatenate([self.written, np.zeros_like(self.written)], axis=2)
        if self.beam > 1:
            self.written[:, :, : self.longest] = self.written[self.place, parent, : self.longest]
        self.written[self.place, self.slot, self.length[:, None] - 1] = self.tokens

    def _leave(self) -> None:
        best = self.totals[:, 0]
        if self.steps_left > 0 and self.bar.max() == -np.inf < best.min():
            return
        stays = (best / (self.length + 1.0) ** self.penalty > self.bar) & (
            self.length < self.limits[self.sources]
        )
        if not stays.all():
            for name in ("sources", "length", "bar", "totals", "tokens", "parents", "written"):
                setattr(self, name, getattr(self, name)[stays])
            self._settle()

    def results(self) -> list[list[Hypothesis]]:
        """What was found for every source, the best first."""
        return [
            sorted(found, key=lambda one: one.score(self.penalty), reverse=True)[: self.beam]
            for found in self.finished
        ]
