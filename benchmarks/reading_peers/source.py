"""The records, the vocabulary and the sizes of a task: read, learned and chosen as our own training does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from reading_peers.models import Sizes
from reading_peers.vocabulary import Vocabulary
from regard.data.records import MAX_CHARACTERS, Record
from regard.tasks.answer import AnswerQuestions
from regard.tasks.roles import Roles
from regard.tasks.summarize import Summarize
from regard.training.recipe import Recipe

TASKS: dict[str, Any] = {"roles": Roles, "answer": AnswerQuestions, "summarize": Summarize}


@dataclass(frozen=True)
class Source:
    """What a peer trains on."""

    task: Any
    """Ours: it knows the vocabulary and the labels, and scores."""
    records: dict[str, list[Record]]
    vocabulary: Vocabulary
    init: Path | None = None
    positions: int | None = None
    """Of a pretrained encoder."""


def read(
    name: str, files: dict[str, str], architecture: str, init: Path | None, given: dict[str, float]
) -> tuple[Source, Sizes]:
    """Everything from the files of train, dev and test; `given` sizes stand in place of our preset's."""
    task = TASKS[name]()
    records = {part: list(task.read(path, MAX_CHARACTERS)) for part, path in files.items()}
    silent = [one.place for one in records["train"] if one.fields.get("answers") == []]
    if silent:
        raise SystemExit(
            f"{silent[0]}: a question without an answer. These peers are for data in which all have one."
        )
    chosen = {**task.sizes(len(records["train"])), **given}
    recipe = Recipe(init=str(init)) if init else Recipe(vocabulary=int(chosen["vocabulary"]))
    task.learn(records["train"], recipe)
    vocabulary = Vocabulary.of(task.tokenizer, architecture, init)
    writes = name == "summarize"
    above = chosen.get("decoder_layers", 0)
    sizes = Sizes(
        chosen["dim"], chosen["heads"], chosen["hidden"], chosen["encoder_layers"] + (0 if writes else above),
        above, chosen["dropout"],
    )  # fmt: skip
    positions = _positions(init) if init else None
    return Source(task, records, vocabulary, init, positions), sizes


def some(records: Sequence[Record], count: int) -> list[Record]:
    """About `count` of them, spread over all."""
    return list(records[:: max(1, -(-len(records) // count))])


def _positions(init: Path) -> int:
    config: Any = transformers.AutoConfig.from_pretrained(init)
    # RoBERTa's family counts them from behind the number of its padding.
    shift = config.pad_token_id + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    return int(config.max_position_embeddings) - shift
