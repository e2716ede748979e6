"""A model under `regard.check`: called with changed batches, its outputs compared with those of the batch as it is.

Letters: U tokens, R rows of output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._check.hosts import epsilon, gradient, host_name, is_floating, like, to_numpy, without_gradients
from regard._check.leaks import Leak, Token
from regard._check.probes import Mask, Probe, Tokens
from regard._errors import ConfigError, ShapeError
from regard._packed import Packed

ROUNDINGS = 16.0  # by which a number may move that nothing has changed
LARGE = 8.0  # standard deviations
PERS = ("token", "sequence")


class Trial:
    """A model, a batch, and what the model gives for it.

    Attributes:
        tokens: where those of the batch stand.
        rows: where those of the output stand.
        per: "token" or "sequence", what a row of output is.
        calls: how often the model was called.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        batch: Any,
        tokens: Tokens,
        *,
        pad: int | None,
        per: str | None,
        seed: int,
    ) -> None:
        self.model, self.batch, self.tokens, self.pad = model, batch, tokens, pad
        self.array = batch.values if isinstance(batch, Packed) else batch
        self.calls, self.has_gradient = 0, False
        values = to_numpy(self.array)
        self.values = values.reshape(len(tokens.real), *values.shape[tokens.axes :])
        self.changes = self._changes(np.random.default_rng(seed))
        with without_gradients():
            first = self._called(self.array)
        self.per = self._per(first, per)
        self.rows = tokens if self.per == "token" else tokens.pooled()
        self.base = self._rows(first)
        self.limit = self._limit(first)

    def by_value(self, probe: Probe) -> Iterator[Leak]:
        """What other values show, one leak for each way to change them."""
        for changed in self.changes:
            moved = self._moved(probe.changed, changed, probe.watched)
            if (moved > self.limit).any():
                yield self._named(
                    probe, moved, lambda some, row, changed=changed: self._moved(some, changed, row), "value"
                )
                return

    def by_nan(self, probe: Probe) -> Iterator[Leak]:
        """What NaN shows."""
        nan = np.full_like(self.values, np.nan)
        moved = self._moved(probe.changed, nan, probe.watched)
        if (moved > self.limit).any():
            yield self._named(probe, moved, lambda some, row: self._moved(some, nan, row), "nan")

    def by_gradient(self, probe: Probe) -> Leak | None:
        """What the gradient of the watched outputs shows."""
        slopes = self._slopes(probe.watched)
        if slopes is None:
            return None
        self.has_gradient = True
        limit = ROUNDINGS * epsilon(self.array) * slopes.max(initial=0.0)
        seen = np.where(probe.changed, slopes, 0.0)
        if not (seen > limit).any():
            return None
        source = int(seen.argmax())
        rows = _halved(probe.watched, lambda some: self._slope_at(some, source) > limit)
        token = int(np.flatnonzero(rows)[0])
        change = self._slope_at(_only(token, len(rows)), source)
        return Leak(probe.kind, _place(self.rows, token), _place(self.tokens, source), change, "gradient", 1)

    def _named(self, probe: Probe, moved: NDArray[np.float64], move: Any, by: str) -> Leak:
        """The output that moved most, and by halves the token that moved it."""
        row = int(moved.argmax())
        watched = _only(row, len(moved))
        sources = _halved(probe.changed, lambda some: move(some, watched)[row] > self.limit)
        alone = sources.sum() == 1
        source = _place(self.tokens, int(np.flatnonzero(sources)[0])) if alone else None
        change = float(move(sources, watched)[row]) if alone else float(moved[row])
        touched = int((moved > self.limit).sum())
        return Leak(probe.kind, _place(self.rows, row), source, change, by, touched)

    def _moved(self, changed: Mask, values: NDArray[Any], watched: Mask) -> NDArray[np.float64]:
        """(R,): by how much each watched row moves when the changed tokens have these values."""
        taken = np.where(changed.reshape(-1, *[1] * (self.values.ndim - 1)), values, self.values)
        with without_gradients():
            found = self._rows(self._called(like(self._shaped(taken), self.array)))
        with np.errstate(invalid="ignore"):
            moved = np.abs(found - self.base).max(axis=1, initial=0.0)
        return np.where(watched, np.nan_to_num(moved, nan=np.inf, posinf=np.inf), 0.0)

    def _slopes(self, watched: Mask) -> NDArray[np.float64] | None:
        """(U,): the largest gradient of the watched rows, each entry weighted at random, by each token."""
        weights = np.random.default_rng(1).normal(size=self.base.shape) * watched[:, None]
        found = gradient(self._called, self.array, weights.reshape(self.shape))
        if found is None:
            return None
        flat = np.abs(np.asarray(found, np.float64)).reshape(len(self.values), -1)
        return np.nan_to_num(flat, nan=np.inf).max(axis=1, initial=0.0)

    def _slope_at(self, watched: Mask, token: int) -> float:
        slopes = self._slopes(watched)
        return 0.0 if slopes is None else float(slopes[token])

    def _shaped(self, values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(tuple(self.array.shape))

    def _called(self, array: Any) -> Any:
        self.calls += 1
        given = self.batch.with_values(array) if isinstance(self.batch, Packed) else array
        found = self.model(given)
        found = found.values if isinstance(found, Packed) else found
        if host_name(found) is None:
            raise ShapeError(
                f"the model must give one array, or Packed. Received {type(found).__name__}. Choose one: lambda x: model(x)[0]."
            )
        return found

    def _per(self, out: Any, per: str | None) -> str:
        """What a row of output is."""
        shapes = {"token": tuple(self.array.shape[: self.tokens.axes]), "sequence": (self.tokens.count,)}
        if per is not None and per not in PERS:
            raise ConfigError(f"per is {' or '.join(map(repr, PERS))}. Received {per!r}.")
        for name in PERS if per is None else (per,):
            if tuple(out.shape[: len(shapes[name])]) == shapes[name]:
                self.shape = tuple(out.shape)
                return name
        expected = " or ".join(f"{(*shapes[name], '...')}" for name in (PERS if per is None else (per,)))
        raise ShapeError(f"expected an output of shape {expected}. Received {tuple(out.shape)}.")

    def _rows(self, out: Any) -> NDArray[np.float64]:
        """(R, F)."""
        return to_numpy(out).astype(np.float64).reshape(len(self.rows.real), -1)

    def _limit(self, first: Any) -> float:
        """By how much a row may move when nothing has changed that matters; the model is called again to see whether it moves anyway."""
        kept = self.base[self.rows.real]
        if not np.isfinite(kept).all():
            raise ConfigError(
                "the model gives NaN or infinity for the batch as it is; nothing can be compared."
            )
        with without_gradients():
            again = self._rows(self._called(self.array))[self.rows.real]
        size = np.abs(kept).max(initial=0.0)
        noise = np.abs(again - kept).max(initial=0.0)
        rounding = epsilon(first) if is_floating(first) else 0.0
        if noise > 1e-3 * size:
            raise ConfigError(
                f"the model gives other numbers for the same batch, by up to {noise:.3g}. Expected: the same twice. To mend it: turn "
                "dropout off, as model.eval() does, or fix its seed."
            )
        return float(ROUNDINGS * rounding * size + 4 * noise)

    def _changes(self, rng: np.random.Generator) -> list[NDArray[Any]]:
        """The whole batch with other values, in two ways: others of the usual size, and large ones; of ids, others twice."""
        values, real = self.values, self.tokens.real
        if values.dtype.kind in "iu":
            return self._other_ids(rng)
        known = values[real][np.isfinite(values[real])]
        spread = float(known.std()) if known.size and known.std() > 0 else 1.0
        mean = float(known.mean()) if known.size else 0.0
        other = rng.normal(mean, spread, values.shape)
        signs = rng.choice([-1.0, 1.0], (len(values), *[1] * (values.ndim - 1)))
        return [
            one.astype(values.dtype)
            for one in (other, values + signs * LARGE * spread * (1 + rng.random(values.shape)))
        ]

    def _other_ids(self, rng: np.random.Generator) -> list[NDArray[Any]]:
        seen = np.unique(self.values[self.tokens.real])
        pool = seen[seen != self.pad]
        if len(pool) < 2:
            raise ConfigError(
                f"ids are changed to others of the batch. Expected: two different ones at least. Received: {pool.tolist()}."
            )
        places = np.searchsorted(pool, self.values) % len(pool)
        found = []
        for _ in range(2):
            step = rng.integers(1, len(pool), self.values.shape)
            other = pool[(places + step) % len(pool)]
            kept = (
                self.values == other
                if self.pad is None
                else (self.values == self.pad) | (self.values == other)
            )
            found.append(np.where(kept, self.values, other).astype(self.values.dtype))
        return found


def _halved(changed: Mask, works: Callable[[Mask], bool]) -> Mask:
    """A smallest part of what was changed that still works, by halves; more than one where they only work together."""
    kept = np.flatnonzero(changed)
    while len(kept) > 1:
        for half in np.array_split(kept, 2):
            if works(_only(half, len(changed))):
                kept = half
                break
        else:
            break
    return _only(kept, len(changed))


def _only(places: Any, count: int) -> Mask:
    mask = np.zeros(count, bool)
    mask[places] = True
    return mask


def _place(tokens: Tokens, number: int) -> Token:
    place = int(tokens.place[number])
    return int(tokens.sequence[number]), None if place < 0 else place
