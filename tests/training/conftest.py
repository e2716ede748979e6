"""A toy language of some three hundred sentences, and the smallest translator that learns it."""

from __future__ import annotations

import itertools
import json

import pytest

from regard.tasks.translate import Translate
from regard.training import runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

WORDS = [
    {"a": "ein", "the": "der"},
    {"red": "roter", "big": "großer", "old": "alter", "quiet": "stiller", "young": "junger"},
    {"dog": "hund", "man": "mann", "bird": "vogel", "tree": "baum", "fish": "fisch", "king": "könig"},
    {
        "runs": "läuft",
        "sings": "singt",
        "falls": "fällt",
        "waits": "wartet",
        "sees the sea": "sieht das meer",
    },
]
SMALL = {
    "vocabulary": 300, "dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1,
    "tokens": 200, "dev_examples": 8, "precision": "fp32", "threads": 1, "seed": 3,
}  # fmt: skip


def write_pairs(path, pairs):
    lines = [json.dumps({"source": source, "target": target}, ensure_ascii=False) for source, target in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Paths of the training and the dev data."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [
        tuple(" ".join(side) for side in zip(*words, strict=True))
        for words in itertools.product(*(w.items() for w in WORDS))
    ]
    dev = pairs[::25]
    train = [pair for pair in pairs if pair not in dev]
    return write_pairs(folder / "train.jsonl", train), write_pairs(folder / "dev.jsonl", dev)


@pytest.fixture(autouse=True)
def memory_is_left_alone(monkeypatch):
    """The settings of the C library's memory are those of the whole process: other tests measure it."""
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)


@pytest.fixture
def trainer_of(data, tmp_path):
    """Makes trainers in new run folders."""
    numbers = itertools.count()

    def make(task=None, **options):
        folder = tmp_path / f"run{next(numbers)}"
        recipe = Recipe(**({"steps": 100} | SMALL | options))
        reporter = Reporter(folder / "metrics.jsonl", Silence())
        return runs.begin(task or Translate(), recipe, *data, folder, reporter)

    return make
