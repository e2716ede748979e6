"""How often training saw each word, kept with a run, so that it can tell the rare from the common."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from regard._errors import CheckpointError, ConfigError

WORDS = "words.json"  # in a run folder


class WordCounts:
    """Counts of words.

    >>> counts = WordCounts()
    >>> counts.add(["a", "dog", "and", "a", "cat"])
    >>> counts.rarest(["a", "dog"]), counts.rarest(["a", "fox"])
    (1, 0)
    """

    def __init__(self, counts: dict[str, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    def add(self, words: Iterable[str]) -> None:
        """Count some words more."""
        self._counts.update(words)

    def rarest(self, words: Iterable[str]) -> int:
        """The count of the rarest of some words; where there is none, that of the most frequent word of all."""
        counted = [self._counts[word] for word in words]
        return min(counted) if counted else max(self._counts.values(), default=0)

    def save(self, path: Path) -> None:
        """Write all words, the frequent ones first."""
        path.write_text(json.dumps(dict(self._counts.most_common()), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def of_run(cls, folder: Path | None) -> WordCounts:
        """Those that a run folder holds.

        Raises:
            ConfigError: there is no run, only files of predictions.
            CheckpointError: as `load`.
        """
        if folder is None:
            raise ConfigError("words were counted in training. Expected: a run. Received: only files.")
        return cls.load(folder / WORDS)

    @classmethod
    def load(cls, path: Path) -> WordCounts:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return cls({str(word): int(count) for word, count in entries.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: the counts of words cannot be read. Expected: the file that regard train writes. Received: "
                f"{type(error).__name__}, {error}. To mend it: copy the run folder again, or train again."
            ) from error
