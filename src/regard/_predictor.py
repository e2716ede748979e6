"""A trained model, called with what a person has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regard._errors import ConfigError
from regard.tasks import make_task
from regard.training import checkpoints, runs


class Predictor:
    """A model from a run folder, with everything that it needs to be used.

    Call it with one input, or with a list of them: it gives one result, or a list in the same order. Keywords are the
    task's own; for roles `attention`, for answers `attention`, `no_answer` and `candidates`, for translation `beam` (5), `penalty` (1.0), `candidates` (1),
    `attention` (False) and `precision` ("fp32", or "bf16" and "int8", which are faster and lose a little), for summaries `beam`,
    `penalty` (by default what was best on the dev data), `attention` and `repeats` (False), for captions those of translation and
    `language`. The model is packed for the kernel at the first call with a precision. For texts to be continued they are
    `length`, `temperature`, `top_k`, `top_p`, `seed`, `stop`, `count` and `attention`; `stream` gives such a text piece by piece.
    """

    def __init__(self, folder: str | Path, max_characters: int | None = None) -> None:
        self.folder = Path(folder)
        self.config = runs.read_config(self.folder)
        self.recipe = runs.recipe_of(self.config, self.folder)
        if max_characters is not None:
            self.recipe = self.recipe.replace(max_characters=max_characters)
        self.task = make_task(self.config["run"].get("task", ""))
        self.task.load(self.folder)
        self.model = self.task.model(self.recipe)
        checkpoints.load_weights(self.folder, self.model)
        self.model.eval()
        self._engines: dict[str, Any] = {}

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Predict: a list holds several inputs, anything else is one.

        Raises:
            DataError: an input is empty, no text, or longer than `max_characters`, by default the run's.
        """
        items = inputs if isinstance(inputs, list) else [inputs]
        longest = self.recipe.max_characters
        records = (
            self.task.record(item, ("the given texts", line), longest) for line, item in enumerate(items, 1)
        )
        results = self.predict_checked([self.task.input_of(one) for one in records], **options)
        return results if items is inputs else results[0]

    def predict(self, inputs: Any, **options: Any) -> Any:
        """The same as a call."""
        return self(inputs, **options)

    def predict_checked(self, inputs: list[Any], **options: Any) -> list[Any]:
        """A result for each input that `task.input_of` gave of a record that was checked, in their order."""
        if hasattr(self.task, "engine"):
            options["engine"] = self._engine(options.get("precision", "fp32"))
        return self.task.predict(self.model, inputs, **options)

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """What follows a prompt, piece by piece as it is written; keywords are those of a call.

        Raises:
            ConfigError: the task writes nothing piece by piece.
            DataError: the prompt is empty or longer than what the model reads.
        """
        if not hasattr(self.task, "stream"):
            raise ConfigError(
                f"the task {self.task.name!r} writes nothing piece by piece. Expected: a run of 'generate'. Call it instead."
            )
        record = self.task.record(prompt, ("the given texts", 1), self.recipe.max_characters)
        pieces: Iterator[str] = self.task.stream(self.model, self.task.input_of(record), **options)
        return pieces

    def _engine(self, precision: str) -> Any:
        if precision not in self._engines:
            self._engines[precision] = self.task.engine(self.model, precision)
        return self._engines[precision]

    def __repr__(self) -> str:
        return f"Predictor({self.task.name}, {str(self.folder)!r})"
