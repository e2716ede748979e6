"""Pictures to states: a convolutional stem makes a token of every patch, and the encoder of texts does the rest.

Shape letters: N pictures, R rows and C columns of patches, P side of a patch in pixels, H and W sides of a picture.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from regard._errors import ConfigError, ShapeError
from regard._packed import Packed
from regard.nn._sequences import positions_of
from regard.nn.blocks import Encoder
from regard.nn.encoder import initialize
from regard.nn.feedforward import Dropout
from regard.nn.rotary import Rotary

CHANNELS = 3
NARROWEST = 16  # channels of a convolution
SHIFT, TURN, ZOOM = 0.06, 0.2, 0.1  # the most that a picture is moved in training: a share, radians, a share
LIGHT, CONTRAST, CAST = (
    16.0,
    0.1,
    0.05,
)  # the most that its colours change: of 255, a share, a share of each channel
BASE = 100.0  # of the rotation: a picture has tens of rows where a text has thousands of words
Sizes = NDArray[np.int64]


class PatchEncoder(nn.Module):
    """Pictures of any sizes, packed: 3 x 3 convolutions of stride 2 make patches tokens, encoder blocks let them see each other.

    The stem is that of Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers", without pooling.
    Positions are rotary in two dimensions (Heo et al. 2024): half of the pairs of a head turn by the row, half by the
    column. A picture costs what its own patches cost.

    Arguments:
        patch: side of a patch in pixels, a power of two: one convolution for each halving.
        dim: width of the states.
        heads: query heads of each block; `dim / heads` must be a multiple of 4.
        hidden: width of each feed-forward.
        layers: number of blocks.
        dropout: share of the entries dropped in training, of patches and of every branch.
        warp: in training every picture is shifted by up to `warp` times 6 % of its sides, turned by 11 degrees and scaled by
            10 %, by chance; its rim is repeated.
        flip: in training every other picture is mirrored.
        tint: in training every picture becomes lighter or darker by up to `tint` times 6 % of white, its contrast changes by
            10 % and each of red, green and blue by 5 %, by chance.

    Raises:
        ConfigError: `patch` is no power of two.
        ShapeError: heads do not fit.

    >>> encoder = regard.nn.PatchEncoder(4, dim=32, heads=4, hidden=64, layers=2)
    >>> patches = regard.Packed(torch.zeros(10, 48, dtype=torch.uint8), np.array([0, 4, 10]))
    >>> encoder(patches, [[2, 2], [3, 2]]).values.shape
    torch.Size([10, 32])
    """

    def __init__(
        self,
        patch: int,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        *,
        dropout: float = 0.0,
        warp: float = 0.0,
        flip: bool = False,
        tint: float = 0.0,
    ) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        if patch < 2 or patch != 2**halvings:
            raise ConfigError(
                f"a patch is halved until it is a token. Expected: 2, 4, 8 or 16. Received: {patch}."
            )
        if dim % heads or dim // heads % 4:
            raise ShapeError(
                "positions in two dimensions turn two pairs at a time. Expected: dim / heads, a multiple of 4. "
                f"Received: dim={dim}, heads={heads}."
            )
        self.dim, self.patch, self.warp, self.flip, self.tint = dim, patch, warp, flip, tint
        self.stem = _stem(halvings, dim)
        self.rotary = Rotary(dim // heads // 2, BASE)
        self.dropout = Dropout(dropout)
        self.encoder = Encoder(layers, dim, heads, hidden, dropout=dropout)
        self.encoder.apply(initialize)

    def forward(self, patches: Packed, sizes: Any) -> Packed:
        """States of the patches.

        Arguments:
            patches: values (total, P * P * 3), uint8: those of N pictures, row by row.
            sizes: (N, 2) integers, rows and columns of each picture.

        Returns:
            `Packed` (total, dim), with the offsets of `patches`.

        Raises:
            ShapeError: patches and sizes do not belong together.
        """
        sizes = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)
        width = patches.values.shape[-1]
        if width != CHANNELS * self.patch**2 or not np.array_equal(sizes.prod(axis=1), patches.lengths):
            raise ShapeError(
                f"patches and sizes do not belong together. Expected: rows * columns patches of {CHANNELS * self.patch**2} "
                f"bytes a picture. Received: {patches.lengths[:8].tolist()} patches of {width} bytes, sizes "
                f"{sizes[:8].tolist()}."
            )
        tokens = self.dropout(self._tokens(patches, sizes))
        columns = torch.from_numpy(np.repeat(sizes[:, 1], patches.lengths))
        position = positions_of(patches).to(columns.device)
        places = torch.stack([position // columns, position % columns], dim=-1)
        turns = self.rotary(places, tokens.dtype)  # (total, 2, 1, head_dim / 4)
        return self.encoder(patches.with_values(tokens), turns=turns.flatten(1).unsqueeze(1))

    def _tokens(self, patches: Packed, sizes: Sizes) -> Tensor:
        """The stem's result (total, dim), computed for all pictures of one size at once."""
        found, order = [], []
        kinds, kind_of = np.unique(sizes, axis=0, return_inverse=True)
        for number, (rows, columns) in enumerate(kinds.tolist()):
            begins = patches.offsets[:-1][kind_of.reshape(-1) == number]
            if rows * columns == 0:
                continue
            indices = torch.from_numpy(
                (begins[:, None] + np.arange(rows * columns)).reshape(-1).astype(np.int64)
            )
            images = join_patches(patches.values[indices], rows, columns)
            if self.training:
                images = moved(images, self.warp, self.flip)
                images = tinted(images, self.tint) if self.tint else images
            found.append(self._stemmed(images).flatten(2).mT.flatten(0, 1))
            order.append(indices)
        if not found:
            return torch.zeros(0, self.dim)
        return found[0] if len(found) == 1 else torch.cat(found)[torch.argsort(torch.cat(order))]

    def _stemmed(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, dim, R, C), about zero mean and unit size; in float32: bfloat16 compiles for every N."""
        with torch.autocast(images.device.type, enabled=False):
            found: Tensor = self.stem((images.to(next(self.stem.parameters()).dtype) - 127.5) / 64)
            return found


class Convolution(nn.Linear):
    """`conv2d` with an odd kernel and a rim of zeros; the kernels are one matrix (out, channels * side * side).

    So the optimizer of matrices takes them, which learns faster here than AdamW does. They begin as He et al. 2015 say: nothing
    normalizes between the convolutions of a stem, and each keeps the size of what comes in.

    >>> Convolution(3, 8, 3, stride=2)(torch.zeros(1, 3, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(self, channels: int, out: int, side: int, stride: int = 1) -> None:
        super().__init__(channels * side * side, out)
        self.channels, self.side, self.stride = channels, side, stride
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        kernels = self.weight.view(-1, self.channels, self.side, self.side)
        return F.conv2d(x, kernels, self.bias, self.stride, self.side // 2)


def _stem(halvings: int, dim: int) -> nn.Sequential:
    """A convolution that keeps the size, one for each halving, and a projection: (N, 3, H, W) to (N, dim, R, C)."""
    widths = [max(NARROWEST, dim >> (halvings - number)) for number in range(halvings)] + [dim]
    layers: list[nn.Module] = [Convolution(CHANNELS, widths[0], 3), nn.SiLU()]
    for before, after in itertools.pairwise(widths):
        layers += [Convolution(before, after, 3, stride=2), nn.SiLU()]
    return nn.Sequential(*layers, Convolution(dim, dim, 1))


def join_patches(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Patches (N * R * C, P * P * 3) of N pictures of one size as (N, 3, H, W).

    >>> join_patches(torch.arange(24).view(2, 12), 1, 2)[0, 0]
    tensor([[ 0,  3, 12, 15],
            [ 6,  9, 18, 21]])
    """
    side = round((patches.shape[-1] // CHANNELS) ** 0.5)
    parts = patches.view(-1, rows, columns, side, side, CHANNELS)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(-1, CHANNELS, rows * side, columns * side)


def moved(images: Tensor, warp: float, flip: bool) -> Tensor:
    """Each picture (N, channels, H, W) shifted, turned and scaled by chance, `warp` times the most of each, and perhaps mirrored."""
    count = len(images)
    if flip:
        images = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(-1), images)
    if not warp:
        return images
    chance = warp * (2 * torch.rand(count, 4) - 1)
    return warped(images, SHIFT * chance[:, :2], TURN * chance[:, 2], 1 + ZOOM * chance[:, 3])


def tinted(images: Tensor, tint: float) -> Tensor:
    """The colours of each picture (N, 3, H, W) changed by chance, `tint` times the most of each; none leaves 0 to 255."""
    chance = tint * (2 * torch.rand(len(images), 5, 1, 1) - 1)
    gain = (1 + CONTRAST * chance[:, :1]) * (1 + CAST * chance[:, 2:])
    return ((images - 127.5) * gain + 127.5 + LIGHT * chance[:, 1:2]).clamp(0, 255)


def warped(images: Tensor, shifts: Tensor, turns: Tensor, zooms: Tensor) -> Tensor:
    """Pictures seen through a window that is moved, turned and widened; what lies beyond the rim repeats it.

    Arguments:
        images: (N, channels, H, W).
        shifts: (N, 2), of the window to the right and down, as shares of width and height.
        turns: (N,), clockwise, in radians.
        zooms: (N,), how much wider the window becomes.

    Returns:
        (N, channels, H, W), float32 by bilinear interpolation.
    """
    height, width = images.shape[-2:]
    sine, cosine = turns.sin() * zooms, turns.cos() * zooms
    # The coordinates of a picture go from -1 to 1, whatever its sides: a turn must not shear.
    across = torch.stack([cosine, -sine * height / width, 2 * shifts[:, 0]], dim=-1)
    down = torch.stack([sine * width / height, cosine, 2 * shifts[:, 1]], dim=-1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
