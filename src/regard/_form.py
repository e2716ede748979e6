"""What a call holds beside its differentiable arrays, written as words, integers and arrays, which tracers can carry.

A value is one word, and where the word says so the values that follow it: `And Causal Window number inf number` is
`Causal() & Window(left, right, dilation)` with `left` and `dilation` among the integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from regard._arrays import host_integers
from regard._biases import Alibi, Bias, DenseBias, RelativeBias
from regard._errors import RegardError, ShapeError
from regard._masks import And, Causal, Dense, Documents, Global, Lengths, Mask, Not, Or, Prefix, Window
from regard._plan import Plan, make_plan, packed_spans, padded_spans

_MASKS = (And, Or, Not, Causal, Window, Prefix, Global, Documents, Lengths, Dense)
_MAKE: dict[str, Any] = {kind.__name__: kind for kind in (*_MASKS, DenseBias, Alibi, RelativeBias)}
_FIELDS = {name: tuple(field.name for field in fields(kind)) for name, kind in _MAKE.items()}


@dataclass(frozen=True)
class Parts:
    """The parts of a call that decide which pairs meet and who computes them."""

    backends: tuple[str, ...]
    cu_seqlens_q: Any
    cu_seqlens_k: Any
    key_sequence: Any
    query_start: Any
    mask: Mask | None
    bias: tuple[Any, ...]  # the class and, behind its array, its other fields; empty without a bias


def written(
    backends: Sequence[str],
    layout: Sequence[Any],
    mask: Mask | None,
    bias: Bias | None,
    bring: Callable[[Any], Any],
) -> tuple[str, list[Any], list[int]]:
    """Parts as words, arrays and integers; `layout` is offsets of queries and keys, `key_sequence` and `query_start`.

    `bring` makes any array one of the tracer's framework.
    """
    words: list[str] = []
    arrays: list[Any] = []
    numbers: list[int] = []
    for value in (*layout, mask):
        _write(value, words, arrays, numbers)
    if bias is not None:
        name = _name(bias)
        words.append(name)
        for field in _FIELDS[name][1:]:
            _write(getattr(bias, field), words, arrays, numbers)
    return ",".join(backends) + " " + " ".join(words), [bring(array) for array in arrays], numbers


def bias_array(bias: Bias) -> Any:
    """The differentiable array of a bias: its first field."""
    return getattr(bias, _FIELDS[_name(bias)][0])


def read(form: str, arrays: Sequence[Any], numbers: Sequence[int]) -> Parts:
    """The parts that were written; masks check their numbers as they are made."""
    backends, *words = form.split()
    source = _Source(iter(words), iter(arrays), iter(numbers))
    q_offsets, k_offsets, reads, start, mask = (source.value() for _ in range(5))
    name = next(source.words, None)
    bias = () if name is None else (_MAKE[name], *(source.value() for _ in _FIELDS[name][1:]))
    return Parts(tuple(backends.split(",")), q_offsets, k_offsets, reads, start, mask, bias)


def planned(
    form: str,
    arrays: Sequence[Any],
    numbers: tuple[int, ...],
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    scale: float | None,
    softcap: float | None,
    dropout_p: float,
) -> tuple[Parts, Plan]:
    """The parts that were written, their numbers known, and the plan of the call; an array may be longer than its sequences."""
    parts = read(form, arrays, numbers)
    if parts.cu_seqlens_q is None:
        spans, leading = padded_spans(q_shape, k_shape)
        q_shape = (*leading, *q_shape[-3:])
    else:
        q_offsets = host_integers(parts.cu_seqlens_q, "cu_seqlens_q")
        k_offsets = (
            q_offsets if parts.cu_seqlens_k is None else host_integers(parts.cu_seqlens_k, "cu_seqlens_k")
        )
        ends = _end("cu_seqlens_q", q_offsets, q_shape[0]), _end("cu_seqlens_k", k_offsets, k_shape[0])
        spans = packed_spans(*ends, q_offsets, k_offsets, parts.key_sequence)
    plan = make_plan(
        spans, q_shape, k_shape, mask=parts.mask, query_start=parts.query_start, scale=scale, softcap=softcap,
        dropout_p=dropout_p, bias=parts.bias[0].kind if parts.bias else None,
    )  # fmt: skip
    return parts, plan


def _end(name: str, offsets: np.ndarray, total: int) -> int:
    """Where the last sequence ends: a traced array may be longer, and what stands there gives 0."""
    end = int(offsets.reshape(-1)[-1]) if offsets.size else 0
    if end > total:
        raise ShapeError(
            f"{name} must end within the array's {total} tokens. Received a last entry of {end}; build them with "
            "numpy.cumsum over the lengths, 0 first."
        )
    return end


@dataclass
class _Source:
    words: Iterator[str]
    arrays: Iterator[Any]
    numbers: Iterator[int]

    def value(self) -> Any:
        """The next value."""
        word = next(self.words)
        if word in _MAKE:
            return _MAKE[word](*(self.value() for _ in _FIELDS[word]))
        if word == "array":
            return next(self.arrays)
        if word == "number":
            return next(self.numbers)
        if word == "numbers":
            return tuple(next(self.numbers) for _ in range(next(self.numbers)))
        return {"none": None, "true": True, "false": False, "inf": math.inf}[word]


def _write(value: Any, words: list[str], arrays: list[Any], numbers: list[int]) -> None:
    if value is None or isinstance(value, bool):
        words.append(str(value).lower())
    elif isinstance(value, int):
        words.append("number")
        numbers.append(value)
    elif isinstance(value, float) and value == math.inf:
        words.append("inf")
    elif isinstance(value, list | tuple | range):
        words.append("numbers")
        numbers.append(len(value))
        numbers.extend(int(number) for number in value)
    elif hasattr(value, "dtype"):
        words.append("array")
        arrays.append(value)
    else:
        name = _name(value)
        words.append(name)
        for field in _FIELDS[name]:
            _write(getattr(value, field), words, arrays, numbers)


def _name(value: Any) -> str:
    name = type(value).__name__
    if _MAKE.get(name) is not type(value):
        raise RegardError(
            f"a traced call takes integers, arrays and regard's own masks and biases. Received {name}; write it as a "
            "combination of those, or as regard.Dense or regard.DenseBias over an array."
        )
    return name
