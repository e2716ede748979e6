"""The flags of `regard predict` that say how a text goes on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from regard._errors import ConfigError
from regard.cli._output import is_first


@dataclass(kw_only=True)
class WritingFlags:
    """How a prompt is continued; None where a flag was not given."""

    prompt: Annotated[
        str | None,
        Parameter(
            help="A text to go on from. With texts: say which of them follows it best, and how likely each is."
        ),
    ] = None
    length: Annotated[
        int | None, Parameter(help="The most tokens to write: characters, bytes or subwords. Default: 300.")
    ] = None
    temperature: Annotated[
        float | None,
        Parameter(help="Below 1 likelier tokens become still likelier; 0 takes the likeliest. Default: 0.8."),
    ] = None
    top_k: Annotated[int | None, Parameter(help="Draw from so many tokens, the likeliest. Default: all.")] = (
        None
    )
    top_p: Annotated[
        float | None,
        Parameter(
            help="Draw from the fewest of the likeliest tokens that have this probability together. Default: all."
        ),
    ] = None
    seed: Annotated[
        int | None,
        Parameter(help="Another seed writes another text, the same one the same text. Default: 0."),
    ] = None
    stop: Annotated[str | None, Parameter(help="End where this text would stand. Default: nowhere.")] = None
    count: Annotated[int | None, Parameter(help="Continuations of each prompt. Default: 1.")] = None
    stream: Annotated[
        bool | None, Parameter(help="Write each token as soon as it is drawn; for one prompt.", negative=())
    ] = None

    def options(self) -> dict[str, Any]:
        """The keywords of `predict`."""
        return {name: value for name, value in vars(self).items() if name not in ("prompt", "stream")}


def asked(task: Any, prompt: str | None, texts: tuple[str, ...], others: bool) -> tuple[Any, ...]:
    """What is to be predicted where a prompt is given by its flag."""
    if prompt is None:
        return texts
    if "length" not in task.options or others:
        what = "other input too" if others else f"the task {task.name!r}, which continues nothing"
        raise ConfigError(
            f"--prompt is a text that a model of the task 'generate' continues. Expected: --prompt alone, or with texts "
            f"that may follow it. Received: {what}."
        )
    return ({"prompt": prompt, "candidates": list(texts)} if texts else prompt,)


def stream(predictor: Any, inputs: tuple[Any, ...], options: dict[str, Any], json: bool) -> None:
    """Write a prompt and what follows it to stdout, piece by piece."""
    refused = sorted(options.keys() & {"count", "attention"}) + ["json"] * json
    if len(inputs) != 1 or not isinstance(inputs[0], str) or refused:
        what = ", ".join(f"--{name}" for name in refused) or f"{len(inputs)} inputs or candidates"
        raise ConfigError(f"--stream writes one text. Expected: one prompt. Received: {what}.")
    pieces = predictor.stream(inputs[0], **options)
    if is_first():
        sys.stdout.write(inputs[0])
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
