"""A picture as a sequence of patches: squares of pixels, row by row, each a row of bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGE, SMALL = 48, 20  # pixels of the shorter side


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


def usual_patch(sides: Sequence[int], most: int) -> int:
    """The side of a patch with which some tens of patches tile a usual picture.

    Arguments:
        sides: the shorter sides of some pictures, in pixels.
        most: to which they are scaled down.

    >>> usual_patch([30, 32, 500], most=64)
    4
    """
    side = min(most, int(np.median(sides)))
    return 8 if side >= LARGE else 4 if side >= SMALL else 2
