"""Summaries by an encoder-decoder: padded sources and targets, beam search with the settings that are best on dev."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reading_peers.models import Sizes, writer
from reading_peers.rows import Ids, ids, mask, parts, stacked
from reading_peers.source import Source, some
from regard.data.records import Record
from regard.tasks._writing import BEAM, longest_target
from regard.tasks.summarize import Summary

IGNORED = -100  # a label that counts for nothing
SMOOTHING = 0.1
POSITIONS = 1024  # of source and target: what BART has
PREDICTED = 4096  # source tokens of a part, with padding
CALIBRATED = 200  # dev documents by which search is set
PENALTIES = (0.5, 1.0, 1.5, 2.0)


class Summaries:
    """The peer of `regard train summarize`."""

    checked = 300  # dev documents of a check

    def __init__(self, source: Source, sizes: Sizes, architecture: str) -> None:
        self.source, self.sizes, self.architecture = source, sizes, architecture
        self.task, self.vocabulary = source.task, source.vocabulary
        self.search: dict[str, Any] = {}
        self.rows: list[tuple[Ids, Ids]] = [
            (ids(read[:POSITIONS]), ids(written[: POSITIONS - 1]))
            for read, written in self.task.encode(source.records["train"])
        ]
        # Sorted by sources, which are the longer side, and then by targets.
        self.lengths = [(len(written), len(read)) for read, written in self.rows]

    def model(self) -> Any:
        """A new one."""
        self.search = {"num_beams": 1}
        return writer(self.architecture, self.sizes, self.vocabulary, POSITIONS)

    def loss(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """The mean of the target tokens, with smoothing."""
        read, written = zip(*(self.rows[number] for number in numbers), strict=True)
        start = model.config.decoder_start_token_id
        logits = model(
            input_ids=stacked(read, self.vocabulary.pad),
            attention_mask=mask(read),
            decoder_input_ids=stacked([ids([start, *row[:-1]]) for row in written], self.vocabulary.pad),
            use_cache=False,
        ).logits
        labels = stacked(written, IGNORED)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, label_smoothing=SMOOTHING
        )

    def dev_score(self, model: Any) -> float:
        """ROUGE-1 of some of dev, greedy."""
        return self._rouge(model, self.checked, num_beams=1)[0]

    def settle(self, model: Any) -> dict[str, Any]:
        """Choose how long summaries should be and whether three pieces may come again, by the sum of ROUGE-1, 2 and L of some of dev."""
        tried = [
            {"num_beams": BEAM, "length_penalty": penalty, "no_repeat_ngram_size": size}
            for penalty in PENALTIES
            for size in (0, 3)
        ]
        self.search = max(tried, key=lambda one: math.fsum(self._rouge(model, CALIBRATED, **one)))
        return self.search

    def predict(self, model: Any, records: Sequence[Record]) -> list[Summary]:
        """A summary of every document, as `settle` chose; greedy before."""
        return self._write(model, records, **self.search)

    def _rouge(self, model: Any, count: int, **search: Any) -> list[float]:
        chosen = some(self.source.records["dev"], count)
        return [one.value for one in self.task.score(self._write(model, chosen, **search), chosen)]

    @torch.inference_mode()
    def _write(self, model: Any, records: Sequence[Record], **search: Any) -> list[Summary]:
        texts = [record.fields["source"] for record in records]
        sources = [ids(row[:POSITIONS]) for row in self.task.sources(texts)]
        found = [""] * len(texts)
        for part in parts(list(map(len, sources)), PREDICTED):
            rows = [sources[number] for number in part]
            written = model.generate(
                input_ids=stacked(rows, self.vocabulary.pad),
                attention_mask=mask(rows),
                do_sample=False,
                max_new_tokens=min(POSITIONS - 1, longest_target(max(map(len, rows)))),
                suppress_tokens=list(range(self.vocabulary.pad, self.vocabulary.size)),
                **search,
            )
            for number, row in zip(part, written.tolist(), strict=True):
                found[number] = self.vocabulary.tokenizer.decode(self._cleaned(row[1:]))
        return [Summary(text, one, math.nan, ()) for text, one in zip(texts, found, strict=True)]

    def _cleaned(self, row: list[int]) -> list[int]:
        """Up to the end."""
        end = self.vocabulary.end
        kept = row[: row.index(end)] if end in row else row
        return [one for one in kept if one < self.vocabulary.pad]
