"""Train classifiers of texts and pictures beside scikit-learn's, on the same examples, and compare them on held-out ones.

    python benchmarks/classify.py digits                                # needs no data: scikit-learn has it
    python benchmarks/classify.py domain --data DIR                     # squadshifts
    python benchmarks/classify.py style tone --data DIR                 # the emoji pictures; DIR for each item alike
    python benchmarks/classify.py digits --minutes 3 --seed 1 --out runs --dropout 0.2    # presets, but for what is named

DIR holds train, dev and test as `.jsonl.gz` (and `.npz`). The peer is the best of a few usual models, chosen on dev as ours is; both
are trained on train alone. The difference is ours - theirs, with its 95 % interval and p by randomization.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

import regard
from regard.cli import main as regard_command
from regard.metrics.labels import label_scores
from regard.metrics.significance import compare

SPLITS = ("train", "dev", "test")
TONE = re.compile(r"(?:medium-light|medium-dark|light|medium|dark) skin tone")
Rows = list[dict[str, Any]]
Part = tuple[Rows, np.ndarray | None]  # records, and the pictures that their `image` numbers


def main() -> None:
    """Run the items that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("items", nargs="+", choices=ITEMS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--steps", type=int, help="updates, instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the runs stay; default: nowhere")
    arguments, arguments.options = parser.parse_known_args()  # the rest is for regard train
    print(
        "| item | test examples | ours | calibration error | scikit-learn | difference (95 %) | p | seconds of training |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for item in arguments.items:
        with tempfile.TemporaryDirectory() as folder:
            run(item, arguments, arguments.out or Path(folder))


def run(item: str, arguments: argparse.Namespace, out: Path) -> None:
    """Train both, print a row of the table."""
    read, peers = ITEMS[item]
    parts = {split: read(arguments.data, split) for split in SPLITS}
    files = {split: written(out / item / "data", split, part) for split, part in parts.items()}
    name, guesses, their_seconds = best_peer(peers(), parts)
    budget = ["--steps", arguments.steps] if arguments.steps else ["--minutes", arguments.minutes]
    begin = time.monotonic()
    flags = [
        "--train",
        files["train"],
        "--dev",
        files["dev"],
        "--out",
        out / item / "run",
        "--overwrite",
        "--quiet",
    ]
    if regard_command(
        [
            "train",
            "classify",
            *map(str, [*flags, *budget, "--seed", arguments.seed, *arguments.options]),
        ]
    ):
        raise SystemExit(1)
    seconds = time.monotonic() - begin
    predictor = regard.load(out / item / "run")
    records = list(predictor.task.read(files["test"], 10**6))
    found = predictor.task.predict(predictor.model, [predictor.task.input_of(one) for one in records])
    expected = [row["label"] for row in parts["test"][0]]
    ours, theirs = (label_scores(some, expected) for some in ([one.label for one in found], guesses))
    error = predictor.task.score(found, records)[2].value
    told = compare(theirs.accuracy, ours.accuracy)
    print(
        f"| {item} | {len(expected):,} | {ours.accuracy.value:.1f}, macro-F1 {ours.macro_f1.value:.1f} | {error:.1f} | "
        f"{theirs.accuracy.value:.1f}, macro-F1 {theirs.macro_f1.value:.1f} ({name}) | {told.difference:+.1f} "
        f"({told.low:+.1f} to {told.high:+.1f}) | {told.p:.3f} | {seconds:.0f} / {their_seconds:.0f} |",
        flush=True,
    )


def best_peer(peers: dict[str, Any], parts: dict[str, Part]) -> tuple[str, list[str], float]:
    """The name and the guesses for test of the model that is best on dev, and how long all took to train."""
    inputs = {split: features(part) for split, part in parts.items()}
    labels = {split: [row["label"] for row in part[0]] for split, part in parts.items()}
    begin, best = time.monotonic(), (-1.0, "", None)
    for name, model in peers.items():
        model.fit(inputs["train"], labels["train"])
        score = float(np.mean(model.predict(inputs["dev"]) == np.array(labels["dev"])))
        best = max(best, (score, name, model), key=lambda one: one[0])
    return best[1], list(map(str, best[2].predict(inputs["test"]))), time.monotonic() - begin


def features(part: Part) -> Any:
    """Texts as they are; pictures as numbers, averaged over squares until 16 x 16 pixels remain."""
    rows, pictures = part
    if pictures is None:
        return [row["text"] for row in rows]
    square = max(1, pictures.shape[1] // 16)
    chosen = pictures[[row["image"] for row in rows]].astype(np.float32) / 255
    count, height, width = chosen.shape[:3]
    return (
        chosen.reshape(count, height // square, square, width // square, square, -1)
        .mean((2, 4))
        .reshape(count, -1)
    )


def written(folder: Path, split: str, part: Part) -> Path:
    """The files that `regard train` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, pictures = part
    if pictures is not None:
        np.savez_compressed(folder / f"{split}.npz", images=pictures)
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The records of a file."""
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def domain(folder: Path, split: str) -> Part:
    """Passages, each once, and where they are from: an encyclopedia, a forum or a shop. No passage is in two splits."""
    found = {row["context"]: row["domain"] for row in rows_of(folder, split)}
    return [{"text": text, "label": label} for text, label in found.items()], None


def emoji(folder: Path, split: str, label_of: Callable[[dict[str, Any]], str | None]) -> Part:
    """Pictures and what `label_of` makes of their records; those without are left out."""
    pictures = np.load(folder / f"{split}.npz")["images"]
    labels = [(row["image"], label_of(row)) for row in rows_of(folder, split)]
    return [{"image": number, "label": label} for number, label in labels if label is not None], pictures


def tone_of(row: dict[str, Any]) -> str | None:
    """The one skin tone of a person or a hand."""
    tones = set(TONE.findall(row["captions"][0]))
    return tones.pop() if len(tones) == 1 else None


def digits(_: Path | None, split: str) -> Part:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, shuffled once: 1,257 for training, 180 for dev, 360 for test."""
    data = load_digits()
    order = np.split(np.random.default_rng(0).permutation(len(data.target)), [360, 540])
    chosen = dict(zip(("test", "dev", "train"), order, strict=True))[split]
    pictures = np.clip(data.images[chosen] * 16, 0, 255).astype(np.uint8)
    return [{"image": n, "label": str(digit)} for n, digit in enumerate(data.target[chosen])], pictures


def text_peers() -> dict[str, Any]:
    """Logistic regression on words and pairs of words."""
    return {
        f"tf-idf, n-grams to {longest}, C = {c}": make_pipeline(
            TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, longest)),
            LogisticRegression(C=c, max_iter=1000),
        )
        for longest in (1, 2)
        for c in (1, 10, 100)
    }


def picture_peers() -> dict[str, Any]:
    """What is usual on pixels."""
    machines = {f"support vectors, C = {c}": SVC(C=c) for c in (1, 10)}
    return {**machines, "random forest": RandomForestClassifier(300, random_state=0)}


Item = tuple[Callable[[Any, str], Part], Callable[[], dict[str, Any]]]
ITEMS: dict[str, Item] = {
    "domain": (domain, text_peers),
    "digits": (digits, picture_peers),
    "style": (lambda folder, split: emoji(folder, split, lambda row: row["style"]), picture_peers),
    "tone": (lambda folder, split: emoji(folder, split, tone_of), picture_peers),
}

if __name__ == "__main__":
    main()
