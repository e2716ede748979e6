"""From a run folder to a trained model, without a framework before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from regard._errors import ConfigError

if TYPE_CHECKING:
    from regard._predictor import Predictor


def load(folder: str | Path, max_characters: int | None = None) -> Predictor:
    """The model in a run folder, ready to be called. Nothing in the folder is unpickled or run.

    `max_characters` is the longest text that it accepts in a field, by default that of the run.

        translator = regard.load("runs/en-zh")
        translator("A dog runs.").text
        translator(["A dog runs.", "A cat sleeps."], beam=1, precision="int8")
        regard.load("runs/emoji")("dog.png", language="zh").text    # or its bytes, pixels, or an image of Pillow
        regard.load("runs/answer")(("Who?", "Ada wrote it."))    # a question and its passage
        translator("A dog runs.", attention=True).attention.weights    # (layers, heads, target, source)

        writer = regard.load("runs/generate")
        writer("ROMEO:", length=200, count=3).texts
        writer({"prompt": "To be or not to", "candidates": [" be", " sleep"]}).log_probabilities
        for piece in writer.stream("ROMEO:"): print(piece, end="")

        labeller = regard.load("runs/roles")
        labeller("The dog chases the cat.").propositions[0].spans
        labeller({"words": ["The", "dog", "runs"], "predicate": 2})    # or words alone, as a tuple

    Raises:
        CheckpointError: the folder holds no run, or a file in it is missing, damaged or cut short.
        ConfigError: `max_characters` is not above 0, or what `regard[tasks]` installs is not there.
    """
    try:
        from regard._predictor import Predictor

        return Predictor(folder, max_characters)
    except ModuleNotFoundError as error:
        if (error.name or "regard").partition(".")[0] == "regard":
            raise
        raise ConfigError(
            f"{error.name} is not installed. To mend it: pip install 'regard[tasks]'"
        ) from error
