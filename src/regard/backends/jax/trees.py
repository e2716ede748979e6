"""What JAX's transforms see of regard's values: `Packed`, masks and biases are trees of their arrays."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import jax
import numpy as np

from regard._aux import AuxOutput
from regard._biases import Alibi, DenseBias, RelativeBias
from regard._masks import And, Causal, Dense, Documents, Global, Lengths, Not, Or, Prefix, Window
from regard._packed import Packed

_KINDS = (
    Packed,
    AuxOutput,
    And,
    Or,
    Not,
    Causal,
    Window,
    Prefix,
    Global,
    Documents,
    Lengths,
    Dense,
    DenseBias,
    Alibi,
    RelativeBias,
)
# Fields that are part of what a value means: a program is compiled for each.
_MEANING = {
    Window: ("left", "right", "dilation"),
    RelativeBias: ("bidirectional", "max_distance"),
    Global: ("indices",),
}


@functools.cache
def register() -> None:
    """Tell JAX about all of them."""
    for kind in _KINDS:
        meaning = _MEANING.get(kind, ())
        leaves = tuple(field.name for field in fields(kind) if field.name not in meaning)
        jax.tree_util.register_pytree_with_keys(
            kind,
            functools.partial(_flatten_with_keys, leaves, meaning),
            functools.partial(_unflatten, kind, leaves, meaning),
            functools.partial(_flatten, leaves, meaning),
        )


def _flatten(leaves: tuple[str, ...], meaning: tuple[str, ...], value: Any) -> tuple[tuple[Any, ...], Any]:
    return tuple(getattr(value, name) for name in leaves), tuple(getattr(value, name) for name in meaning)


def _flatten_with_keys(leaves: tuple[str, ...], meaning: tuple[str, ...], value: Any) -> tuple[Any, Any]:
    found, rest = _flatten(leaves, meaning, value)
    return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), found, strict=True)), rest


def _unflatten(kind: type, leaves: tuple[str, ...], meaning: tuple[str, ...], rest: Any, found: Any) -> Any:
    # Unchecked: JAX makes trees of anything.
    value: Any = object.__new__(kind)
    for name, part in (*zip(leaves, found, strict=True), *zip(meaning, rest, strict=True)):
        is_offsets = (
            name == "offsets" and isinstance(part, jax.Array) and not isinstance(part, jax.core.Tracer)
        )
        object.__setattr__(value, name, np.asarray(part) if is_offsets else part)
    return value
