"""`regard evaluate`: the scores of a model on a file of examples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from regard._errors import ConfigError
from regard.cli._options import FLAGS, task_options
from regard.cli._output import give, give_json
from regard.samples import sample_path


def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    no_answer: float | None = None,
    lowercase: bool = False,
    language: str | None = None,
    json: bool = False,
) -> None:
    """Score a model on a file of examples.

    Args:
        run: A run folder.
        data: The examples, in a form that the model was trained on, such as .jsonl.gz. Default: the test part of the
            sample, for a model that was trained on it.
        beam: Hypotheses kept for each sentence; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1.
        no_answer: How probable it must be that there is no answer before none is given. Default: more so than any answer.
        lowercase: Compare without case, as sacrebleu -lc; always so for a model of lower case.
        language: Language of the references, such as de or zh. Default: looked up in the text.
        json: One JSON object.
    """
    from regard._load import load

    predictor = load(run)
    task = predictor.task
    given = {"beam": beam, "penalty": length_penalty, "no_answer": no_answer}
    options = task_options(task.name, task.options, given)
    wanted = {"lowercase": lowercase or None, "language": language}
    scoring = task_options(task.name, task.score_options, wanted)
    records = list(task.read(data or _sample_test(predictor), predictor.recipe.max_characters))
    begin = time.monotonic()
    inputs = [task.input_of(record) for record in records]
    predictions = task.predict(predictor.model, inputs, **options)
    seconds = time.monotonic() - begin
    scores = task.score(predictions, records, **scoring)
    if json:
        facts = {"count": len(records), "seconds": round(seconds, 3)}
        facts |= {FLAGS.get(name, name): value for name, value in options.items()}
        signatures = {score.name: score.signature for score in scores}
        give_json({**{score.name: score.value for score in scores}, **facts, "signatures": signatures})
        return
    for score in scores:
        give(f"{score.name:<6} {score.value:5.1f}   {score.signature}")
    beams = f", beam {options['beam']}" if "beam" in options else ""
    give(f"{len(records):,} examples in {seconds:.1f} s{beams}")


def _sample_test(predictor: Any) -> str:
    """The shipped test data of a model that was trained on the shipped sample."""
    sample = sample_path(predictor.task.name)
    if predictor.config["data"].get("train") != str(sample["train"].resolve()):
        raise ConfigError("there is no data to score. Expected: --data FILE. Received: none.")
    return str(sample["test"])
