"""Finished runs by distance: roles by how far the argument stands from its predicate, translations by the source's length.

What is read are the lines that `regard predict RUN --input FILE --json` wrote, and the file itself.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distance.points import Point
from regard.metrics.propositions import Phrase, tagged_phrases
from regard.metrics.significance import bleu_measurement

DISTANCES = (1, 2, 3, 5, 9, 17)  # words from the predicate to the nearest word of an argument
LENGTHS = (1, 6, 11, 16, 21, 31)  # words of a source
OF_PREDICATE = {"V", "C-V"}

Role = tuple[str, int, int]
Place = tuple[tuple[str, ...], int, int]
"""Words, predicate, and how often both occurred before: sentences repeat, and each one counts."""


def role_points(gold: Path, predicted: Path, kind: str, seed: int) -> list[Point]:
    """F1 of arguments at each distance; one row for each predicate, right with its exact words and role or not at all."""
    expected, found = (_by_predicate(lines(path)) for path in (gold, predicted))
    if missing := expected.keys() - found.keys():
        message = f"{predicted} lacks {len(missing)} of the {len(expected)} predicates of {gold}"
        raise ValueError(message)
    points = []
    for bucket in DISTANCES:
        rows, arguments = [], 0
        for key in sorted(expected):
            wanted, given = (_at(bucket, key[1], side[key]) for side in (expected, found))
            rows.append([2 * len(wanted & given), len(wanted) + len(given)])
            arguments += len(wanted)
        points.append(Point("roles", kind, seed, bucket, rows, "f1", {"arguments": arguments}))
    return points


def translation_points(
    gold: Path, predicted: Path, kind: str, seed: int, *, lowercase: bool = False
) -> list[Point]:
    """BLEU of the sentences of each length; one row for each sentence."""
    pairs = list(zip(lines(gold), lines(predicted), strict=True))
    if any(one["source"] != other["source"] for one, other in pairs):
        message = f"{predicted} does not translate the sources of {gold}"
        raise ValueError(message)
    buckets: dict[int, list[tuple[Any, Any]]] = {}
    for one, other in pairs:
        bucket = bucket_of(len(one["source"].split()), LENGTHS)
        buckets.setdefault(bucket, []).append((other["text"], one.get("targets") or [one["target"]]))
    points = []
    for bucket, found in sorted(buckets.items()):
        texts, references = zip(*found, strict=True)
        measurement = bleu_measurement(texts, references, lowercase=lowercase)
        points.append(Point("translation", kind, seed, bucket, measurement.statistics.tolist(), "bleu"))
    return points


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one each line, also with .gz."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf8")
    yield from map(json.loads, filter(None, text.split("\n")))


def bucket_of(number: int, edges: Sequence[int]) -> int:
    """The largest edge that is not above the number, or the first edge."""
    return edges[max(0, bisect_right(edges, number) - 1)]


def distance(phrase: Phrase, predicate: int) -> int:
    """Words from the predicate to the nearest word of the phrase; 0 where the predicate is one of them."""
    return max(0, phrase.first - predicate, predicate - phrase.last)


def _at(bucket: int, predicate: int, tags: Sequence[str]) -> set[Role]:
    return {
        (phrase.role, phrase.first, phrase.last)
        for phrase in tagged_phrases(tags)
        if phrase.role not in OF_PREDICATE and bucket_of(distance(phrase, predicate), DISTANCES) == bucket
    }


def _by_predicate(records: Iterable[dict[str, Any]]) -> dict[Place, Sequence[str]]:
    """Tags by place; records hold one predicate, or the `predicates` of a sentence."""
    tags: dict[Place, Sequence[str]] = {}
    seen = Counter[tuple[tuple[str, ...], int]]()
    for record in records:
        words = tuple(record["words"])
        single = "predicate" in record
        predicates = [record["predicate"]] if single else record["predicates"]
        for predicate, roles in zip(
            predicates, [record["roles"]] if single else record["roles"], strict=True
        ):
            tags[words, predicate, seen[words, predicate]] = roles
            seen[words, predicate] += 1
    return tags
