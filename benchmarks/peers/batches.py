"""Batches of whole examples: every order is cut by the same budget of useful tokens, and pays the padding it causes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

Lengths = Sequence[tuple[int, int]]  # of source and target
POOL = 50  # batches that transformers sorts at a time (`group_by_length`)


def batches(lengths: Lengths, tokens: int, order: str, random: Random) -> list[list[int]]:
    """The example numbers of each batch of one epoch; at most `tokens` source and target tokens a batch.

    Arguments:
        lengths: tokens of source and target of every example.
        tokens: without padding, so that one update learns from as many tokens in every order.
        order: "sorted" by (target, source) over the whole set, ties and batches shuffled, as fairseq does;
            "grouped" as transformers' `group_by_length` does: pools of 50 batches of the shuffled set, each
            sorted by the source, longest first; "random".
        random: decides what is shuffled.
    """
    numbers = list(range(len(lengths)))
    random.shuffle(numbers)
    if order == "sorted":
        numbers.sort(key=lambda number: (lengths[number][1], lengths[number][0]))
    elif order == "grouped":
        mean = sum(map(sum, lengths)) / len(lengths)
        pool = max(1, int(POOL * tokens / mean))
        pools = [numbers[start : start + pool] for start in range(0, len(numbers), pool)]
        numbers = [
            number for part in pools for number in sorted(part, key=lambda number: -lengths[number][0])
        ]
    cut = list(_cut(numbers, lengths, tokens))
    if order == "sorted":
        random.shuffle(cut)
    return cut


def epochs(lengths: Lengths, tokens: int, order: str, seed: int) -> Iterator[list[int]]:
    """Batches without end, each epoch in an order of its own."""
    return itertools.chain.from_iterable(
        batches(lengths, tokens, order, Random(f"{seed} {epoch}")) for epoch in itertools.count()
    )


def useful(lengths: Lengths, batch: Sequence[int]) -> int:
    """Source and target tokens of a batch, without padding."""
    return sum(sum(lengths[number]) for number in batch)


def padded(lengths: Lengths, batch: Sequence[int]) -> int:
    """What a batch is as two rectangles."""
    return len(batch) * sum(max(lengths[number][side] for number in batch) for side in (0, 1))


def _cut(numbers: Sequence[int], lengths: Lengths, tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    room = tokens
    for number in numbers:
        cost = sum(lengths[number])
        if batch and cost > room:
            yield batch
            batch, room = [], tokens
        batch.append(number)
        room -= cost
    if batch:
        yield batch
