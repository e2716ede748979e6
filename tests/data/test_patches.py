from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.data.patches import cut_patches
from regard.nn.patches import join_patches


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([2, 4, 8]))
def test_cut_patches_join_to_the_picture_with_a_repeated_rim(height, width, patch):
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    patches, (rows, columns) = cut_patches(pixels, patch)
    assert (rows, columns) == (-(-height // patch), -(-width // patch))
    assert patches.shape == (rows * columns, patch * patch * 3)
    assert patches.dtype == np.uint8
    (joined,) = join_patches(torch.from_numpy(patches), rows, columns).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(joined[:height, :width], pixels)
    np.testing.assert_array_equal(
        joined[height:, :width], np.broadcast_to(pixels[-1], joined[height:, :width].shape)
    )
    np.testing.assert_array_equal(
        joined[:, width:], np.repeat(joined[:, width - 1 : width], joined.shape[1] - width, 1)
    )
