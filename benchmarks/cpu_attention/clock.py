"""An interleaved clock: contenders take turns, so that a slow minute of the machine is slow for all of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Pace:
    """How long to measure: `budget` seconds for all contenders of one row, within these numbers of rounds."""

    budget: float = 2.0
    sample: float = 0.01  # seconds of one contender in one round, at least
    rounds: tuple[int, int] = (3, 25)


QUICK = Pace(budget=0.2, sample=0.002, rounds=(2, 7))
SWEEP = Pace(budget=0.1, sample=0.004, rounds=(3, 9))
# Below this, each sample begins with a call that is not timed: threads and caches are then its own.
SHORT = 0.02


def interleave(
    calls: dict[str, Callable[[], object]], probe: Callable[[], float], pace: Pace
) -> tuple[dict[str, list[float]], float]:
    """Seconds a call of each contender, by round, and the median of what `probe` says once a round."""
    once = {name: _estimate(call) for name, call in calls.items()}
    counts = {name: max(1, math.ceil(pace.sample / seconds)) for name, seconds in once.items()}
    a_round = sum(counts[name] * seconds for name, seconds in once.items())
    least, most = pace.rounds
    rounds = min(max(round(pace.budget / a_round), least), most)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rates = []
    if min(once.values()) > max(SHORT, pace.sample):  # so long that the estimate is as good as a round
        seconds = {name: [estimate] for name, estimate in once.items()}
        rounds -= 1
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            rates.append(probe())
            for name, call in calls.items():
                if once[name] < SHORT:
                    call()
                seconds[name].append(_clock(call, counts[name]))
    finally:
        gc.enable()
    return seconds, median(rates)


def _estimate(call: Callable[[], object]) -> float:
    """Seconds a call, roughly; a short one is warmed up."""
    seconds = _clock(call, 1)
    return _clock(call, 5) if seconds < SHORT else seconds


def _clock(call: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count
