"""Captions of held-out pictures: those of the nearest training picture, and those of a run.

    python benchmarks/caption.py --data DIR                              # the baselines alone: no training
    python benchmarks/caption.py --data DIR --run runs/emoji --by kind
    python benchmarks/caption.py                                         # the sample that ships

DIR holds train and test as `.jsonl.gz` (and `.npz`). The nearest picture is the one of least squared difference, of pixels (16 x 16,
averaged) or of histograms of oriented gradients (Dalal and Triggs 2005: cells of an eighth of each side, nine unsigned directions,
blocks of 2 x 2 cells of unit length); its first caption is what is predicted. Scores are `regard evaluate`'s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import regard
from regard.cli._buckets import Cutting
from regard.data.records import Record
from regard.metrics.buckets import part
from regard.samples import sample_path
from regard.tasks._caption import Caption
from regard.tasks.caption import CaptionPictures

Features = NDArray[np.float32]
SIDE = 64  # pictures are brought to so many pixels each way before they are compared
GRID, CELLS, DIRECTIONS, TINY = 16, 8, 9, 1e-3
TOGETHER = 256


def main() -> None:
    """Print a table, a row for each system."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=sample_path("caption")["train"].parent)
    parser.add_argument("--split", default="test", help="dev or test")
    parser.add_argument("--run", type=Path, help="a run folder; default: the baselines alone")
    parser.add_argument("--language", help="of the captions; default: those in the field captions")
    parser.add_argument("--by", help="parts of the examples, such as kind or length")
    arguments = parser.parse_args()
    task = CaptionPictures()
    task.side = SIDE
    train, test = (
        list(task.read(arguments.data / f"{name}.jsonl.gz", 10**6)) for name in ("train", arguments.split)
    )
    cutting = None if arguments.by is None else Cutting(task, arguments.by, test)
    columns = ["all", *map(str, [] if cutting is None else cutting.buckets)]
    print("| CIDEr-D, BLEU-4, exact | " + " | ".join(columns) + " | seconds |")
    print("| --- " * (len(columns) + 2) + "|")
    for name, features in (("nearest by pixels", pixels), ("nearest by HOG", gradients)):
        begin = time.monotonic()
        found = nearest(task, features, train, test, arguments.language)
        show(name, task.score(found, test, language=arguments.language), cutting, time.monotonic() - begin)
    if arguments.run is not None:
        predictor = regard.load(arguments.run)
        begin = time.monotonic()
        inputs = [predictor.task.input_of(record) for record in test]
        found = predictor.predict(inputs, language=arguments.language)
        scores = predictor.task.score(found, test, language=arguments.language)
        show(str(arguments.run), scores, cutting, time.monotonic() - begin)


def show(name: str, scores: Sequence[Any], cutting: Cutting | None, seconds: float) -> None:
    """A row of the table: the three scores of all examples and of each part."""
    buckets = [] if cutting is None else cutting.buckets
    parts = [[score.value for score in scores]]
    parts += [[part(score, bucket.rows).value for score in scores] for bucket in buckets]
    cells = [" / ".join(f"{value:.1f}" for value in values) for values in parts]
    print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)


def nearest(
    task: CaptionPictures,
    features: Callable[[NDArray[np.float32]], Features],
    train: Sequence[Record],
    test: Sequence[Record],
    language: str | None,
) -> list[Caption]:
    """For each record of `test` the first caption of the picture of `train` that is most like its own."""
    known = [record for record in train if task.reader.captions(record, language)]
    ours, theirs = (np.stack([features(square(task, one)) for one in records]) for records in (test, known))
    norms = np.square(theirs).sum(axis=1)
    found = []
    for begin in range(0, len(ours), TOGETHER):
        distances = norms - 2 * ours[begin : begin + TOGETHER] @ theirs.T
        found += [task.reader.captions(known[number], language)[0] for number in distances.argmin(axis=1)]
    return [Caption(record.fields["image"], text, 0.0) for record, text in zip(test, found, strict=True)]


def square(task: CaptionPictures, record: Record) -> NDArray[np.float32]:
    """The picture of a record, stretched to SIDE x SIDE, from 0 to 1."""
    image = Image.fromarray(task.input_of(record).pixels)
    return np.asarray(image.resize((SIDE, SIDE)), np.float32) / 255


def pixels(image: NDArray[np.float32]) -> Features:
    """The means of squares, 16 x 16 of them, of each colour.

    >>> pixels(np.ones((64, 64, 3), np.float32)).shape
    (768,)
    """
    step = SIDE // GRID
    means: Features = image.reshape(GRID, step, GRID, step, 3).mean(axis=(1, 3)).reshape(-1)
    return means


def gradients(image: NDArray[np.float32]) -> Features:
    """Histograms of the directions of a grey picture's gradient, weighted by its length, normalized in blocks.

    >>> gradients(np.zeros((64, 64, 3), np.float32)).shape
    (1764,)
    """
    down, right = np.gradient(image.mean(axis=2))
    length = np.hypot(down, right)
    # Each gradient is shared between the two nearest directions.
    place = np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS
    lower = np.floor(place).astype(int)
    share = place - lower
    step = SIDE // CELLS
    row, column = (axis // step for axis in np.indices(length.shape))
    cells = np.zeros((CELLS, CELLS, DIRECTIONS), np.float32)
    np.add.at(cells, (row, column, lower % DIRECTIONS), length * (1 - share))
    np.add.at(cells, (row, column, (lower + 1) % DIRECTIONS), length * share)
    blocks = np.stack(
        [cells[y : y + CELLS - 1, x : x + CELLS - 1] for y in (0, 1) for x in (0, 1)], axis=2
    ).reshape(CELLS - 1, CELLS - 1, -1)
    unit: Features = blocks / np.sqrt(np.square(blocks).sum(axis=2, keepdims=True) + TINY**2)
    return unit.reshape(-1)


if __name__ == "__main__":
    main()
