"""`regard evaluate`: the scores of a model on a file of examples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from regard._errors import ConfigError
from regard.cli._options import known_options, used_options
from regard.cli._output import give, give_json
from regard.samples import sample_path


def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    lowercase: bool = False,
    language: str | None = None,
    json: bool = False,
) -> None:
    """Score a model on a file of examples.

    Args:
        run: A run folder.
        data: The examples: .jsonl, .tsv (or with .gz), or two text files "a.en,a.de". Default: the test part of the
            sample, for a model that was trained on it.
        beam: Hypotheses kept for each sentence; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1.
        lowercase: Compare without case, as sacrebleu -lc; always so for a model of lower case.
        language: Language of the references, such as de or zh. Default: looked up in the text.
        json: One JSON object.
    """
    from regard._load import load

    predictor = load(run)
    task = predictor.task
    options = known_options(task.name, task.options, {"beam": beam, "penalty": length_penalty})
    scoring = known_options(task.name, task.scoring, {"lowercase": lowercase, "language": language})
    records = list(task.read(data or _sample_test(predictor), predictor.recipe.max_characters))
    begin = time.monotonic()
    inputs = [task.input_of(record) for record in records]
    predictions = task.predict(predictor.model, inputs, **options)
    seconds = time.monotonic() - begin
    scores = task.score(predictions, records, **scoring)
    if json:
        facts = {"count": len(records), "seconds": round(seconds, 3), **used_options(task, options)}
        signatures = {score.name: score.signature for score in scores}
        give_json({**{score.name: score.value for score in scores}, **facts, "signatures": signatures})
        return
    width = max(6, *(len(score.name) for score in scores))
    for score in scores:
        give(f"{score.name:<{width}} {score.value:5.1f}   {score.signature}".rstrip())
    used = "".join(
        f", {name.replace('_', ' ')} {value}" for name, value in used_options(task, options).items()
    )
    give(f"{len(records):,} examples in {seconds:.1f} s{used}")


def _sample_test(predictor: Any) -> str:
    """The shipped test data of a model that was trained on the shipped sample."""
    sample = sample_path(predictor.task.name)
    if predictor.config["data"].get("train") != str(sample["train"].resolve()):
        raise ConfigError("there is no data to score. Expected: --data FILE. Received: none.")
    return str(sample["test"])
