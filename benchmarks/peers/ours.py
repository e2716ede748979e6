"""regard, by its own training loop and its own search, under the same protocol."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import regard
from peers import corpus
from peers.batches import epochs, useful
from peers.protocol import serve
from regard.tasks import make_task
from regard.training import runs
from regard.training.loop import Trainer
from regard.training.memory import release_freed_memory
from regard.training.precision import resolved
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SHAPE = {
    "dim": 128,
    "heads": 4,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "dropout": 0.1,
    "label_smoothing": 0.1,
}
HALF = 0.5  # where a run stands whose speed is measured


class Ours:
    """A recipe of the peers' shape; what it does not name is regard's default."""

    def __init__(
        self,
        *,
        corpus_folder: str,
        tokens: int = 2048,
        load: str | None = None,
        seed: int = 1,
        scale: float = 1.0,
        compute: str = "fp32",
        **options: Any,
    ) -> None:
        self.folder = corpus_folder
        self.corpus = corpus.read(Path(corpus_folder))
        peaks = {name: scale * getattr(Recipe(), name) for name in ("learning_rate", "matrix_learning_rate")}
        shape = {**SHAPE, "hidden": 256, "vocabulary": len(self.corpus.pieces), **peaks}
        # One evaluation, after the last update: peers do not stop for any either.
        self.recipe = Recipe(lowercase=True, tokens=tokens, seed=seed, evaluations=1, **{**shape, **options})
        self.tokens, self.seed, self.compute = tokens, seed, compute
        self.batches: SameBatches | None = None
        self.predictor = None if load is None else regard.load(load)
        self.trainer = self._new() if load is None else None

    def facts(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "versions": {"regard": regard.__version__, "torch": torch.__version__},
            "parameters": sum(parameter.numel() for parameter in self._model().parameters()),
            "precision": resolved(self.recipe.precision) if self.predictor is None else self.compute,
            "threads": torch.get_num_threads(),
        }

    def train(self, *, updates: int) -> dict[str, Any]:
        """Some updates, timed; on the batches that peers get in sorted order."""
        assert self.trainer is not None
        if self.batches is None:
            self.batches = SameBatches(self.corpus, self.tokens, self.seed)
            self.trainer.learning.batches = self.batches  # type: ignore[assignment]
            release_freed_memory()  # as every training begins
        counted = self.batches.useful
        begin = time.perf_counter()
        for _ in range(updates):
            self.trainer.update(HALF)
        seconds = time.perf_counter() - begin
        real = self.batches.useful - counted
        return {"seconds": seconds, "updates": updates, "useful": real, "padded": real}

    def learn(
        self, *, folder: str, minutes: float | None = None, updates: int | None = None
    ) -> dict[str, Any]:
        """A whole training, as `regard train` does it; the run is kept in `folder`."""
        self.trainer = None  # two at a time would be measured as one's memory
        trainer = self._new(Path(folder), minutes=minutes, steps=updates)
        begin = time.perf_counter()
        position = trainer.run()
        seconds = time.perf_counter() - begin - position.scoring
        real = int(trainer.reporter.counted)  # type: ignore[attr-defined]
        self.predictor = regard.load(folder)
        answer = {"seconds": seconds, "updates": position.step, "useful": real, "padded": real}
        return answer | {"dev_loss": position.best_loss}

    @torch.inference_mode()
    def translate(
        self, *, beam: int, batch: int, count: int = 0, part: str = "test", limit: int = 0
    ) -> dict[str, Any]:
        """Token ids of the translations, and the seconds that each batch took, from text to text."""
        assert self.predictor is not None
        assert not limit, "the limit is regard's own, 2 tokens for each of the source and 10"
        texts = self.corpus.parts[part].source_texts
        numbers = corpus.by_length(self.corpus.parts[part], count)
        seconds, found = [], []
        for first in range(0, len(numbers), batch):
            begin = time.perf_counter()
            some = [texts[number] for number in numbers[first : first + batch]]
            written = self.predictor(some, beam=beam, precision=self.compute)
            seconds.append(time.perf_counter() - begin)
            found += [one.pieces for one in written]
        return {"seconds": seconds, "ids": corpus.in_order(numbers, found)}

    def _model(self) -> torch.nn.Module:
        either = self.trainer or self.predictor
        assert either is not None
        return either.model

    def _new(self, folder: Path | None = None, **budget: Any) -> Trainer:
        """A trainer in a new run folder; without one, in a folder that goes at once."""
        where = folder or Path(tempfile.mkdtemp())
        data = Path(self.corpus.data)
        recipe = self.recipe.replace(**budget or {"steps": 10**6})
        files = [str(data / f"{name}.jsonl.gz") for name in ("train", "dev")]
        reporter = Counting(where / "metrics.jsonl" if folder else None, Silence())
        trainer = runs.begin(make_task("translate"), recipe, *files, where, reporter, overwrite=True)
        mine = (where / "tokenizer.json").read_bytes()
        if mine != self.corpus.tokenizer.read_bytes():
            raise RuntimeError(f"{self.corpus.tokenizer} is not what regard learns now; delete {self.folder}")
        if folder is None:
            shutil.rmtree(where)  # what is mapped from it stays
        return trainer


class SameBatches:
    """The peers' batches in sorted order, as the trainer takes them."""

    epoch = 0

    def __init__(self, exported: corpus.Corpus, tokens: int, seed: int) -> None:
        self.lengths = exported.parts["train"].lengths
        self.useful = 0
        self._numbers = epochs(self.lengths, tokens, "sorted", seed)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        numbers = next(self._numbers)
        self.useful += useful(self.lengths, numbers)
        return np.asarray(numbers)


class Counting(Reporter):
    """What `regard train` writes, and the sum of the tokens."""

    counted = 0.0

    def step(self, **facts: Any) -> None:
        """One update is done."""
        self.counted += facts["tokens"]
        super().step(**facts)


if __name__ == "__main__":
    serve(Ours)
