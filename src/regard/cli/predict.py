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
from regard.data.checks import is_blank
from regard.data.lines import find_file, read_lines
from regard.data.records import plain_file

TOGETHER = 256  # texts of a file that are predicted at once


def predict(
    run: Path,
    /,
    *texts: str,
    input: str | None = None,  # noqa: A002 -- the flag's name
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
        input: A file with a text on each line, or files with the columns of the task, "a.jsonl,b.csv", such as "source" or "words".
            A blank line of plain text gives an empty line, with --json {"blank": true}, so that line n stays line n.
        passage: A text file in which questions are answered; in what is found, the end of a line counts as one character.
        image: A picture to caption or classify, as its path alone would be.
        language: In which to write, for a model of captions in several languages. Default: the first of them.
        beam: Hypotheses kept for each sentence that is written; 1 is greedy search. Default: 5.
        length_penalty: Exponent of the length that divides a score; 0 favors short outputs. Default: 1; of summaries what was
            best on the dev data.
        repeats: Let a summary say the same three words twice.
        no_answer: How probable it must be that there is no answer before none is given. Default: what the dev data of the
            training chose, or else more so than any answer.
        candidates: With --json, how many of the most probable answers are given, none of which overlap; of translations and
            summaries how many of those that the beam found. Default: 1.
        attention: Write a page (.html) or figure (.svg, .png) of what was looked at; for a single text.
        precision: Of the weights while writing; bf16 and int8 are faster and lose a little. Default: fp32.
        shortlist: Write only what it holds for the words of a text: a FILE that Python wrote by
            `regard.load(RUN).task.shortlist("train.jsonl").save(FILE)`. Default: the whole vocabulary.
        columns: Roles in the columns of CoNLL.
        max_characters: Longest text accepted in a field; longer ones are refused. Default: as in training.
        json: One JSON object on each line: the input, what was found, and how sure that is.
        writing: How a text goes on.
    """
    from regard._load import load

    if attention is not None:
        from regard.pictures import ending

        ending(attention)  # refuses an unknown one
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
    together = 1 if _waits(texts, input) else TOGETHER
    lines = blank = 0
    for chunk, problem in _chunks(_inputs(predictor, texts, input, passage), together):
        blank += sum(one is None for one in chunk)
        if attention and lines + len(chunk) - blank > 1:
            raise ConfigError(
                "one page shows one text. Expected a single text with --attention. Received several."
            )
        for result in _results(predictor, chunk, options):
            show(result)
            lines += 1
            if attention and result is not None:
                _write_page(result, attention)
        sys.stdout.flush()
        if problem is not None:
            raise DataError(
                f"{problem}{f' The {lines:,} before it were printed.' if lines else ''}"
            ) from problem
    if blank:
        tell(f"blank lines, for which nothing was predicted: {blank:,}")


def _results(predictor: Any, chunk: list[Any], options: dict[str, Any]) -> Iterator[Any]:
    """A result for each input, None for each None."""
    given = [one for one in chunk if one is not None]
    results = iter(predictor.predict_checked(given, **options) if given else [])
    return (None if one is None else next(results) for one in chunk)


def _inputs(predictor: Any, texts: tuple[Any, ...], file: str | None, passage: Path | None) -> Iterator[Any]:
    """What is to be predicted, checked one by one; None for a blank line."""
    task, longest = predictor.task, predictor.recipe.max_characters
    if passage is not None and (file is not None or not hasattr(task, "with_passage")):
        why = "--input too" if file is not None else f"the task {task.name!r}, which asks nothing"
        raise ConfigError(
            f"--passage is a text in which the given questions are answered. Expected: questions, without --input. Received: {why}."
        )
    inputs: Iterable[Any]
    if file is not None:
        # Those of pictures are paths from the folder of the file, which only the task's reader knows.
        plain = None if getattr(task, "reads_pictures", False) else plain_file(file)
        records = task.read(file, longest, answers=False)  # refuses other forms at once
        if plain is None:
            return map(task.input_of, records)
        name, inputs = str(plain), (line for _, line in read_lines(plain))
    else:
        name, inputs = ("the given texts", texts) if texts else ("standard input", _standard_input())
    about = None if passage is None else "\n".join(line for _, line in read_lines(find_file(passage)))

    def checked(number: int, text: Any) -> Any:
        given = text if about is None else task.with_passage(text, about)
        try:
            return task.input_of(task.record(given, (name, number), longest))
        except DataError:
            if texts or not is_blank(text):  # among lines a blank one keeps the place of those behind it
                raise
            return None

    return itertools.starmap(checked, enumerate(inputs, start=1))


def _picture(task: Any, image: Path, file: str | None) -> str:
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


def _waits(texts: tuple[Any, ...], file: str | None) -> bool:
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
    """How a result is printed; None stands for a blank line."""
    if columns and (json or not hasattr(task, "columns")):
        what = "--json and --columns" if json else f"--columns, and the task {task.name!r} has none"
        raise ConfigError(
            f"output has one form. Expected --json, --columns (of the task 'roles'), or neither. Received: {what}."
        )
    if json:
        return lambda result: give_json({"blank": True} if result is None else result.as_json())
    return lambda result: give("" if result is None else task.columns(result) if columns else str(result))


def _write_page(result: Any, path: Path) -> None:
    result.picture().save(path)
    shown = getattr(result, "pictured", "")  # what it is of, where a result has several to show
    tell(f"wrote {path}{f': {shown}' if shown else ''}")
