"""From the tokens of a sequence to one vector."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from regard.keras._sequences import SequenceLayer, Tokens, values_of, width


@keras.saving.register_keras_serializable(package="regard")
class MeanPooling(SequenceLayer):
    """The mean of each sequence's tokens, without its padding: (..., T, dim) -> (..., dim), packed (total, dim) -> (N, dim).

    A sequence without tokens gives 0. Inputs are as for `SelfAttention`.

    >>> found = regard.keras.MeanPooling()((np.array([[1.0], [3.0], [5.0]], "float32"), np.array([0, 2, 2, 3])))
    >>> np.asarray(found).tolist()
    [[2.0], [0.0], [5.0]]
    """

    def call(self, x: Any, mask: Any = None) -> Any:
        """Tokens, padded or packed, to one vector for each sequence."""
        tokens = Tokens.of(x, mask)
        values = tokens.values
        if tokens.is_packed:
            counts = ops.cast(tokens.offsets[1:] - tokens.offsets[:-1], values.dtype)
            # Tokens past the last offset are summed up, too, and left out.
            sums = ops.segment_sum(values, tokens.sequences(), num_segments=ops.shape(tokens.offsets)[0])[:-1]
            return sums / ops.expand_dims(ops.maximum(counts, 1), -1)
        if tokens.mask is None:
            return ops.mean(values, axis=-2)
        kept = ops.expand_dims(ops.cast(tokens.mask, "bool"), -1)
        counts = ops.maximum(ops.sum(ops.cast(kept, values.dtype), axis=-2), 1)
        return ops.sum(ops.where(kept, values, ops.zeros_like(values)), axis=-2) / counts

    def compute_mask(self, x: Any, previous_mask: Any = None) -> None:
        """One vector has no padding."""

    def compute_output_shape(self, x_shape: Any) -> Any:
        values = values_of(x_shape)
        return (None, width(x_shape)) if values is not x_shape else (*values[:-2], values[-1])

    def compute_output_spec(self, x: Any, *inputs: Any, **options: Any) -> Any:
        values = values_of(x)
        shape = (None, values.shape[-1]) if values is not x else (*values.shape[:-2], values.shape[-1])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)
