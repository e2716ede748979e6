"""The token ids that everybody trains on, exported once by our tokenizer, and read with the standard library alone."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

FILE, TOKENIZER = "corpus.json", "tokenizer.json"
PARTS = ("train", "dev", "test")
UNK, BOS, EOS = 0, 1, 2


class Sentences:
    """Ids of sentences, four bytes each: as lists of Python's they would be a sixth of what a training is measured to hold."""

    def __init__(self, sentences: Iterable[Sequence[int]]) -> None:
        self._ids, self._ends = array("I"), array("L", [0])
        for ids in sentences:
            self._ids.extend(ids)
            self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> list[int]:
        return self._ids[self._ends[number] : self._ends[number + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self._ids[begin:end].tolist() for begin, end in pairwise(self._ends))

    @property
    def lengths(self) -> list[int]:
        """Ids of each."""
        return [end - begin for begin, end in pairwise(self._ends)]


@dataclass(frozen=True)
class Part:
    """One split: ids of every sentence with the end at the end, and the texts themselves."""

    source: Sentences
    target: Sentences
    source_texts: list[str]
    target_texts: list[str]

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Tokens of source and target."""
        return [*zip(self.source.lengths, self.target.lengths, strict=True)]


@dataclass(frozen=True)
class Corpus:
    """The three splits, the pieces by id, and where the data came from."""

    pieces: list[str]
    parts: dict[str, Part]
    data: str
    tokenizer: Path


def read(folder: Path) -> Corpus:
    """What `write` wrote."""
    table = json.loads((folder / FILE).read_text(encoding="utf8"))
    parts = {name: _read(table["parts"][name]) for name in PARTS}
    return Corpus(table["pieces"], parts, table["data"], folder / TOKENIZER)


def write(data: Path, folder: Path, vocabulary: int) -> None:
    """Learn the joint vocabulary of `data`'s training part, in lower case, and encode everything; needs regard."""
    from regard.data.records import read_records
    from regard.tasks.translate import Translate
    from regard.training.recipe import Recipe

    task = Translate()
    records = {name: list(read_records(str(data / f"{name}.jsonl.gz"), task.fields)) for name in PARTS}
    task.learn(records["train"], Recipe(vocabulary=vocabulary, lowercase=True))
    folder.mkdir(parents=True, exist_ok=True)
    task.save(folder)
    table = {
        "data": str(data.resolve()),
        "pieces": task.tokenizer.pieces(range(len(task.tokenizer))),
        "parts": {name: _part(task, records[name]) for name in PARTS},
    }
    (folder / FILE).write_text(json.dumps(table, ensure_ascii=False), encoding="utf8")


def _read(table: dict[str, Any]) -> Part:
    return Part(**{**table, "source": Sentences(table["source"]), "target": Sentences(table["target"])})


def by_length(part: Part, count: int) -> list[int]:
    """The numbers of the first `count` sentences (0: all), the longest source first."""
    lengths = part.source.lengths
    return sorted(range(min(count or len(lengths), len(lengths))), key=lambda number: -lengths[number])


def in_order(numbers: Sequence[int], found: Sequence[Sequence[int]]) -> list[list[int]]:
    """What was found for sentence `numbers[i]`, brought back into the order of the corpus."""
    pairs = sorted(zip(numbers, found, strict=True), key=lambda pair: pair[0])
    return [[int(token) for token in tokens] for _, tokens in pairs]


def limit(sources: Sequence[Sequence[int]]) -> int:
    """The most tokens a translation of one of these may have; the rule is regard's."""
    return 2 * max(map(len, sources)) + 10


def _part(task: Any, records: Sequence[Any]) -> dict[str, Any]:
    encoded = list(task.encode(records))
    return {
        "source": [list(source) for source, _ in encoded],
        "target": [list(target) for _, target in encoded],
        "source_texts": [record.fields["source"] for record in records],
        "target_texts": [record.fields["target"] for record in records],
    }
