"""Which language is it? A Keras model of packed bytes, by `model.fit`, on any backend of Keras that trains.

    KERAS_BACKEND=torch python examples/keras_classifier.py

Sentences lie one after the other: {"values": the bytes of all of them, "offsets": where each begins and the last one ends}. Layers that look
at one token take the values; attention and pooling take both. Nothing is padded, but the batch as a whole: what is left of a round number of
bytes is a last sequence of weight 0, so that backends which compile every new shape meet few of them.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import regard.keras
from regard.samples import sample_path

LABELS = ["English", "French", "German"]
ROUND = 1024  # bytes of a batch are a multiple of it
SENTENCES = ["Il pleut depuis ce matin.", "It has been raining all morning.", "Es regnet seit heute Morgen."]


class Sentences(keras.utils.PyDataset):
    """Batches of packed sentences with labels and weights, in another order at every epoch."""

    def __init__(
        self, texts: list[str], labels: list[str], batch: int = 64, *, shuffled: bool = False
    ) -> None:
        super().__init__()
        self.texts = [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]
        self.labels = np.array([LABELS.index(label) for label in labels], np.int32)
        self.batch, self.random = batch, np.random.default_rng(0) if shuffled else None
        self.order = np.arange(len(texts))
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self.texts) / self.batch)

    def on_epoch_end(self) -> None:
        """Shuffle."""
        if self.random is not None:
            self.random.shuffle(self.order)

    def __getitem__(self, number: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        chosen = self.order[number * self.batch : (number + 1) * self.batch]
        weights = np.append(np.ones(len(chosen), np.float32), np.float32(0))
        return packed([self.texts[n] for n in chosen]), np.append(self.labels[chosen], 0), weights


def packed(texts: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Texts one after the other, and behind them a sequence of what is left."""
    total = sum(map(len, texts))
    rest = np.zeros(-total % ROUND, np.int32)
    lengths = [0, *map(len, texts), len(rest)]
    return {"values": np.concatenate([*texts, rest]), "offsets": np.cumsum(lengths).astype(np.int32)}


def build(dim: int = 64, blocks: int = 1) -> keras.Model:
    """Bytes to the probability of each language."""
    values = keras.Input((), dtype="int32", name="values")
    offsets = keras.Input((), dtype="int32", name="offsets")
    x = {"values": keras.layers.Embedding(256, dim)(values), "offsets": offsets}
    for _ in range(blocks):
        x = regard.keras.EncoderBlock(4, hidden_dim=2 * dim, sliding_window=4)(x)
    found = keras.layers.Dense(len(LABELS), activation="softmax")(regard.keras.MeanPooling()(x))
    model = keras.Model({"values": values, "offsets": offsets}, found)
    model.compile(
        keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"]
    )
    return model


def read(split: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a part of the sample that ships."""
    with gzip.open(Path(sample_path("classify")[split]), "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [record["text"] for record in records], [record["label"] for record in records]


def main(epochs: int = 3, examples: int | None = None) -> float:
    """Train, test, and say what language a few sentences are in; returns the accuracy."""
    texts, labels = read("train")
    model, start = build(), time.perf_counter()
    model.fit(
        Sentences(texts[:examples], labels[:examples], shuffled=True), epochs=epochs, verbose=2, shuffle=False
    )
    _, accuracy = model.evaluate(Sentences(*read("test")), verbose=0)
    print(
        f"{keras.backend.backend()}: accuracy {accuracy:.3f} after {time.perf_counter() - start:.0f} seconds"
    )
    found = keras.ops.convert_to_numpy(
        model(packed([np.frombuffer(text.encode(), np.uint8) for text in SENTENCES]))
    )
    for text, row in zip(SENTENCES, found, strict=False):
        print(f"{text:34} {LABELS[row.argmax()]} ({row.max():.2f})")
    return float(accuracy)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
