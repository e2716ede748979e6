"""Translators of a few words, trained for a second, in the forms that the exports meet."""

from __future__ import annotations

import gzip
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from regard.data.packing import pack_ids, pack_streams
from regard.data.records import Record
from regard.samples import sample_path
from regard.tasks.translate import Translate
from regard.training.recipe import Recipe

RECIPE = Recipe(vocabulary=400, dim=32, heads=4, hidden=48, encoder_layers=2, decoder_layers=2, dropout=0.0)
ODD = ["I.", "Ω 中 42", "dog " * 12]


@pytest.fixture(scope="session")
def records():
    """Some pairs of the sample."""
    with gzip.open(sample_path("translate")["train"], "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in itertools.islice(file, 40)]
    return [
        Record({**line, "targets": [line["target"]]}, "sample", number) for number, line in enumerate(lines)
    ]


@pytest.fixture(scope="session")
def sentences(records):
    """Sources of many lengths: seen, unseen, spelled in bytes."""
    return ODD + [record.fields["source"] for record in records[:20]]


@pytest.fixture(scope="session")
def usual(records):
    """What `regard.load` would give of a run; the scores are far from even, and no two hypotheses are alike."""
    task = Translate()
    task.learn(records, RECIPE)
    torch.manual_seed(1)
    model = task.model(RECIPE)
    batch = pack_streams(list(task.encode(records)), task.streams)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (task.loss(model, batch, 0.0) / task.counted(batch)).backward()
        optimizer.step()
    return SimpleNamespace(model=model.eval(), task=task, recipe=RECIPE)


@pytest.fixture(scope="session")
def scores_of():
    """The model's own log-probabilities of some pieces, and an end, as the translation of a text."""

    def scores(predictor, text, pieces):
        tokenizer = predictor.task.tokenizer
        source = [*tokenizer.encode(text), tokenizer.eos]
        with torch.no_grad():
            states = predictor.model(pack_ids([source]), pack_ids([[tokenizer.bos, *pieces]]))
            log_p = torch.log_softmax(predictor.model.scores(states), dim=-1).numpy()
        return log_p[np.arange(len(log_p)), [*pieces, tokenizer.eos]]

    return scores
