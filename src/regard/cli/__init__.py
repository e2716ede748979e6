"""The command line: one file a command, and nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from regard._errors import RegardError

DONE, MENDABLE, INTERRUPTED, PIPE_CLOSED = 0, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `regard` with these arguments (default: those of the process).

    Returns:
        The exit code: 0; 2 for everything that can be mended by another input or option, with a message on stderr; 130
        after Ctrl-C; 141 where the reader of the output went away.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt as stop:
        return _failed(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # What is still held for the reader goes nowhere, or the interpreter would complain when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except RegardError as error:
        return _failed(str(error), MENDABLE)
    except ModuleNotFoundError as error:
        if (error.name or "regard").partition(".")[0] == "regard":
            raise
        return _failed(f"{error.name} is not installed. To mend it: pip install 'regard[tasks]'", MENDABLE)
    except OSError as error:
        return _failed(f"{error.filename or 'the system'}: {error.strerror or error}", MENDABLE)


def _run(arguments: Sequence[str]) -> int:
    from cyclopts import CycloptsError

    from regard.cli._app import make_app

    try:
        make_app()(list(arguments))
    except CycloptsError as error:
        return _failed(f"{error} To see what there is: regard --help, or --help after a command.", MENDABLE)
    sys.stdout.flush()
    return DONE


def _failed(message: str, code: int) -> int:
    from regard.cli._output import tell_error

    tell_error(f"regard: {message}")
    return code
