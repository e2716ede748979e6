"""JSON lines between the driver and a contender in a process of its own: one question, one answer.

A contender is a class whose methods answer questions: `{"do": "train", "updates": 10}` is answered by
`{"seconds": ..., ...}`, what `train(updates=10)` returns. Every answer says the peak memory of the process so far.
Only the standard library is needed, so that every peer's interpreter can run this.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAST_LINES = 15  # of a contender's log, when it fails


class PeerError(RuntimeError):
    """A contender could not be started, or could not answer."""


class Contender:
    """The driver's end: a process that answers `ask`; what it prints beside its answers goes to `log`."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w", encoding="utf8") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
                cwd=Path(__file__).parents[1],
            )

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """The answer to a question; PeerError, with the end of the log, where there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PeerError(f"{do}: the process is gone. {self._end_of_log()}") from error
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": f"no answer to {do!r}"}
        if "failed" in answer:
            raise PeerError(f"{answer['failed']}\n{self._end_of_log()}")
        return dict(answer)

    def close(self) -> None:
        """End the process; it reads the end of its input and stops."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # what could not be told to a process that is gone
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _end_of_log(self) -> str:
        lines = self.log.read_text(encoding="utf8", errors="replace").splitlines()
        return "\n".join(["the end of " + str(self.log), *lines[-LAST_LINES:]])


def serve(make: Callable[..., Any]) -> None:
    """The contender's end: answer until the input ends. The first question, "start", makes the contender."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    contender = None
    for line in sys.stdin:
        question = json.loads(line)
        do = question.pop("do")
        try:
            if do == "start":
                contender = make(**question)
                answer = contender.facts()
            else:
                answer = getattr(contender, do)(**question)
        except Exception as error:  # noqa: BLE001 -- whatever went wrong is told, and the next question may be answered
            traceback.print_exc()
            answer = {"failed": f"{do}: {type(error).__name__}: {error}"}
        answers.write(json.dumps({"peak_mib": peak_mib(), **answer}) + "\n")
        answers.flush()


def peak_mib() -> int:
    """The most memory this process ever held, in MiB."""
    try:
        # The other counter begins with the memory of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="utf8")
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kib / 1024)
