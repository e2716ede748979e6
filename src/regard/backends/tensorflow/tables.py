"""Arrays that broadcast to (N, H, T, S), or go by distance: dense masks and biases, read and summed into by places.

Letters: P places, H heads of the array, 1 or all; G blocks, Q rows, K keys, each of the last two 1 where the array has but one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from regard._masks import Coordinates


@dataclass(frozen=True, eq=False)
class Table:
    """An array as (P, H), and how a pair's place is found."""

    numbers: Any  # (P, H)
    sizes: tuple[Any, ...]  # (N, T, S) of a dense array; (L,) by distance
    least: int  # the first distance
    heads: Any

    @classmethod
    def dense(cls, array: Any) -> Table:
        """An array that broadcasts to (N, H, T, S)."""
        array = tf.convert_to_tensor(array)
        rank = array.shape.rank
        dynamic = tf.unstack(tf.shape(array))
        sizes = [1] * (4 - rank) + [
            size if size is not None else dynamic[axis] for axis, size in enumerate(array.shape)
        ]
        whole = tf.transpose(tf.reshape(array, sizes), (0, 2, 3, 1))
        return cls(tf.reshape(whole, (-1, sizes[1])), (sizes[0], sizes[2], sizes[3]), 0, sizes[1])

    @classmethod
    def by_distance(cls, array: Any, least: int) -> Table:
        """An array (H, L) over the distances from `least`."""
        array = tf.convert_to_tensor(array)
        return cls(tf.transpose(array), (array.shape[1],), least, array.shape[0])

    def places(self, at: Coordinates) -> tuple[Any, Any]:
        """Where pairs stand, (G, Q, K), and which of them do, broadcastable to (G, H, Q, K); the others have any place."""
        if len(self.sizes) == 1:
            place = at.position - at.key - self.least
            found = (place >= 0) & (place < self.sizes[0])
            return tf.where(found, place, 0)[:, 0], found
        place, found = tf.zeros((), tf.int64), None
        for size, coordinate in zip(self.sizes, (at.sequence, at.row, at.key), strict=True):
            if isinstance(size, int):
                if size == 1:
                    continue
                fits = coordinate < size
            else:
                fits = (coordinate < tf.cast(size, tf.int64)) | (size == 1)
            stride = tf.cast(size, tf.int64)
            some = tf.where(fits, coordinate, 0)
            some = some if isinstance(size, int) else tf.where(size == 1, tf.zeros_like(some), some)
            place, found = place * stride + some, fits if found is None else found & fits
        if found is None:
            return tf.zeros((1, 1, 1), tf.int64), tf.ones((1, 1, 1, 1), tf.bool)
        return place[:, 0], found

    def read(self, at: Coordinates) -> tuple[Any, Any]:
        """The numbers at some pairs, and which of them are the array's; both broadcastable to (G, H, Q, K)."""
        place, found = self.places(at)
        return tf.transpose(tf.gather(self.numbers, place), (0, 3, 1, 2)), found

    def zeros(self, dtype: Any) -> Any:
        """Where gradients are summed: (P, H)."""
        return tf.zeros(tf.shape(self.numbers), dtype)

    def add(self, sums: Any, at: Coordinates, grads: Any) -> Any:
        """`sums` (P, H) with gradients (G, H, Q, K) added, which are 0 where a pair has no place."""
        place, _ = self.places(at)
        for axis, size in ((0, place.shape[0]), (1, self.heads), (2, place.shape[1]), (3, place.shape[2])):
            if isinstance(size, int) and size == 1:
                grads = tf.reduce_sum(grads, axis, keepdims=True)
        across = tf.transpose(grads, (0, 2, 3, 1))
        if not isinstance(self.heads, int):
            across = tf.cond(
                tf.equal(self.heads, 1), lambda: tf.reduce_sum(across, -1, keepdims=True), lambda: across
            )
        place = tf.broadcast_to(place, tf.shape(across)[:3])
        return tf.tensor_scatter_nd_add(
            sums, tf.reshape(place, (-1, 1)), tf.reshape(across, (-1, tf.shape(sums)[1]))
        )

    def shaped(self, sums: Any, array: Any) -> Any:
        """The gradient (P, H) in the form and dtype of the array that the table was made of."""
        if len(self.sizes) == 1:
            return tf.cast(tf.transpose(sums), array.dtype)
        count, rows, keys = self.sizes
        whole = tf.transpose(tf.reshape(sums, (count, rows, keys, self.heads)), (0, 3, 1, 2))
        return tf.cast(tf.reshape(whole, tf.shape(array)), array.dtype)
