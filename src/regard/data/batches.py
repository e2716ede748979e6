"""Batches by a budget of real tokens, without padding: alike in length, reshuffled each epoch, resumed in O(1).

An epoch visits the examples in a pseudorandom order that is computed, not stored; each pool of it is sorted by length,
cut into batches, and the batches are shuffled. Everything is a function of (seed, epoch, pool), so three integers say
where a run stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.permutation import derived, hashed, permuted, uniform

Indices = NDArray[np.int64]
ORDER, TIES, NOISE, SHUFFLE, FIRST_VARIANT = range(5)  # purposes of random numbers; each has a key of its own


class PackedBatches:
    """An endless iterator over index arrays, one batch each; every epoch has each index exactly once.

    The sum of `lengths` over a batch is at most `tokens_per_batch`; a longer example is a batch by itself. The global
    batch does not depend on `world`: worker `rank` gets a share of its examples with about 1/world of the tokens,
    possibly none.

    After `load_state_dict(state)` come the batches that followed when `state_dict()` was called. Who fetches ahead must
    keep the state that belonged to the batch in use.

    >>> batches = PackedBatches([[3, 4], [2, 2], [5, 5]], tokens_per_batch=12, seed=0)
    >>> sorted(int(i) for _ in range(2) for i in next(batches))
    [0, 1, 2]
    """

    def __init__(
        self,
        lengths: Any,
        tokens_per_batch: int,
        seed: int,
        *,
        sort: bool = True,
        pool: int = 65536,
        noise: float = 0.0,
        variants: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """
        Args:
            lengths: (n, fields) or (n,) integers, tokens of each example in each field, the target last; or a function that
                gives them for an epoch, if they change from one to the next while n and their sum stay.
            tokens_per_batch: the budget, summed over fields and examples.
            seed: any integer; the same seed gives the same batches.
            sort: put examples of like length together, by target and then source; False: purely random batches.
            pool: how many examples are sorted at a time.
            noise: up to so many tokens are added to a target's length before sorting; batches are less uniform.
            variants: the n lengths are those of n / variants examples, in this many forms one set after the other; an epoch
                has one form of each example, so many epochs in a row have all of them.
            rank: the number of this worker, below `world`.
            world: the number of workers.

        Raises:
            DataError: there are no examples, or `lengths` is no array of counts.
            ConfigError: a number is out of its range.
        """
        self._lengths_of: Callable[[int], Any] | None = lengths if callable(lengths) else None
        self._lengths = checked_lengths(lengths(0) if callable(lengths) else lengths)
        self._tokens = int(self._lengths.sum(dtype=np.int64))
        self.variants, self._examples = variants, len(self._lengths) // max(1, variants)
        for name, value, least in (
            ("tokens_per_batch", tokens_per_batch, 1),
            ("pool", pool, 1),
            ("variants", variants, 1),
            ("world", world, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is too small. Expected: at least {least}. Received: {value}.")
        if not 0 <= rank < world or noise < 0:
            raise ConfigError(
                f"an option is out of range. Expected: 0 <= rank < world and noise >= 0. "
                f"Received: rank={rank}, world={world}, noise={noise}."
            )
        if self._examples * variants != len(self._lengths):
            raise ConfigError(
                f"lengths that are not those of whole sets. Expected: a multiple of variants={variants} of them. "
                f"Received: {len(self._lengths)}."
            )
        self.tokens_per_batch, self.seed, self.sort, self.pool, self.noise = (
            tokens_per_batch,
            seed,
            sort,
            pool,
            noise,
        )
        self.rank, self.world = rank, world
        self.epoch = self._pool = self._batch = 0
        self.drawn = 0
        """The epoch of the batch that came last."""
        self._cut: list[Indices] | None = None

    def __iter__(self) -> Iterator[Indices]:
        return self

    def __next__(self) -> Indices:
        if self._cut is None:
            self._cut = self._batches_of_pool()
        batch, self.drawn = self._cut[self._batch], self.epoch
        self._batch += 1
        if self._batch == len(self._cut):
            self._batch, self._cut = 0, None
            self._pool += 1
        if self._pool * self.pool >= self._examples:
            self._pool = 0
            self._enter(self.epoch + 1)
        return self._share(batch)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the place, and under `of` what it is a place in."""
        return {"epoch": self.epoch, "pool": self._pool, "batch": self._batch, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the place of `state`.

        Raises:
            CheckpointError: the state is incomplete, or belongs to other data or options.
        """
        mine = self._identity()
        try:
            theirs = {name: state["of"][name] for name in mine}
            epoch, pool, batch = (int(state[name]) for name in ("epoch", "pool", "batch"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the place in the data is damaged. Expected: epoch, pool, batch and of. Received: {state!r}. "
                "To mend it: resume from another checkpoint."
            ) from error
        if theirs != mine:
            names = [name for name in mine if theirs[name] != mine[name]]
            different = ", ".join(f"{name} {theirs[name]} there, {mine[name]} here" for name in names)
            raise CheckpointError(
                "the place in the data belongs to other batches. Expected: the same data and options. "
                f"Received: {different}. To mend it: resume with the data and options of that run."
            )
        self._enter(epoch)
        self._pool, self._batch = pool, batch
        inside = min(epoch, pool, batch) >= 0 and pool * self.pool < self._examples
        self._cut = self._batches_of_pool() if inside else []
        if batch >= len(self._cut):
            raise CheckpointError(
                f"the place in the data does not exist. Expected: a batch of an epoch. Received: epoch {epoch}, "
                f"pool {pool}, batch {batch}. To mend it: resume from another checkpoint."
            )

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        if self._lengths_of is not None and epoch >= 0:
            self._lengths = checked_lengths(self._lengths_of(epoch))

    def _identity(self) -> dict[str, Any]:
        return {
            "examples": len(self._lengths),
            "tokens": self._tokens,
            "tokens_per_batch": self.tokens_per_batch,
            "seed": self.seed,
            "sort": self.sort,
            "pool": self.pool,
            "noise": self.noise,
            **({"variants": self.variants} if self.variants > 1 else {}),
        }

    def _key(self, purpose: int) -> int:
        return derived(self.seed, self.epoch, 0 if purpose == ORDER else self._pool, purpose)

    def _batches_of_pool(self) -> list[Indices]:
        first = self._pool * self.pool
        positions = np.arange(first, min(first + self.pool, self._examples))
        indices = self._in_form(permuted(positions, self._examples, self._key(ORDER)))
        if self.sort:
            indices = indices[self._order_by_length(indices)]
        costs = self._lengths[indices].sum(axis=1, dtype=np.int64)
        batches = np.split(indices, _even_cuts(costs, self.tokens_per_batch))
        shuffled = np.argsort(hashed(self._key(SHUFFLE), np.arange(len(batches))), kind="stable")
        return [batches[number] for number in shuffled]

    def _in_form(self, examples: Indices) -> Indices:
        """Where the form of each example stands whose turn it is: they take turns, each example beginning elsewhere."""
        if self.variants == 1:
            return examples
        first = hashed(derived(self.seed, FIRST_VARIANT), examples) >> np.uint64(1)
        return examples + self._examples * ((first.astype(np.int64) + self.epoch) % self.variants)

    def _order_by_length(self, indices: Indices) -> Indices:
        *others, target = self._lengths[indices].T
        target = target + self.noise * uniform(self._key(NOISE), indices)
        return np.lexsort((hashed(self._key(TIES), indices), *others, target))

    def _share(self, batch: Indices) -> Indices:
        if self.world == 1:
            return batch
        costs = self._lengths[batch].sum(axis=1, dtype=np.int64)
        turn = np.empty(len(batch), dtype=np.int64)
        turn[np.argsort(-costs, kind="stable")] = np.arange(len(batch)) % (2 * self.world)
        # The longest go to workers 0, 1, ..., 1, 0, 0, 1, ...: nobody gets the longer one every time.
        return batch[np.where(turn < self.world, turn, 2 * self.world - 1 - turn) == self.rank]


def _even_cuts(costs: NDArray[np.int64], budget: int) -> list[int]:
    """Where to cut: as few batches as the budget allows, by the lowest limit that needs no more, so none is small."""
    count = len(_cuts(costs, budget))
    low, high = -(-int(costs.sum()) // count), budget
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cuts(costs, middle)) <= count else (middle + 1, high)
    return _cuts(costs, high)[:-1]


def _cuts(costs: NDArray[np.int64], budget: int) -> list[int]:
    total = np.cumsum(costs)
    ends = [0]
    while ends[-1] < len(costs):
        before = total[ends[-1] - 1] if ends[-1] else 0
        ends.append(max(ends[-1] + 1, int(np.searchsorted(total, before + budget, side="right"))))
    return ends[1:]


def checked_lengths(lengths: Any) -> NDArray[np.integer[Any]]:
    """Lengths as an array (n, fields) of counts; `DataError` when they are none."""
    array = np.asarray(lengths)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise DataError(
            "lengths that cannot be batched. Expected: integers of shape (n, fields), none negative, n at least 1. "
            f"Received: {array.dtype} of shape {array.shape}. To mend it: count the tokens of each example."
        )
    return array
