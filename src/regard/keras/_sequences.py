"""What lets one layer serve padded and packed sequences: several forms go in, tokens are computed, the form comes out."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from regard._arrays import is_ragged_tensorflow
from regard._errors import ShapeError
from regard._packed import Packed

PARTS = "values", "offsets"


def is_packed(x: Any) -> bool:
    """Whether x is {"values": (total, ...), "offsets": (N + 1,)} or a pair of both; shapes of them do as well."""
    if isinstance(x, dict):
        return True
    return isinstance(x, list | tuple) and len(x) == 2 and not isinstance(x[0], int | float | None)


def parts_of(x: Any) -> tuple[Any, Any]:
    """Values and offsets, or their shapes."""
    if not isinstance(x, dict):
        return x[0], x[1]
    if set(x) != set(PARTS):
        raise ShapeError(
            f'packed sequences are a dictionary of "values" and "offsets". Received the keys {sorted(map(str, x))}.'
        )
    return x["values"], x["offsets"]


def values_of(x: Any) -> Any:
    """The tokens' values, or their shape."""
    return parts_of(x)[0] if is_packed(x) else x


def like(x: Any, values: Any) -> Any:
    """Other values, or another shape of values, in the form of x."""
    if not is_packed(x):
        return values
    _, offsets = parts_of(x)
    return {"values": values, "offsets": offsets} if isinstance(x, dict) else type(x)((values, offsets))


def width(shape: Any) -> int:
    """The number of features of tokens of a shape, packed or padded."""
    found = values_of(shape)[-1]
    if found is None:
        raise ShapeError(f"the number of features must be known. Received the shape {shape}.")
    return int(found)


def resized(shape: Any, size: int) -> Any:
    """A shape, packed or padded, with another number of features."""
    return like(shape, (*values_of(shape)[:-1], size))


@dataclass(frozen=True)
class Tokens:
    """Tokens as plain tensors: values (..., T, dim), or (total, dim) with offsets; mask (..., T), True = a token."""

    values: Any
    offsets: Any = None
    mask: Any = None

    @classmethod
    def of(cls, x: Any, mask: Any = None) -> Tokens:
        """Those of a layer's input and of the mask that Keras or the caller gives with it."""
        if not is_packed(x):
            return cls(x, mask=keras_mask(x) if mask is None else mask)
        values, offsets = parts_of(x)
        if any(part is not None for part in (*keras.tree.flatten(mask), keras_mask(values))):
            raise ShapeError(
                "packed sequences have no padding that a mask could name. Received a mask with packed sequences; "
                "leave it out, and mask_zero=True of an Embedding before."
            )
        return cls(values, offsets)

    @property
    def is_packed(self) -> bool:
        """Whether sequences lie one after the other."""
        return self.offsets is not None

    def sequences(self) -> Any:
        """The number of the sequence of each packed token, (total,) int32; N past the last offset."""
        bounds = ops.cast(self.offsets, "int32")
        return ops.cast(ops.searchsorted(bounds[1:], self._counted(), side="right"), "int32")

    def positions(self) -> Any:
        """The position of each token in its sequence: (total,) when packed, (T,) otherwise, int32."""
        if not self.is_packed:
            return self._counted()
        return self._counted() - ops.take(ops.cast(self.offsets, "int32"), self.sequences())

    def _counted(self) -> Any:
        return ops.arange(ops.shape(self.values)[-2], dtype="int32")


def keras_mask(x: Any) -> Any:
    """The mask that Keras carries with a tensor; where it keeps it has no public name."""
    backend = importlib.import_module("keras.src").backend
    return (
        backend.get_keras_mask(x) if hasattr(backend, "get_keras_mask") else getattr(x, "_keras_mask", None)
    )


def only_shapes_count() -> bool:
    """Whether Keras computes shapes alone, on PyTorch and NumPy with made-up numbers that are no offsets."""
    asked = getattr(importlib.import_module("keras.src").backend, "in_symbolic_scope", None)
    return asked is not None and asked()


class SequenceLayer(keras.layers.Layer):
    """A layer whose inputs are tensors with masks, {"values", "offsets"}, a pair of both, `Packed`, or on TensorFlow ragged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_masking = True

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Open what Keras does not look into before it does its work, and close the output in the same way."""
        first = inputs[0] if inputs else options.get("x", options.get("query"))
        inputs = tuple(map(_opened, inputs))
        found = super().__call__(*inputs, **{name: _opened(value) for name, value in options.items()})
        return _closed(first, found)

    def compute_output_spec(self, x: Any, *inputs: Any, size: int | None = None, **options: Any) -> Any:
        """Symbolic values of the width of the input or of another, and offsets as those of the input."""
        values = values_of(x)
        ragged = {"ragged": True} if getattr(x, "ragged", False) else {}
        shape = (*values.shape[:-1], size or values.shape[-1])
        found = keras.KerasTensor(shape, dtype=self.compute_dtype, **ragged)
        if not is_packed(x):
            return found
        # Keras notes on a symbolic tensor which layer gave it: those that come in must stay as they are.
        offsets = parts_of(x)[1]
        return like_offsets(like(x, found), keras.KerasTensor(offsets.shape, dtype=offsets.dtype))


def _opened(x: Any) -> Any:
    if isinstance(x, Packed) or is_ragged_tensorflow(x):
        return {
            "values": x.values,
            "offsets": ops.convert_to_tensor(x.offsets if isinstance(x, Packed) else x.row_splits),
        }
    if (
        is_packed(x)
        and isinstance(parts_of(x)[1], list | tuple)
        and not isinstance(parts_of(x)[0], list | tuple)
    ):
        return like_offsets(x, np.asarray(parts_of(x)[1], np.int32))
    return x


def like_offsets(x: Any, offsets: Any) -> Any:
    """The packed x with other offsets."""
    values, _ = parts_of(x)
    return {"values": values, "offsets": offsets} if isinstance(x, dict) else type(x)((values, offsets))


def _closed(x: Any, found: Any) -> Any:
    if isinstance(x, Packed) or is_ragged_tensorflow(x):
        if isinstance(found, tuple):  # something comes beside the sequences
            return _closed(x, found[0]), *found[1:]
        return x.with_values(found["values"]) if isinstance(found, dict) else found
    return found
