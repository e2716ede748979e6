"""The one family of errors: what is wrong, what was expected, what was received, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegardError(ValueError):
    """Base of every error that regard raises on purpose; the message tells how to mend it."""

    # By this TensorFlow sees that a text makes one, and hands it on out of `tf.function` as what it is.
    __init__ = Exception.__init__


class ShapeError(RegardError):
    """Arrays, lengths or offsets that do not fit together."""


class BackendError(RegardError):
    """A backend that was asked for by name and cannot compute the call."""


class DataError(RegardError):
    """A record or file that cannot be used; the message names file and line."""


class ConfigError(RegardError):
    """An option or configuration key that is unknown or out of range."""


class CheckpointError(RegardError):
    """A run folder that is missing, incomplete or damaged."""


def nearest(word: str, options: Iterable[str]) -> str:
    """A clause naming the option closest to `word`, or nothing when none is close.

    >>> nearest("stesp", ["steps", "minutes"])
    "; did you mean 'steps'?"
    """
    matches = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
