"""The text encoder: each sequence by itself, and what is added to the embeddings."""

from __future__ import annotations

import numpy as np
import torch

import regard


def test_sequences_do_not_see_each_other():
    encoder = regard.nn.TextEncoder(20, dim=16, heads=2, hidden=32, layers=2).eval()
    tokens = torch.randint(20, (9,))
    together = encoder(regard.Packed(tokens, np.array([0, 4, 4, 5, 9]))).values
    for begin, end in ((0, 4), (4, 5), (5, 9)):
        alone = encoder(regard.Packed(tokens[begin:end], np.array([0, end - begin]))).values
        assert torch.allclose(together[begin:end], alone, atol=1e-5)


def test_what_is_added_counts_as_embedding():
    encoder = regard.nn.TextEncoder(20, dim=16, heads=2, hidden=32, layers=1).eval()
    tokens = regard.Packed(torch.tensor([3, 4, 5]), np.array([0, 3]))
    other = regard.Packed(torch.tensor([7, 7, 7]), np.array([0, 3]))
    difference = (encoder.embedding(tokens.values) - encoder.embedding(other.values)) * 4
    assert torch.allclose(encoder(other, difference).values, encoder(tokens).values, atol=1e-5)
    assert not torch.allclose(encoder(other).values, encoder(tokens).values, atol=1e-2)
