"""How often training saw the words of a text: counted while a task learns, kept with its run, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from regard.data.frequency import WORDS, WordCounts
from regard.data.records import Record
from regard.metrics.buckets import Group

SEEN = (1, 10, 100, 1000)


class CountsWords:
    """What a task has that counts words: `counts` while it learns, else the `folder` of its run where they stand."""

    counts: WordCounts | None = None
    folder: Path | None = None

    def rarest(self, words: Iterable[str]) -> int:
        """How often training saw the rarest of some words; ConfigError where there is no run that counted them."""
        if self.counts is None:
            self.counts = WordCounts.of_run(self.folder)
        return self.counts.rarest(words)

    def save_counts(self, folder: Path) -> None:
        """Write `words.json` after `learn`."""
        if self.counts is not None:
            self.counts.save(folder / WORDS)

    def expect_counts(self, folder: Path) -> None:
        """Let `words.json` in a folder be read when it is asked for."""
        self.folder, self.counts = folder, None


def frequency_group(what: str, value: Callable[[Record], float | Sequence[float]]) -> Group:
    """Examples cut by how often training saw something: never, less than 10, 100 or 1,000 times, or more often."""
    return Group(f"how often training saw {what}", value, SEEN)
