"""Small data sets that ship with the package, so that everything can be tried at once and without a network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from regard._errors import ConfigError, nearest

FOLDERS = {
    "translate": "tatoeba_en_zh",
    "roles": "propbank_ewt",
    "answer": "squad_en",
    "classify": "tatoeba_languages",
    "caption": "noto_emoji",
    "generate": "shakespeare",
    "summarize": "debian_synopsis",
}
SPLITS = ("train", "dev", "test")


def sample_path(task: str) -> dict[str, Path]:
    """The files `train`, `dev` and `test` of the sample for `task`; a NOTICE.md with the terms lies beside them.

    Raises:
        ConfigError: no sample ships for this task.
    """
    if task not in FOLDERS:
        raise ConfigError(
            f"no sample ships for the task {task!r}{nearest(task, FOLDERS)}. Expected: {', '.join(FOLDERS)}. "
            f"Received: {task!r}. To mend it: name your own file with --train."
        )
    folder = Path(str(files(__name__) / FOLDERS[task]))
    return {split: next(folder.glob(f"{split}.*.gz")) for split in SPLITS}
