"""Roles by token classification: a sequence for each predicate, tags on the first piece of each word.

The predicate's pieces have a type of their own, as in AllenNLP's BERT for roles (Shi and Lin 2019, "Simple BERT Models for Relation
Extraction and Semantic Role Labeling"), or stand between two marks where a model knows no types.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reading_peers.models import Sizes, reader
from reading_peers.rows import Ids, batch, ids, parts, stacked
from reading_peers.source import Source, some
from regard.data.records import Record
from regard.data.spelling import Spelling
from regard.tasks._labelling import Labelling, read_propositions

IGNORED = -100  # a label that counts for nothing
PREDICTED = 8192  # tokens of a part, with padding


class Row(NamedTuple):
    """A sentence for one of its predicates: ids, their types, and which of them are the first of a word."""

    ids: Ids
    types: Ids
    firsts: Ids


class Roles:
    """The peer of `regard train roles`."""

    checked = 500  # dev sentences of a check

    def __init__(self, source: Source, sizes: Sizes, architecture: str) -> None:
        self.source, self.sizes, self.architecture = source, sizes, architecture
        self.task, self.vocabulary = source.task, source.vocabulary
        self.spell = Spelling(self.vocabulary.tokenizer)
        self.limit = source.positions or 0
        numbers = {"O": 0}
        for number, role in enumerate(self.task.roles):
            numbers |= {f"B-{role}": 1 + 2 * number, f"I-{role}": 2 + 2 * number}
        self.tags = len(numbers)
        self.rows: list[Row] = []
        self.labels: list[Ids] = []
        for record in source.records["train"]:
            self.rows += self._rows(record)
            self.labels += [ids([numbers[tag] for tag in row]) for row in record.fields["roles"]]
        self.lengths = [(len(row.ids), 0) for row in self.rows]
        # Positions that training never saw would be noise; few sentences are as long as its longest.
        self.limit = self.limit or max(512, *(len(row.ids) for row in self.rows))

    def model(self) -> Any:
        """A new one."""
        source = self.source
        return reader(
            "roles",
            self.architecture,
            self.sizes,
            self.vocabulary,
            self.limit,
            source.init,
            num_labels=self.tags,
        )

    def loss(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """The mean of the tags."""
        rows = [self.rows[number] for number in numbers]
        labels = []
        for row, number in zip(rows, numbers, strict=True):
            labels.append(np.full(len(row.ids), IGNORED, np.int32))
            labels[-1][row.firsts] = self.labels[number][: len(row.firsts)]
        loss: Tensor = model(**batch(self.vocabulary, rows), labels=stacked(labels, IGNORED)).loss
        return loss

    def dev_score(self, model: Any) -> float:
        """F1 of some of dev."""
        chosen = some(self.source.records["dev"], self.checked)
        return float(self.task.score(self.predict(model, chosen), chosen)[0].value)

    @torch.inference_mode()
    def predict(self, model: Any, records: Sequence[Record]) -> list[Labelling]:
        """The best valid tags for the given predicates, which AllenNLP's model searches for too."""
        rows = [row for record in records for row in self._rows(record)]
        scores: list[Any] = [None] * len(rows)
        for part in parts([len(row.ids) for row in rows], PREDICTED):
            chosen = [rows[number] for number in part]
            logits = model(**batch(self.vocabulary, chosen)).logits.float().log_softmax(-1)
            for number, row, found in zip(part, chosen, logits, strict=True):
                scores[number] = found[torch.from_numpy(row.firsts).long()].numpy()
        sentences = [self.task.input_of(record) for record in records]
        pairs = [(one, place) for one in sentences for place in one.predicates or ()]
        filled = [_filled(one, len(pair[0].words)) for one, pair in zip(scores, pairs, strict=True)]
        offsets = np.cumsum([0, *map(len, filled)])
        table = np.concatenate(filled) if filled else np.zeros((0, self.tags), np.float32)
        found = iter(read_propositions(table, offsets, pairs, self.task.roles))
        return [Labelling(one, tuple(next(found) for _ in one.predicates or ()), None) for one in sentences]

    def _rows(self, record: Record) -> list[Row]:
        pieces, starts, _ = self.spell(record.fields["words"])
        words = [pieces[begin:end] for begin, end in pairwise([*starts, len(pieces)])]
        return [self._row(words, place) for place in record.fields["predicates"]]

    def _row(self, words: Sequence[list[int]], predicate: int) -> Row:
        flat: list[int] = []
        starts, predicates = [], [0, 0]
        for number, pieces in enumerate(words):
            before, behind = ([], []) if number != predicate or self.vocabulary.typed else self.marks
            starts.append(len(flat) + len(before))
            flat += [*before, *pieces, *behind]
            if number == predicate:
                predicates = [starts[-1], starts[-1] + len(pieces)]
        joined, types = self.vocabulary.join(flat)
        lead = self.vocabulary.join([])[0].index(self.vocabulary.end)  # what stands before the first piece
        if self.vocabulary.typed:
            begin, end = (lead + place for place in predicates)
            types[begin:end] = [1] * (end - begin)
        limit = self.limit or len(joined)
        firsts = [lead + start for start in starts if lead + start < limit]
        return Row(ids(joined[:limit]), ids(types[:limit]), ids(firsts))

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """What stands around a predicate."""
        before, behind = self.vocabulary.marks
        return [before], [behind]


def _filled(scores: Any, words: int) -> Any:
    """Scores of all words: those that were cut off are outside of every role."""
    out = np.full((words, scores.shape[1]), -1e4, np.float32)
    out[:, 0] = 0
    out[: len(scores)] = scores
    return out
