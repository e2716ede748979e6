"""Ctrl-C and SIGTERM, answered between two updates, so that what was learned is saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from regard.training import workers


class Stop:
    """While it lasts, the first signal only asks to stop; a second one interrupts at once.

    Several processes and threads that are not the main one keep their own handlers.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if workers.world() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
