"""Lengths of real sentences: a token is a word or a punctuation mark of the source, and one more ends the sentence."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

from regard.samples import sample_path

TOKEN = re.compile(r"\w+|[^\w\s]")


def corpora(paths: list[Path]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The batches of each corpus; without paths, of the sample that ships with the package."""
    if not paths:
        return {"sample": batches(read_lengths(sample_path("translate")["train"]))}
    return {_name(path): batches(read_lengths(_file(path))) for path in paths}


def batches(lengths: list[int], counts: tuple[int, ...] = (64, 256)) -> dict[str, tuple[int, ...]]:
    """Batches of `counts` sentences: neighbours in the middle of the length-sorted corpus, and a random draw."""
    drawn = list(lengths)
    random.Random(0).shuffle(drawn)
    ordered = sorted(lengths)
    chosen = {}
    for count in counts:
        begin = max(0, len(ordered) // 2 - count // 2)
        chosen[f"{count}-sorted"] = tuple(ordered[begin : begin + count])
        chosen[f"{count}-random"] = tuple(drawn[:count])
    return chosen


def read_lengths(path: Path) -> list[int]:
    """Tokens of the `source` of each line."""
    with gzip.open(path, "rt", encoding="utf8") as lines:
        return [1 + len(TOKEN.findall(json.loads(line)["source"])) for line in lines]


def _file(path: Path) -> Path:
    return path / "train.jsonl.gz" if path.is_dir() else path


def _name(path: Path) -> str:
    return (path if path.is_dir() else path.parent).resolve().name
