from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import Packed
from regard._errors import ConfigError, ShapeError
from regard.data.packing import pack_rows
from regard.data.patches import cut_patches
from regard.nn import PatchEncoder
from regard.nn.patches import Convolution, moved, tinted, warped
from regard.training.muon import split_parameters

SIZES = st.lists(st.tuples(st.integers(1, 17), st.integers(1, 17)), min_size=1, max_size=5)


def pictures(sizes, patch, seed=0):
    rng = np.random.default_rng(seed)
    cut = [cut_patches(rng.integers(256, size=(*size, 3), dtype=np.uint8), patch) for size in sizes]
    return pack_rows([patches for patches, _ in cut]), np.array([size for _, size in cut])


@settings(deadline=None, max_examples=20)
@given(SIZES, st.sampled_from([2, 4, 8]))
def test_a_picture_is_the_same_alone_and_among_others_of_any_size(sizes, patch):
    torch.manual_seed(0)
    encoder = PatchEncoder(patch, 16, 2, 16, 2).eval()
    patches, counts = pictures(sizes, patch)
    with torch.no_grad():
        together = encoder(patches, counts).unpack()
        for part, count, expected in zip(patches.unpack(), counts, together, strict=True):
            alone = encoder(Packed(part, [0, len(part)]), [count])
            torch.testing.assert_close(alone.values, expected, atol=2e-5, rtol=1e-4)


def test_the_stem_is_a_convolution_of_the_whole_picture():
    """Against plain conv2d on the pixels, and the blocks left out."""
    torch.manual_seed(0)
    encoder = PatchEncoder(4, 16, 2, 16, 1).double().eval()
    pixels = np.random.default_rng(0).integers(256, size=(8, 12, 3), dtype=np.uint8)
    patches, size = cut_patches(pixels, 4)
    found = encoder._tokens(pack_rows([patches]), np.array([size]))
    image = (torch.from_numpy(pixels).permute(2, 0, 1)[None].double() - 127.5) / 64
    for layer in encoder.stem:
        if isinstance(layer, Convolution):
            kernels = layer.weight.view(layer.weight.shape[0], -1, layer.side, layer.side)
            image = F.conv2d(image, kernels, layer.bias, layer.stride, layer.side // 2)
        else:
            image = F.silu(image)
    expected = image[0].permute(1, 2, 0).reshape(6, 16)
    torch.testing.assert_close(found, expected)


def test_the_optimizer_of_matrices_takes_every_kernel():
    encoder = PatchEncoder(4, 16, 2, 16, 1)
    matrices = {id(matrix) for matrix in split_parameters(encoder)[0]}
    kernels = [layer.weight for layer in encoder.stem if isinstance(layer, Convolution)]
    assert len(kernels) == 4
    assert all(id(kernel) in matrices for kernel in kernels)


def test_positions_have_two_dimensions():
    """What a patch sees of another depends on rows and columns between them, not on the width of the picture."""
    encoder = PatchEncoder(2, 16, 2, 16, 1)
    seen = []
    encoder.encoder.forward = lambda x, turns: seen.append(turns) or x
    for rows, columns in ((3, 5), (4, 7)):
        encoder(
            Packed(torch.zeros(rows * columns, 12, dtype=torch.uint8), [0, rows * columns]), [[rows, columns]]
        )
    small, large = seen[0].view(3, 5, -1), seen[1].view(4, 7, -1)
    assert small.shape == (3, 5, 4)
    torch.testing.assert_close(small, large[:3, :5])
    row_part, column_part = small[..., :2], small[..., 2:]
    torch.testing.assert_close(row_part, row_part[:, :1].expand_as(row_part))
    torch.testing.assert_close(column_part, column_part[:1].expand_as(column_part))
    angles = torch.angle(row_part[:, 0])
    expected = torch.arange(3)[:, None] * torch.tensor([1.0, 100 ** (-2 / 4)])
    torch.testing.assert_close(angles.float(), expected)


def test_gradients_reach_every_weight_from_pictures_of_all_sizes():
    encoder = PatchEncoder(4, 16, 2, 16, 1)
    patches, counts = pictures([(8, 8), (5, 12), (8, 8)], 4)
    encoder(patches, counts).values.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_no_picture_and_empty_ones_give_nothing():
    encoder = PatchEncoder(4, 16, 2, 16, 1)
    empty = Packed(torch.zeros(0, 48, dtype=torch.uint8), [0])
    assert encoder(empty, np.zeros((0, 2))).values.shape == (0, 16)
    patches = Packed(torch.zeros(4, 48, dtype=torch.uint8), [0, 0, 4])
    assert encoder(patches, [[0, 3], [2, 2]]).lengths.tolist() == [0, 4]


IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_window_is_moved_by_whole_pixels():
    images = IMAGES[..., :6]  # 8 rows, 6 columns
    shifts = torch.tensor([[2 / 6, 0.0], [0.0, -1 / 8], [1 / 6, 3 / 8]])
    found = warped(images, shifts, torch.zeros(3), torch.ones(3))
    for image, one, (right, down) in zip(images, found, ((2, 0), (0, -1), (1, 3)), strict=True):
        rows, columns = (torch.arange(8) + down).clamp(0, 7), (torch.arange(6) + right).clamp(0, 5)
        torch.testing.assert_close(one, image[:, rows][:, :, columns])


def test_a_window_is_turned_without_shear():
    quarter = torch.full((3,), torch.pi / 2)
    found = warped(IMAGES, torch.zeros(3, 2), quarter, torch.ones(3))
    torch.testing.assert_close(found, IMAGES.rot90(1, (-2, -1)), atol=1e-5, rtol=1e-4)
    tall = torch.zeros(1, 1, 21, 11)
    tall[..., 10, 4:7] = 1  # three pixels side by side in the middle
    turned = warped(tall, torch.zeros(1, 2), quarter[:1], torch.ones(1))
    expected = torch.zeros(21, 11)
    expected[9:12, 5] = 1
    torch.testing.assert_close(turned[0, 0], expected, atol=1e-4, rtol=0)


def test_a_window_is_widened():
    ramp = torch.linspace(-1, 1, 9).expand(1, 1, 9, 9)
    found = warped(ramp, torch.zeros(1, 2), torch.zeros(1), torch.full((1,), 0.5))
    torch.testing.assert_close(found, 0.5 * ramp)


def test_chance_keeps_within_the_most():
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 101).expand(500, 1, 101, 101)
    middle = moved(ramp, 1.0, False)[:, 0, 50, 50]  # 12 % of the two that the ramp rises
    assert 0.1 < middle.abs().max() <= 0.1213
    assert abs(middle.mean()) < 0.01


def test_mirrored_or_not():
    torch.manual_seed(0)
    images = IMAGES.repeat(10, 1, 1, 1)
    found = moved(images, 0.0, True)
    mirrored = [torch.equal(one, image.flip(-1)) for one, image in zip(found, images, strict=True)]
    same = [torch.equal(one, image) for one, image in zip(found, images, strict=True)]
    assert [a != b for a, b in zip(mirrored, same, strict=True)] == [True] * 30
    assert 5 < sum(mirrored) < 25
    assert moved(images, 0.0, False) is images


def test_colours_change_a_little_and_together():
    torch.manual_seed(1)
    grey = torch.full((500, 3, 2, 2), 100, dtype=torch.uint8)
    found = tinted(grey, 1.0)
    assert (found == found[:, :, :1, :1]).all()  # every pixel of a channel alike
    assert 0 < (found - 100).abs().max() <= 16 + 27.5 * (1.1 * 1.05 - 1) + 1e-3
    assert (found[:, 0] != found[:, 1]).any()
    edge = tinted(torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1), 5.0)
    assert edge.min() >= 0
    assert edge.max() <= 255
    torch.testing.assert_close(tinted(grey, 0.0), grey.float())


def test_pictures_are_moved_in_training_alone():
    torch.manual_seed(0)
    encoder = PatchEncoder(2, 16, 2, 16, 1, warp=2.0, flip=True, tint=1.0)
    patches, counts = pictures([(12, 12)], 2)
    assert not torch.allclose(encoder(patches, counts).values, encoder(patches, counts).values)
    encoder.eval()
    assert torch.equal(encoder(patches, counts).values, encoder(patches, counts).values)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="Received: 6"):
        PatchEncoder(6, 16, 2, 16, 1)
    with pytest.raises(ShapeError, match="dim=12, heads=2"):
        PatchEncoder(4, 12, 2, 16, 1)
    encoder = PatchEncoder(4, 16, 2, 16, 1)
    patches, _ = pictures([(8, 8)], 4)
    with pytest.raises(ShapeError, match="patches and sizes do not belong together"):
        encoder(patches, [[2, 3]])
    with pytest.raises(ShapeError, match="48 bytes a picture"):
        encoder(Packed(torch.zeros(4, 12, dtype=torch.uint8), [0, 4]), [[2, 2]])
