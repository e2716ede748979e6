"""The applications, one file each, all of one shape; and what they give, by name: `from regard.tasks import Answer`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from regard._errors import ConfigError, nearest

if TYPE_CHECKING:
    from regard.tasks._caption import Caption
    from regard.tasks._classification import Classification
    from regard.tasks._continuation import Continuation, Likelihood, Ranking
    from regard.tasks._labelling import Labelling, Proposition, Span
    from regard.tasks._reading import Answer, Candidate
    from regard.tasks._writing import Draft
    from regard.tasks.summarize import Summary
    from regard.tasks.translate import Translation

__all__ = [
    "TASKS",
    "make_task",
    "Translation",
    "Summary",
    "Draft",
    "Labelling",
    "Proposition",
    "Span",
    "Answer",
    "Candidate",
    "Classification",
    "Caption",
    "Continuation",
    "Ranking",
    "Likelihood",
]

TASKS = {
    "translate": "Translate",
    "summarize": "Summarize",
    "roles": "Roles",
    "answer": "AnswerQuestions",
    "classify": "Classify",
    "caption": "CaptionPictures",
    "generate": "Generate",
}
# Where results are defined, each imported when it is asked for.
RESULTS = {
    "Translation": "translate",
    "Summary": "summarize",
    "Draft": "_writing",
    "Labelling": "_labelling",
    "Proposition": "_labelling",
    "Span": "_labelling",
    "Answer": "_reading",
    "Candidate": "_reading",
    "Classification": "_classification",
    "Caption": "_caption",
    "Continuation": "_continuation",
    "Ranking": "_continuation",
    "Likelihood": "_continuation",
}


def make_task(name: str) -> Any:
    """A new task by its name; only its own module is imported."""
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}{nearest(name, TASKS)}. Expected one of: {', '.join(TASKS)}."
        )
    return getattr(importlib.import_module(f"regard.tasks.{name}"), TASKS[name])()


def __getattr__(name: str) -> Any:
    if name not in RESULTS:
        raise AttributeError(f"module 'regard.tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"regard.tasks.{RESULTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
