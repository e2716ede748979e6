"""Which tokens a text can be translated to, learned from pairs: the vocabulary shrinks to the candidates of what is being written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import CheckpointError

Array = NDArray[Any]


class Shortlist:
    """For each source token the target tokens that most belong to it, and those that may stand in any text.

    The more often two tokens stand in one pair and the more rarely apart, the more they belong together (Dice 1945); tokens
    that are candidates of no source token of a text are not written. A translation may therefore differ from that
    without a shortlist, and from that in other company, whose candidates are shared.

    Arguments:
        candidates: (vocabulary, each) target tokens of each source token; -1 where there are fewer.
        common: (n,) tokens that are always candidates.

    Source: the co-occurrence form of the vocabulary selection of Jean et al. 2015, section 3.

    >>> pairs = [([4, 5], [7, 8]), ([4, 6], [7, 9]), ([5], [8])] * 2
    >>> Shortlist.learn(pairs, 10, common=0, each=1).allowed([[4], [6]], also=[2]).tolist()
    [2, 7, 9]
    """

    def __init__(self, candidates: Array, common: Array) -> None:
        self.candidates, self.common = candidates, common

    @classmethod
    def learn(
        cls,
        pairs: Iterable[tuple[Sequence[int], ...]],
        vocabulary: int,
        *,
        common: int = 200,
        each: int = 30,
    ) -> Shortlist:
        """From pairs of token ids: the `common` most frequent targets, and for each source its `each` best.

        Memory grows with the number of different pairs of tokens.
        """
        met: Array = np.zeros(0, np.int64)
        counts: Array = np.zeros(0, np.int64)
        single = np.zeros((2, vocabulary), np.int64)
        chunk: list[Array] = []
        for pair in pairs:
            sides = [np.unique(np.asarray(ids, np.int64)) for ids in pair]
            for side, ids in zip(single, sides, strict=True):
                side[ids] += 1
            chunk.append((sides[0][:, None] * vocabulary + sides[1]).reshape(-1))
            if len(chunk) == 10_000:
                met, counts = _counted(met, counts, chunk)
        met, counts = _counted(met, counts, chunk)
        often = counts > 1
        source, target = np.divmod(met[often], vocabulary)
        belonging = 2 * counts[often] / (single[0][source] + single[1][target])
        order = np.lexsort((target, -belonging, source))
        source, target = source[order], target[order]
        place = np.arange(len(source)) - np.searchsorted(source, source)
        candidates = np.full((vocabulary, each), -1, np.int32)
        kept = place < each
        candidates[source[kept], place[kept]] = target[kept]
        return cls(candidates, np.argsort(-single[1], kind="stable")[:common].astype(np.int32))

    def allowed(self, sources: Sequence[Sequence[int]], also: Sequence[int] = ()) -> Array:
        """The sorted candidates of some texts, `also` among them."""
        tokens = np.unique(np.fromiter((token for ids in sources for token in ids), np.int64))
        found = np.concatenate([self.candidates[tokens].reshape(-1), self.common, np.asarray(also, np.int32)])
        return np.unique(found[found >= 0]).astype(np.int32)

    def save(self, path: str | Path) -> None:
        """Write it as a file of NumPy's, of the form `.npz` by whatever name."""
        with Path(path).open("wb") as file:  # to a name NumPy would add its ending
            np.savez_compressed(file, candidates=self.candidates, common=self.common)

    @classmethod
    def load(cls, path: str | Path, vocabulary: int) -> Shortlist:
        """Read what `save` wrote for a vocabulary of this size; nothing in the file is run.

        Raises:
            CheckpointError: the file holds no shortlist, or that of another vocabulary.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = cls(file["candidates"], file["common"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: the shortlist cannot be read. Expected: a .npz file that Shortlist.save wrote. Received: {error}."
            ) from error
        largest = max(found.candidates.max(initial=-1), found.common.max(initial=-1))
        if found.candidates.ndim != 2 or len(found.candidates) != vocabulary or largest >= vocabulary:
            raise CheckpointError(
                f"{path}: the shortlist belongs to another vocabulary. Expected: {vocabulary:,} tokens. Received: "
                f"{len(found.candidates):,}. Learn it with the tokenizer of this run."
            )
        return found


def _counted(met: Array, counts: Array, chunk: list[Array]) -> tuple[Array, Array]:
    """Add a chunk of pairs of tokens to those that were met, and empty it."""
    new, number = np.unique(np.concatenate([*chunk, np.zeros(0, np.int64)]), return_counts=True)
    chunk.clear()
    both, place = np.unique(np.concatenate([met, new]), return_inverse=True)
    return both, np.bincount(place, np.concatenate([counts, number]), len(both)).astype(np.int64)
