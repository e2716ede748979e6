"""`regard evaluate`: the scores of a model on a file of examples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from regard._errors import ConfigError
from regard.cli._buckets import Cutting
from regard.cli._options import FLAGS, name_fields, task_options
from regard.cli._output import counted, give, give_json
from regard.cli._predictions import check_name, write_predictions
from regard.cli._shortlist import shortlist_option
from regard.samples import sample_path


def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    no_answer: float | None = None,
    stride: int | None = None,
    repeats: bool = False,
    lowercase: bool = False,
    language: str | None = None,
    text: str | None = None,
    label: str | None = None,
    each: bool = False,
    precision: Literal["fp32", "bf16", "int8"] | None = None,
    shortlist: Path | None = None,
    by: str | None = None,
    predictions: Path | None = None,
    max_characters: int | None = None,
    json: bool = False,
) -> None:
    """Score a model on a file of examples.

    Args:
        run: A run folder.
        data: The examples, in a form that the model was trained on, such as .jsonl.gz. Default: the test part of the
            sample, for a model that was trained on it.
        beam: Hypotheses kept for each sentence; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1; of summaries what was
            best on the dev data.
        repeats: Let a summary say the same three words twice.
        no_answer: How probable it must be that there is no answer before none is given. Default: what the dev data of the
            training chose, or else more so than any answer.
        stride: Of texts that are only read, tokens from one window to the next; fewer than the context give every token more to
            see, and take longer. Default: the context, so that windows do not overlap.
        lowercase: Compare without case, as sacrebleu -lc; always so for a model of lower case.
        language: Language of the references, such as de or zh; of captions also the one to write in. Default: looked up in
            the text, of captions the first of the run.
        precision: Of the weights while writing. bf16 and int8 are faster; what they lose against fp32 is measured too.
            Default: fp32.
        shortlist: Write only what it holds for the words of a text: a FILE that Python wrote by
            `regard.load(RUN).task.shortlist("train.jsonl").save(FILE)`. Default: the whole vocabulary.
        text: Name of the field that is classified. Default: as in training.
        label: Name of the field of labels. Default: as in training.
        each: The score of every role or class by itself, too.
        by: Score parts of the examples too: by length; where texts are read by frequency too, which is how often training saw
            the rarest word, or the predicate of roles; roles by distance, from the predicate to its farthest argument, answers
            by distance, to the nearest word that the question has too, texts by position in the window, and captions by
            kind, a field of the records.
        max_characters: Longest text accepted in a field; longer ones are refused. Default: as in training.
        predictions: Write what was predicted to this file, FILE.jsonl, for regard compare.
        json: One JSON object.
    """
    from regard._load import load

    if predictions is not None:
        check_name(predictions)
    predictor = load(run, max_characters)
    task = predictor.task
    given: dict[str, Any] = {"beam": beam, "penalty": length_penalty, "precision": precision}
    given |= {"repeats": repeats or None, "no_answer": no_answer, "stride": stride}
    given |= shortlist_option(predictor, shortlist)
    if "language" in task.options:
        given["language"] = language
    options = task_options(task.name, task.options, given, getattr(task, "defaults", None))
    wanted = {"lowercase": lowercase or None, "language": language, "each": each or None}
    scoring = task_options(task.name, task.score_options, wanted)
    name_fields([task], text, label)
    records = list(task.read(data or sample_test(predictor), predictor.recipe.max_characters))
    cutting = None if by is None else Cutting(task, by, records)
    inputs = [task.input_of(record) for record in records]

    def predicted(options: dict[str, Any]) -> tuple[list[Any], float]:
        begin = time.monotonic()
        return predictor.predict_checked(inputs, **options), time.monotonic() - begin

    found, seconds = predicted(options)
    if predictions is not None:
        write_predictions(predictions, task.name, found)
    if cutting is not None:
        cutting.weigh(found)
    scores = task.score(found, records, **scoring)
    is_exact = options.get("precision", "fp32") == "fp32"
    full = found if is_exact else predicted({**options, "precision": "fp32"})[0]
    exact = scores if is_exact else task.score(full, records, **scoring)
    lost = {score.name: full.value - score.value for score, full in zip(scores, exact, strict=True)}
    if json:
        facts: dict[str, Any] = {"count": len(records), "seconds": round(seconds, 3)}
        facts |= {FLAGS.get(name, name): value for name, value in options.items() if name != "shortlist"}
        facts |= {} if is_exact else {"lost": lost}
        signatures = {score.name: score.signature for score in scores}
        if cutting is not None:
            facts["by"] = cutting.as_json(_table(cutting, scores, found), float)
        give_json({**{score.name: score.value for score in scores}, **facts, "signatures": signatures})
        return
    width, digits = max(10, *(len(score.name) for score in scores)), getattr(task, "digits", 1)
    for score in scores:
        change = "" if is_exact else f"   {-lost[score.name]:+.2f} against fp32"
        give(f"{score.name:<{width}} {score.value:5.{digits}f}   {score.signature}{change}".rstrip())
    how = "".join(
        f", {name}{options[option]}"
        for option, name in (("beam", "beam "), ("precision", ""))
        if option in options
    )
    give(f"{counted(len(records), scores)} in {seconds:.1f} s{how}")
    if cutting is not None:
        width = max(8, *(len(score.name) + 2 for score in scores)) if digits > 1 else 8
        give(cutting.as_text(_table(cutting, scores, found), f"{{:.{digits}f}}".format, width))


def _table(cutting: Cutting, scores: list[Any], found: list[Any]) -> dict[str, list[float | None]]:
    from regard.metrics.buckets import part

    measure = cutting.group.measure
    scores = scores if measure is None else list(measure(found))

    def value(score: Any, rows: Any) -> float | None:
        here = part(score, rows)
        # Where nothing was to be found and nothing was given, 0 would read as a failure.
        return here.value if here.statistics.any() else None

    return {
        score.name: [value(score, bucket.rows) for bucket in cutting.buckets]
        for score in scores
        if cutting.fits(score)
    }


def sample_test(predictor: Any) -> str:
    """The shipped test data of a model that was trained on the shipped sample."""
    sample = sample_path(predictor.task.name)
    if predictor.config["data"].get("train") != str(sample["train"].resolve()):
        raise ConfigError("there is no data to score. Expected: --data FILE. Received: none.")
    return str(sample["test"])
