from __future__ import annotations

import numpy as np
import pytest
import torch

import regard
from regard._errors import ShapeError
from regard.nn import Captioner, PatchEncoder

SIZES = [[2, 2], [1, 3], [3, 2]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoder = PatchEncoder(4, dim=16, heads=2, hidden=16, layers=1)
    return Captioner(encoder, vocabulary=12, heads=2, hidden=16, layers=2).double().eval()


def pictures(generator=None):
    counts = np.prod(SIZES, axis=1)
    patches = torch.randint(256, (counts.sum(), 48), dtype=torch.uint8, generator=generator)
    return regard.Packed(patches, np.concatenate([[0], np.cumsum(counts)]))


def test_all_captions_of_a_picture_read_one_encoding(model):
    patches = pictures(torch.Generator().manual_seed(1))
    captions = [[1, 5, 6], [2], [1, 7], [3, 4, 5, 6]]
    owners = [0, 0, 2, 1]
    packed = regard.Packed(torch.tensor([1, 5, 6, 2, 1, 7, 3, 4, 5, 6]), np.cumsum([0, *map(len, captions)]))
    together = model(patches, SIZES, packed, torch.tensor(owners))
    begin = 0
    for caption, owner in zip(captions, owners, strict=True):
        one = patches.values[patches.offsets[owner] : patches.offsets[owner + 1]]
        alone = model(
            regard.Packed(one, [0, len(one)]),
            SIZES[owner : owner + 1],
            regard.Packed(torch.tensor(caption), [0, len(caption)]),
            torch.tensor([0]),
        )
        torch.testing.assert_close(together[begin : begin + len(caption)], alone)
        begin += len(caption)


def test_gradients_of_all_captions_reach_their_pictures_stem_alone(model):
    patches = pictures(torch.Generator().manual_seed(2))
    encoded = model.encode(patches, SIZES)
    values = encoded.values.detach().requires_grad_()
    tokens = regard.Packed(torch.tensor([1, 2, 3]), [0, 1, 3])
    states = model.decoder(
        model._embedded(tokens), encoded.with_values(values), key_sequence=torch.tensor([2, 2])
    )
    states.values.square().sum().backward()
    reached = values.grad.abs().sum(dim=1) > 0
    offsets = encoded.offsets
    assert not reached[: offsets[2]].any()
    assert reached[offsets[2] :].all()


def test_sizes_must_fit():
    encoder = PatchEncoder(4, dim=16, heads=2, hidden=16, layers=1)
    with pytest.raises(ShapeError):
        Captioner(encoder, vocabulary=12, heads=3, hidden=16, layers=1)
