"""What a call holds beside its arrays: words and numbers that a compiled program can carry as one string."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from regard._form import Parts, read


@dataclass(frozen=True)
class Request:
    """Everything of a call but its arrays, which are query, key, value, those of bias, sinks and seed that are `given`, and the form's.

    `form` and `numbers` are as `regard._form` writes them. `wide`: the output has the precision of the sums.
    """

    form: str
    numbers: tuple[int, ...]
    given: tuple[bool, bool, bool]
    scale: float | None
    softcap: float | None
    dropout_p: float
    wide: bool = False

    @property
    def backends(self) -> tuple[str, ...]:
        """The wanted backends, in their order."""
        return tuple(self.form.split(maxsplit=1)[0].split(","))

    def opened(self, operands: Any) -> Operands:
        """The operands by name."""
        query, key, value, *rest = operands
        some = iter(rest)
        bias, sinks, seed = (next(some) if there else None for there in self.given)
        return Operands(query, key, value, bias, sinks, seed, tuple(some))

    def parts(self, arrays: Any) -> Parts:
        """What the form says, with its arrays."""
        return read(self.form, arrays, self.numbers)


@dataclass(frozen=True, eq=False)
class Operands:
    """The arrays of a call: (..., T, H, D), (..., S, J, D), (..., S, J, V), of the bias its own, (H,), (2,), and the form's."""

    query: Any
    key: Any
    value: Any
    bias: Any
    sinks: Any
    seed: Any
    arrays: tuple[Any, ...]


# A program of XLA holds this text wherever it is kept, and whoever runs it reads it: that may be another process.
@lru_cache(maxsize=256)
def text_of(kind: str, request: Request, *flags: Any) -> str:
    """A call as text: "forward" or "backward" and its request."""
    return json.dumps([kind, astuple(request), flags])


@lru_cache(maxsize=256)
def read_text(text: str) -> tuple[str, Request, tuple[Any, ...]]:
    """The inverse of `text_of`."""
    kind, (form, numbers, given, *rest), flags = json.loads(text)
    return kind, Request(form, tuple(numbers), tuple(given), *rest), tuple(flags)


def precision_of(dtype: Any) -> Any:
    """In which numbers sums run."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
