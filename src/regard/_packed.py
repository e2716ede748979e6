"""Packed batches: sequences of any lengths, one after the other, without padding."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._arrays import brought, host_integers, is_jax, is_tensorflow, is_torch, is_traced
from regard._errors import ShapeError


def checked_offsets(offsets: Any, total: int, name: str = "offsets") -> np.ndarray:
    """Offsets as int32 on the host, refused unless they start at 0, never fall and end at `total`."""
    checked = host_integers(offsets, name)
    if checked.ndim != 1 or len(checked) == 0:
        raise ShapeError(
            f"{name} must be one-dimensional with N + 1 entries. Received shape {checked.shape}."
        )
    if checked[0] != 0 or checked[-1] != total:
        raise ShapeError(
            f"{name} must start at 0 and end at the number of tokens, {total}. "
            f"Received a first entry of {checked[0]} and a last entry of {checked[-1]}. "
            "Build them with numpy.cumsum over the lengths, 0 first."
        )
    falls = np.flatnonzero(np.diff(checked) < 0)
    if len(falls):
        raise ShapeError(
            f"{name} must never fall. Received {checked[falls[0]]} before {checked[falls[0] + 1]}."
        )
    if total > np.iinfo(np.int32).max:
        raise ShapeError(f"{name} must fit 32 bits. Received {total} tokens; split the batch.")
    return checked.astype(np.int32)


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences packed one after the other: two plain arrays.

    `values` has shape (total, ...), in any framework; `offsets` has shape (N + 1,), int32 on the host: sequence n is
    `values[offsets[n]:offsets[n + 1]]`. Linear and elementwise layers work on `values`; only attention reads `offsets`.

    To the tracers and transforms of PyTorch and JAX it is a tree of two arrays. `regard.attention` tells JAX so, on its first array.

    Raises ShapeError when the offsets do not start at 0, rise, and end at the number of rows; a tracer can't look at them.

    >>> batch = Packed.pack([np.zeros((3, 8)), np.zeros((0, 8)), np.zeros((2, 8))])
    >>> batch.lengths.tolist(), batch.values.shape
    ([3, 0, 2], (5, 8))
    """

    values: Any
    offsets: np.ndarray

    def __post_init__(self) -> None:
        offsets = self.offsets
        if not is_traced(self.values):
            offsets = checked_offsets(offsets, self.values.shape[0])
            if is_torch(self.values):
                register_pytree()
        elif isinstance(offsets, list | tuple):
            offsets = np.asarray(offsets, np.int32)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def pack(cls, sequences: Sequence[Any]) -> Packed:
        """Pack arrays of shapes (length, ...) that agree in all but their length."""
        if not sequences:
            raise ShapeError(
                "cannot pack no sequences at all; expected at least one array. Received an empty list."
            )
        lengths = [sequence.shape[0] for sequence in sequences]
        return cls(_concatenate(sequences), np.concatenate([[0], np.cumsum(lengths)]))

    @classmethod
    def from_padded(cls, padded: Any, lengths: Any) -> Packed:
        """Drop the padding of an array of shape (N, T, ...) whose row n has `lengths[n]` real entries."""
        lengths = host_integers(lengths, "lengths")
        if lengths.shape != (padded.shape[0],) or (lengths < 0).any() or (lengths > padded.shape[1]).any():
            raise ShapeError(
                f"lengths must be {padded.shape[0]} numbers between 0 and {padded.shape[1]}. Received {lengths.tolist()}."
            )
        return cls.pack([padded[n, :length] for n, length in enumerate(lengths)])

    @classmethod
    def of(cls, ragged: Any) -> Packed:
        """The ragged batch of another library, without a copy where that has its numbers in one piece.

        Args:
            ragged: a TensorFlow `RaggedTensor` (N, None, ...), a PyTorch nested tensor of the jagged layout (N, lengths, ...), or
                PyArrow's lists of numbers or of lists of fixed size: an array of lists, of large lists or of list views, or a
                `ChunkedArray` of them. Several chunks are copied, and so is what has holes or another order: list views, and
                what `torch.nested.narrow` gives.

        Returns:
            Its values and offsets. `tf.RaggedTensor.from_row_splits(packed.values, packed.offsets)` is the way back.

        Raises:
            ShapeError: it is none of these, or ragged in more than its lengths; PyTorch's is transposed; PyArrow's has nulls, or
                something else than numbers.

        >>> import torch
        >>> nested = torch.nested.nested_tensor([torch.zeros(3, 8), torch.zeros(2, 8)], layout=torch.jagged)
        >>> Packed.of(nested).lengths.tolist()
        [3, 2]
        """
        return cls(*_ragged_parts(ragged))

    def with_values(self, values: Any) -> Packed:
        """The same sequences with other values per token; the offsets are not checked again."""
        if not is_traced(values) and values.shape[0] != self.offsets[-1]:
            raise ShapeError(
                f"expected values for {self.offsets[-1]} tokens. Received shape {tuple(values.shape)}."
            )
        return _unchecked(values, self.offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Lengths of the N sequences, int32."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def unpack(self) -> list[Any]:
        """The sequences as a list of views."""
        return [
            self.values[start:end] for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        ]

    def to_padded(self, fill: float = 0) -> Any:
        """An array of shape (N, longest length, ...), `fill` behind each sequence's end."""
        longest = int(self.lengths.max(initial=0))
        if is_jax(self.values):
            return _padded_jax(self, longest, fill)
        if is_tensorflow(self.values):
            import tensorflow as tf

            rows = tf.RaggedTensor.from_row_splits(self.values, self.offsets)
            return rows.to_tensor(
                tf.cast(fill, self.values.dtype), shape=(None, longest, *self.values.shape[1:])
            )
        shape = (len(self), longest, *self.values.shape[1:])
        padded = (
            self.values.new_full(shape, fill)
            if is_torch(self.values)
            else np.full(shape, fill, self.values.dtype)
        )
        for n, sequence in enumerate(self.unpack()):
            padded[n, : len(sequence)] = sequence
        return padded

    # How TensorFlow's functions take it apart and put it together.

    def __tf_flatten__(self) -> tuple[tuple[()], tuple[Any, Any]]:
        return (), (self.values, self.offsets)

    @classmethod
    def __tf_unflatten__(cls, metadata: Any, components: tuple[Any, Any]) -> Packed:
        values, offsets = components
        return _unchecked(values, np.asarray(offsets) if hasattr(offsets, "numpy") else offsets)


def _ragged_parts(ragged: Any) -> tuple[Any, Any]:
    """Values and offsets, found by the attributes that each library has."""
    found = None
    if is_torch(ragged) and ragged.is_nested and hasattr(ragged, "offsets"):
        found = _jagged_parts(ragged)
    elif getattr(ragged, "ragged_rank", None) == 1:
        found = ragged.values, ragged.row_splits
    elif hasattr(ragged, "null_count"):
        found = _arrow_parts(ragged)
    if found is None:
        raise ShapeError(
            "Packed.of takes a TensorFlow RaggedTensor (N, None, ...), a PyTorch nested tensor of the jagged layout, (N, lengths, ...), "
            "or PyArrow's lists of numbers or of lists of fixed size, without nulls. "
            f"Received {type(ragged).__name__}{_arrow_kind(ragged)}; build Packed(values, offsets) or Packed.pack(sequences) "
            "from its parts."
        )
    return found


def _jagged_parts(nested: Any) -> tuple[Any, Any] | None:
    """Of PyTorch's; what `torch.nested.narrow` left of a larger tensor stands with holes between, which are left out."""
    if nested._ragged_idx != 1:  # it was transposed
        return None
    values, offsets, lengths = nested.values(), nested.offsets(), nested.lengths()
    if lengths is None:
        return values, offsets
    starts, sizes = host_integers(offsets, "offsets")[: len(lengths)], host_integers(lengths, "lengths")
    ends = np.cumsum(sizes)
    token = np.repeat(starts - (ends - sizes), sizes) + np.arange(sizes.sum())
    return values[brought(token, values)], np.concatenate([[0], ends])


def _arrow_parts(lists: Any) -> tuple[Any, Any] | None:
    """Of PyArrow's, or None where they hold something else than numbers."""
    if hasattr(lists, "num_chunks"):
        lists = lists.chunk(0) if lists.num_chunks == 1 else lists.combine_chunks()
    if lists.null_count or not hasattr(lists, "offsets"):
        return None
    if hasattr(lists, "sizes"):  # a list view, whose lists may lie in any order
        offsets, rows = np.concatenate([[0], np.cumsum(np.asarray(lists.sizes))]), lists.flatten()
    else:
        offsets = np.asarray(lists.offsets)
        rows = lists.values[int(offsets[0]) : int(offsets[-1])]
    size = getattr(rows.type, "list_size", None)
    flat = rows if size is None else rows.flatten()
    if rows.null_count or flat.null_count or not _is_fixed_width(flat.type):
        return None
    numbers = flat.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "biuf":
        return None
    return numbers if size is None else numbers.reshape(-1, size), offsets - offsets[0]


def _is_fixed_width(kind: Any) -> bool:
    try:
        return bool(kind.bit_width)
    except (AttributeError, ValueError):  # PyArrow's answer for text and lists
        return False


def _arrow_kind(ragged: Any) -> str:
    """What PyArrow's lists hold, for a message."""
    return f" of {ragged.type}" if hasattr(ragged, "null_count") and hasattr(ragged, "type") else ""


def _unchecked(values: Any, offsets: Any) -> Packed:
    packed = object.__new__(Packed)
    object.__setattr__(packed, "values", values)
    object.__setattr__(packed, "offsets", offsets)
    return packed


@functools.cache
def register_pytree() -> None:
    """Tell PyTorch, which must be there, that a `Packed` is a tree of two tensors."""
    from torch.utils import _pytree

    _pytree.register_pytree_node(
        Packed,
        _flatten,
        _unflatten,
        serialized_type_name="regard.Packed",
        flatten_with_keys_fn=lambda packed: (
            [
                (_pytree.GetAttrKey(name), leaf)
                for name, leaf in zip(_FIELDS, _flatten(packed)[0], strict=True)
            ],
            None,
        ),
    )


_FIELDS = ("values", "offsets")


def _flatten(packed: Packed) -> tuple[list[Any], None]:
    if not isinstance(packed.offsets, np.ndarray):
        return [packed.values, packed.offsets], None
    # `torch.export` knows a leaf again by its identity.
    leaf = vars(packed).get("_leaf")
    if leaf is None:
        import torch

        leaf = torch.from_numpy(packed.offsets)
        object.__setattr__(packed, "_leaf", leaf)
    return [packed.values, leaf], None


def _unflatten(leaves: Iterable[Any], _: None) -> Packed:
    values, offsets = leaves
    if is_torch(offsets) and not is_traced(offsets):
        offsets = offsets.detach().cpu().numpy()
    return _unchecked(values, offsets)


def _padded_jax(packed: Packed, longest: int, fill: float) -> Any:
    import jax.numpy as jnp

    place = np.arange(longest)
    inside = place < packed.lengths[:, None]
    if not packed.values.shape[0]:
        return jnp.full((*inside.shape, *packed.values.shape[1:]), fill, packed.values.dtype)
    token = np.where(inside, packed.offsets[:-1, None] + place, 0)
    real = inside.reshape(*inside.shape, *(1,) * (packed.values.ndim - 1))
    return jnp.where(real, packed.values[token], jnp.asarray(fill, packed.values.dtype))


def _concatenate(arrays: Sequence[Any]) -> Any:
    if is_tensorflow(arrays[0]):
        import tensorflow as tf

        return tf.concat(list(arrays), 0)
    if is_jax(arrays[0]):
        import jax.numpy as jnp

        return jnp.concatenate(list(arrays))
    if is_torch(arrays[0]):
        import torch

        return torch.cat(list(arrays))
    return np.concatenate(arrays)
