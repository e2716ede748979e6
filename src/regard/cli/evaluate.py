"""`regard evaluate`: the scores of a model on a file of examples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from regard._errors import ConfigError
from regard.cli._output import give, give_json
from regard.cli._shortlist import shortlist_option
from regard.samples import sample_path


def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    beam: int = 5,
    length_penalty: float = 1.0,
    lowercase: bool = False,
    language: str | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    shortlist: Path | None = None,
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
        precision: Of the weights while writing. bf16 and int8 are faster; what they lose against fp32 is measured too.
            Default: fp32.
        shortlist: Write only what it holds for the words of a text: a file of `task.shortlist(records).save(FILE)`, see the
            README. Default: the whole vocabulary.
        json: One JSON object.
    """
    from regard._load import load

    predictor = load(run)
    task = predictor.task
    records = list(task.read(data or _sample_test(predictor), predictor.recipe.max_characters))
    inputs = [task.input_of(record) for record in records]
    options = {"beam": beam, "penalty": length_penalty, **shortlist_option(predictor, shortlist)}

    def scored(**chosen: Any) -> tuple[list[Any], float]:
        begin = time.monotonic()
        predictions = predictor.predict(inputs, **options, **chosen)
        seconds = time.monotonic() - begin
        return task.score(predictions, records, lowercase=lowercase, language=language), seconds

    scores, seconds = scored(precision=precision)
    exact = scores if precision == "fp32" else scored()[0]
    lost = {score.name: full.value - score.value for score, full in zip(scores, exact, strict=True)}
    if json:
        facts = {
            "count": len(records),
            "seconds": round(seconds, 3),
            "beam": beam,
            "length_penalty": length_penalty,
            "precision": precision,
            **({} if exact is scores else {"lost": lost}),
        }
        signatures = {score.name: score.signature for score in scores}
        give_json({**{score.name: score.value for score in scores}, **facts, "signatures": signatures})
        return
    for score in scores:
        change = "" if exact is scores else f"   {-lost[score.name]:+.2f} against fp32"
        give(f"{score.name:<6} {score.value:5.1f}   {score.signature}{change}")
    give(f"{len(records):,} examples in {seconds:.1f} s, beam {beam}, {precision}")


def _sample_test(predictor: Any) -> str:
    """The shipped test data of a model that was trained on the shipped sample."""
    sample = sample_path(predictor.task.name)
    if predictor.config["data"].get("train") != str(sample["train"].resolve()):
        raise ConfigError("there is no data to score. Expected: --data FILE. Received: none.")
    return str(sample["test"])
