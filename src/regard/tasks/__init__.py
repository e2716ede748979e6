"""The applications, one file each, all of one shape."""

from __future__ import annotations

import importlib
from typing import Any

from regard._errors import ConfigError, nearest

TASKS = {
    "translate": "Translate",
    "summarize": "Summarize",
    "roles": "Roles",
    "answer": "AnswerQuestions",
    "classify": "Classify",
    "caption": "CaptionPictures",
    "generate": "Generate",
}


def make_task(name: str) -> Any:
    """A new task by its name; only its own module is imported."""
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}{nearest(name, TASKS)}. Expected one of: {', '.join(TASKS)}."
        )
    return getattr(importlib.import_module(f"regard.tasks.{name}"), TASKS[name])()
