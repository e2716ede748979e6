"""CTranslate2: decoding alone, with the weights of transformers or with ours.

Run by the interpreter of transformers, whose model its converter reads; the driver converts beforehand. For throughput it gets one core a translator and
all sentences at once, as its documentation advises, and sorts and batches them itself; for a single sentence the threads
of one translator share the work where that is faster.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import ctranslate2

from peers import corpus
from peers.protocol import serve

TRIAL = 10  # sentences by which the settings for a single sentence are compared


class CTranslate2:
    """The converted model in `load`, in two arrangements of the threads."""

    def __init__(
        self,
        *,
        corpus_folder: str,
        load: str,
        compute: str = "float32",
        threads: int = 2,
    ) -> None:
        self.corpus = corpus.read(Path(corpus_folder))
        folder = Path(load)
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        self.ends = not config.get("add_source_eos", False)
        self.ids = {piece: number for number, piece in enumerate(self.corpus.pieces)}
        self.size, self.compute, self.threads = (folder / "model.bin").stat().st_size, compute, threads
        options = {"device": "cpu", "compute_type": compute}
        self.spread = ctranslate2.Translator(str(folder), inter_threads=threads, intra_threads=1, **options)
        self.joined = ctranslate2.Translator(str(folder), inter_threads=1, intra_threads=threads, **options)

    def facts(self) -> dict[str, Any]:
        """Versions and size."""
        versions = {"ctranslate2": ctranslate2.__version__}
        return {"versions": versions, "precision": self.compute, "bytes": self.size, "threads": self.threads}

    def translate(
        self, *, beam: int, batch: int, count: int = 0, part: str = "test", limit: int = 0
    ) -> dict[str, Any]:
        """Token ids of the translations; seconds of every sentence for a batch of one, else of all together."""
        numbers = corpus.by_length(self.corpus.parts[part], count)
        sources = [self._pieces(self.corpus.parts[part].source[number]) for number in numbers]
        options = {"beam_size": beam, "max_batch_size": batch}
        options["max_decoding_length"] = limit or corpus.limit(sources)
        if batch > 1:
            begin = time.perf_counter()
            results = self.spread.translate_batch(sources, **options)
            seconds = [time.perf_counter() - begin]
        else:
            translator = self._quicker(sources[:TRIAL], options)
            seconds, results = [], []
            for source in sources:
                begin = time.perf_counter()
                results += translator.translate_batch([source], **options)
                seconds.append(time.perf_counter() - begin)
        found = [[self.ids.get(piece, corpus.UNK) for piece in result.hypotheses[0]] for result in results]
        return {"seconds": seconds, "ids": corpus.in_order(numbers, found)}

    def _quicker(self, sources: list[list[str]], options: dict[str, Any]) -> Any:
        """The translator that takes less for one sentence at a time, both tried in turn."""
        taken: dict[Any, list[float]] = {self.spread: [], self.joined: []}
        for source in sources:
            for translator, seconds in taken.items():
                begin = time.perf_counter()
                translator.translate_batch([source], **options)
                seconds.append(time.perf_counter() - begin)
        return min(taken, key=lambda translator: median(taken[translator]))

    def _pieces(self, ids: list[int]) -> list[str]:
        pieces = [self.corpus.pieces[number] for number in ids]
        return pieces if self.ends else pieces[:-1]


if __name__ == "__main__":
    serve(CTranslate2)
