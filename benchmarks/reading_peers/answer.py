"""Answers by extractive question answering: question and passage in one sequence, a start and an end, windows with a stride.

As transformers' own example does it (run_qa.py): windows of 384 tokens that share 128, a window without the answer is labelled with
its first token, an answer has 30 tokens at most, and the best sum of both scores over all windows wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reading_peers.models import Sizes, reader
from reading_peers.rows import Ids, batch, ids, parts
from reading_peers.source import Source, some
from regard.data.passages import covering_pieces, window_starts
from regard.data.records import Record
from regard.tasks._reading import Answer

WINDOW, SHARED, LONGEST = 384, 128, 30
PREDICTED = 8192  # tokens of a part, with padding


class Row(NamedTuple):
    """A question with a window of its passage."""

    ids: Ids
    types: Ids
    begin: int
    """Where the window stands in the sequence."""
    start: int
    """Which piece of the passage it begins with."""
    size: int


class Answers:
    """The peer of `regard train answer`."""

    checked = 500  # dev questions of a check

    def __init__(self, source: Source, sizes: Sizes, architecture: str) -> None:
        self.source, self.sizes, self.architecture = source, sizes, architecture
        self.task, self.vocabulary = source.task, source.vocabulary
        self.window = min(WINDOW, source.positions or WINDOW)
        self.passages: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        self.rows: list[Row] = []
        self.golds: list[tuple[int, int]] = []
        for record in source.records["train"]:
            rows = self._rows(record)
            self.rows += rows
            self.golds += [self._gold(record, row) for row in rows]
        self.passages.clear()
        self.lengths = [(len(row.ids), 0) for row in self.rows]

    def model(self) -> Any:
        """A new one."""
        return reader("answer", self.architecture, self.sizes, self.vocabulary, WINDOW, self.source.init)

    def loss(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """The mean over windows of that of start and end."""
        starts, ends = torch.tensor([self.golds[number] for number in numbers]).T
        given = batch(self.vocabulary, [self.rows[number] for number in numbers])
        loss: Tensor = model(**given, start_positions=starts, end_positions=ends).loss
        return loss

    def dev_score(self, model: Any) -> float:
        """F1 of some of dev."""
        chosen = some(self.source.records["dev"], self.checked)
        return float(self.task.score(self.predict(model, chosen), chosen)[0].value)

    @torch.inference_mode()
    def predict(self, model: Any, records: Sequence[Record]) -> list[Answer]:
        """The best span of every question."""
        rows, owners = [], []
        for number, record in enumerate(records):
            found = self._rows(record)
            rows += found
            owners += [number] * len(found)
        best = [(-np.inf, 0, 0)] * len(records)
        for part in parts([len(row.ids) for row in rows], PREDICTED):
            out = model(**batch(self.vocabulary, [rows[number] for number in part]))
            starts, ends = out.start_logits.float().numpy(), out.end_logits.float().numpy()
            for place, number in enumerate(part):
                row = rows[number]
                inside = slice(row.begin, row.begin + row.size)
                score, first, last = best_span(starts[place, inside], ends[place, inside])
                best[owners[number]] = max(best[owners[number]], (score, row.start + first, row.start + last))
        return [self._answer(record, *one) for record, one in zip(records, best, strict=True)]

    def _answer(self, record: Record, score: float, first: int, last: int) -> Answer:
        _, spans = self._passage(record)
        start, end = spans[first][0], spans[last][1]
        passage = record.fields["context"]
        return Answer(record.fields["question"], passage[start:end], start, end, 0.0, 0.0)

    def _passage(self, record: Record) -> tuple[list[int], list[tuple[int, int]]]:
        text = record.fields["context"]
        if text not in self.passages:
            self.passages[text] = self.vocabulary.tokenizer.encode_with_offsets(text)
        return self.passages[text]

    def _rows(self, record: Record) -> list[Row]:
        pieces, _ = self._passage(record)
        question = self.vocabulary.tokenizer.encode(record.fields["question"])[: self.window // 2]
        around = len(self.vocabulary.join(question, [])[0])
        room = self.window - around
        # The passage stands before the last mark.
        begin = around - 1
        rows = []
        for start in window_starts(len(pieces), room, max(1, room - SHARED)):
            part = pieces[start : start + room]
            joined, types = self.vocabulary.join(question, part)
            rows.append(Row(ids(joined), ids(types), begin, start, len(part)))
        return rows

    def _gold(self, record: Record, row: Row) -> tuple[int, int]:
        answer = record.fields["answers"][0]
        span = answer["start"], answer["start"] + len(answer["text"])
        first, last = covering_pieces(self._passage(record)[1], *span)
        if not row.start <= first <= last < row.start + row.size:
            return 0, 0
        return row.begin + first - row.start, row.begin + last - row.start


def best_span(starts: NDArray[np.floating], ends: NDArray[np.floating]) -> tuple[float, int, int]:
    """The largest sum of a start and an end that does not come before it, at most LONGEST pieces in all: (sum, first, last)."""
    sums = np.full((min(LONGEST, len(starts)), len(starts)), -np.inf)
    for further in range(len(sums)):
        sums[further, : len(starts) - further] = starts[: len(starts) - further] + ends[further:]
    further, first = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[further, first]), int(first), int(first + further)
