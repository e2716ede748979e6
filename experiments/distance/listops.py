"""ListOps (Nangia and Bowman 2018; in the long form of Tay et al. 2021): nested operations on digits, one digit as the answer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from distance.examples import Example
from regard.data.batches import PackedBatches

SPLITS = ("train", "dev", "test")


def read(folder: Path) -> tuple[dict[str, list[Example]], int]:
    """The examples of every split, each with a last token that asks for the answer, and the number of token ids.

    `folder` holds train, dev and test as `.jsonl.gz` with `source`, symbols between spaces, and `target`, a digit.
    """
    texts = {split: list(_records(folder / f"{split}.jsonl.gz")) for split in SPLITS}
    symbols = sorted({symbol for source, _ in texts["train"] for symbol in source})
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    asking = len(symbols)
    splits = {
        split: [_example([ids[symbol] for symbol in source], asking, label) for source, label in found]
        for split, found in texts.items()
    }
    return splits, len(symbols) + 1


def batches(examples: list[Example], tokens: int, seed: int) -> Iterator[list[Example]]:
    """Endless batches of about so many tokens, examples of like length together."""
    for indices in PackedBatches([len(one.tokens) for one in examples], tokens, seed):
        yield [examples[index] for index in indices]


def by_length(examples: Iterable[Example], width: int = 100) -> dict[int, list[Example]]:
    """Examples by the lower bound of their length, in steps of `width` symbols."""
    buckets: dict[int, list[Example]] = {}
    for one in sorted(examples, key=lambda one: len(one.tokens)):
        buckets.setdefault((len(one.tokens) - 1) // width * width, []).append(one)
    return buckets


def _example(symbols: list[int], asking: int, label: int) -> Example:
    return Example([*symbols, asking], [len(symbols)], [label])


def _records(path: Path) -> Iterator[tuple[list[str], int]]:
    with gzip.open(path, "rt", encoding="utf8") as file:
        for record in map(json.loads, file):
            yield record["source"].split(), int(record["target"])
