"""Translate with a model that `regard export --to onnx` wrote, without regard and without PyTorch.

    python examples/translate_onnx.py exported/mine "A dog runs on the beach."

It needs numpy, onnxruntime and tokenizers. Greedy search: at every step the likeliest piece.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers


class Translator:
    """The two graphs and the tokenizer of an exported model."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("encoder", "decoder")
        )
        facts = self.decoder.get_modelmeta().custom_metadata_map
        self.begin, self.end = int(facts["begin"]), int(facts["end"])

    def __call__(self, texts: Sequence[str]) -> list[str]:
        sources = [[*encoding.ids, self.end] for encoding in self.tokenizer.encode_batch(list(texts))]
        lengths = np.array([len(source) for source in sources])
        padded = np.array([source + [self.end] * (lengths.max() - len(source)) for source in sources])
        fixed = named(self.encoder, {"source": padded, "lengths": lengths})
        fixed |= {"lengths": lengths, "sources": np.arange(len(texts))}

        written = np.full((len(texts), 1), self.begin)
        kept = self.nothing_yet(len(texts))
        while not (written == self.end).any(1).all() and written.shape[1] < 2 * lengths.max() + 10:
            found = named(self.decoder, {"tokens": written[:, -1:], **fixed, **kept})
            best = found.pop("log_probabilities")[:, -1].argmax(1)
            written = np.concatenate([written, best[:, None]], axis=1)
            kept = {name.replace("present", "past"): array for name, array in found.items()}
        return [self.text(row) for row in written[:, 1:].tolist()]

    def nothing_yet(self, count: int) -> dict[str, np.ndarray]:
        """Keys and values of no tokens, for every block."""
        caches = [value for value in self.decoder.get_inputs() if value.name.startswith("past")]
        return {
            cache.name: np.zeros((count, cache.shape[1], 0, cache.shape[3]), np.float32) for cache in caches
        }

    def text(self, ids: list[int]) -> str:
        """The text of the pieces before the end."""
        return self.tokenizer.decode(ids[: ids.index(self.end)] if self.end in ids else ids)


def named(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a graph by their names."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    print(*Translator(Path(sys.argv[1]))(sys.argv[2:]), sep="\n")
