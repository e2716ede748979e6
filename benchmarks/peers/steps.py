"""A training loop that belongs to a peer, made to stop and go on between two of its steps."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable


class Steps:
    """Runs `loop` in a thread; the loop calls `before` at every step, and stands still there until `go` is called."""

    def __init__(self, loop: Callable[[], object]) -> None:
        self._loop = loop
        self._resume, self._paused = threading.Event(), threading.Event()
        self._goes_on: Callable[[], bool] = lambda: False
        self._error = ""
        self._thread: threading.Thread | None = None

    def go(self, goes_on: Callable[[], bool]) -> None:
        """Let the loop make steps as long as `goes_on()` says so; RuntimeError where it ends by itself."""
        self._goes_on = goes_on
        self._paused.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._resume.set()
        self._paused.wait()
        if not self._thread.is_alive() or self._error:
            raise RuntimeError(f"the peer's training loop has ended. {self._error}")

    def before(self) -> None:
        """To be called by the loop before each step."""
        while not self._goes_on():
            self._resume.clear()
            self._paused.set()
            self._resume.wait()

    def _run(self) -> None:
        try:
            self._loop()
            self._error = "It came to its own end."
        except Exception:  # noqa: BLE001 -- `go` raises it where it is waited for
            self._error = traceback.format_exc()
        self._paused.set()
