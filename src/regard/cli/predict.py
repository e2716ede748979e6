"""`regard predict`: one result for each text that is given, read from a file, or piped in."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from regard._errors import ConfigError, DataError
from regard.cli._options import task_options
from regard.cli._output import give, give_json, tell
from regard.cli._shortlist import shortlist_option
from regard.cli._writing import WritingFlags, asked, stream
from regard.data.lines import find_file, read_lines

TOGETHER = 256  # texts of a file that are predicted at once


def predict(
    run: Path,
    /,
    *texts: str,
    input: Path | None = None,  # noqa: A002 -- the flag's name
    passage: Path | None = None,
    image: Path | None = None,
    language: str | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    no_answer: float | None = None,
    candidates: int | None = None,
    repeats: bool = False,
    attention: Path | None = None,
    columns: bool = False,
    precision: Literal["fp32", "bf16", "int8"] | None = None,
    shortlist: Path | None = None,
    max_characters: int | None = None,
    json: bool = False,
    writing: Annotated[WritingFlags | None, Parameter(name="*", group="Continuing a text")] = None,
) -> None:
    """Use a model: on texts, on a file, or on what comes in.

    Args:
        run: A run folder.
        texts: What to translate, summarize, label, ask, classify, caption or continue: texts, or paths of pictures. Default:
            the lines of --input, or of standard input.
        input: A file with a text on each line, or one with the columns of the task, such as .jsonl or .csv with "source" or "words".
        passage: A text file in which questions are answered; in what is found, the end of a line counts as one character.
        image: A picture to caption or classify, as its path alone would be.
        language: In which to write, for a model of captions in several languages. Default: the first of them.
        beam: Hypotheses kept for each sentence that is written; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1; of summaries what was
            best on the dev data.
        repeats: Let a summary say the same three words twice.
        no_answer: How probable it must be that there is no answer before none is given. Default: what the dev data of the
            training chose, or else more so than any answer.
        candidates: With --json, how many of the most probable answers are given, none of which overlap. Default: 1.
        attention: Write a page (.html) or figure (.svg, .png) of what was looked at; for a single text.
        precision: Of the weights while writing; bf16 and int8 are faster and lose a little. Default: fp32.
        shortlist: Write only what it holds for the words of a text: a file of `task.shortlist(records).save(FILE)`, see the
            README. Default: the whole vocabulary.
        columns: Roles in the columns of CoNLL.
        max_characters: Longest text accepted in a field; longer ones are refused. Default: as in training.
        json: One JSON object on each line: the input, what was found, and how sure that is.
        writing: How a text goes on.
    """
    from regard._load import load

    if texts and input is not None:
        raise ConfigError("there are two inputs. Expected texts or --input. Received both; leave one out.")
    predictor = load(run, max_characters)
    task = predictor.task
    if image is not None:
        texts = (*texts, _picture(task, image, input))
    given: dict[str, Any] = {
        "beam": beam,
        "penalty": length_penalty,
        "attention": True if attention else None,
    }
    given |= {"repeats": repeats or None, "no_answer": no_answer, "language": language}
    given |= {"precision": precision, "candidates": candidates}
    given |= shortlist_option(predictor, shortlist)
    writing = writing or WritingFlags()
    options = task_options(
        task.name, task.options, given | writing.options(), getattr(task, "defaults", None)
    )
    texts = asked(task, writing.prompt, texts, input is not None or passage is not None)
    if writing.stream:
        stream(predictor, texts, options, json)
        return
    show = _printer(task, columns, json)
    records = _inputs(predictor, texts, input, passage)
    together = 1 if _waits(texts, input) else TOGETHER
    done = 0
    for chunk, problem in _chunks(records, together):
        if attention and (done or len(chunk) > 1):
            raise ConfigError(
                "one page shows one text. Expected a single text with --attention. Received several."
            )
        for result in predictor.predict(chunk, **options) if chunk else []:
            show(result)
            done += 1
            if attention:
                _write_page(result, attention)
        sys.stdout.flush()
        if problem is not None:
            raise DataError(
                f"{problem}{f' The {done:,} before it were printed.' if done else ''}"
            ) from problem


def _inputs(predictor: Any, texts: tuple[Any, ...], file: Path | None, passage: Path | None) -> Iterator[Any]:
    """What is to be predicted, checked one by one."""
    task, longest = predictor.task, predictor.recipe.max_characters
    if passage is not None and (file is not None or not hasattr(task, "with_passage")):
        why = "--input too" if file is not None else f"the task {task.name!r}, which asks nothing"
        raise ConfigError(
            f"--passage is a text in which the given questions are answered. Expected: questions, without --input. Received: {why}."
        )
    if file is not None:
        return map(task.input_of, task.read(file, longest, answers=False))
    name, lines = ("the given texts", texts) if texts else ("standard input", _standard_input())
    inputs: Iterable[Any] = lines
    if passage is not None:
        about = "\n".join(line for _, line in read_lines(find_file(passage)))
        inputs = (task.with_passage(text, about) for text in lines)
    records = (task.record(one, (name, number), longest) for number, one in enumerate(inputs, start=1))
    return map(task.input_of, records)


def _picture(task: Any, image: Path, file: Path | None) -> str:
    """The path of a picture, for a task that takes such."""
    if file is not None or not getattr(task, "reads_pictures", False):
        why = "--input too" if file is not None else f"the task {task.name!r}, here of texts"
        raise ConfigError(
            f"--image is a picture to caption or classify. Expected: a run that was trained on pictures. Received: {why}."
        )
    return str(image)


def _standard_input() -> Iterator[str]:
    if sys.stdin.isatty():
        tell("Type a text and press Enter; Ctrl-D ends.")
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            yield raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"standard input, line {number}, byte {error.start + 1}: the text is not UTF-8. Expected: UTF-8. Received: "
                f"the byte 0x{raw[error.start]:02X}. To mend it: convert it, for example with iconv -f LATIN1 -t UTF-8."
            ) from error


def _waits(texts: tuple[Any, ...], file: Path | None) -> bool:
    """Whether a person types, and wants each answer at once."""
    return not texts and file is None and sys.stdin.isatty()


def _chunks(inputs: Iterable[Any], size: int) -> Iterator[tuple[list[Any], DataError | None]]:
    """Lists of inputs; where one cannot be used, those before it come with what is wrong."""
    iterator = iter(inputs)
    while True:
        chunk: list[Any] = []
        try:
            for one in itertools.islice(iterator, size):
                chunk.append(one)  # noqa: PERF402 -- those before an error are kept
        except DataError as problem:
            yield chunk, problem
            return
        if not chunk:
            return
        yield chunk, None


def _printer(task: Any, columns: bool, json: bool) -> Callable[[Any], None]:
    """How a result is printed."""
    if columns and (json or not hasattr(task, "columns")):
        what = "--json and --columns" if json else f"--columns, and the task {task.name!r} has none"
        raise ConfigError(
            f"output has one form. Expected --json, --columns (of the task 'roles'), or neither. Received: {what}."
        )
    if json:
        return lambda result: give_json(result.as_json())
    return lambda result: give(task.columns(result) if columns else str(result))


def _write_page(result: Any, path: Path) -> None:
    result.picture().save(path)
    shown = getattr(result, "pictured", "")  # what it is of, where a result has several to show
    tell(f"wrote {path}{f': {shown}' if shown else ''}")
