"""A picture as a sequence of patches: squares of pixels, row by row, each a row of bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cut_patches(pixels: NDArray[np.uint8], patch: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The patches of a picture, and how many rows and columns of them there are.

    Where the sides are no multiples of `patch`, the last pixels are repeated at the right and at the bottom.

    Arguments:
        pixels: (height, width, channels), uint8.
        patch: side of a patch in pixels.

    Returns:
        Patches (rows * columns, patch * patch * channels), each pixel by pixel, row by row; and (rows, columns).

    >>> patches, size = cut_patches(np.arange(24, dtype=np.uint8).reshape(4, 6, 1), 2)
    >>> patches[1].tolist(), size
    ([2, 3, 8, 9], (2, 3))
    """
    height, width, channels = pixels.shape
    rows, columns = -(-height // patch), -(-width // patch)
    beyond = ((0, rows * patch - height), (0, columns * patch - width), (0, 0))
    whole = np.pad(pixels, beyond, mode="edge").reshape(rows, patch, columns, patch, channels)
    return whole.swapaxes(1, 2).reshape(rows * columns, patch * patch * channels), (rows, columns)
