"""Batches of sequences in the forms that layers take, and the twins that say what is right."""

from __future__ import annotations

import keras
import numpy as np
import torch
from hypothesis import strategies as st

import regard

DIM = 16
# Where every new shape compiles, which takes seconds, tests take one example of a kind and lengths of one sum.
COMPILES = keras.backend.backend() in {"jax", "tensorflow"}
one_sum = st.sampled_from([[3, 0, 6], [6, 3, 0], [1, 6, 2]])
lengths_lists = one_sum if COMPILES else st.lists(st.sampled_from([0, 1, 3, 6]), min_size=1, max_size=3)


def some(cases, *chosen):
    """All cases, or the numbers chosen where every case compiles."""
    cases = list(cases)
    return [cases[number] for number in chosen or (0,)] if COMPILES else cases


def numbers(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def packed(lengths, dim=DIM, seed=0):
    return regard.Packed(draw(sum(lengths), dim, seed=seed), np.cumsum([0, *lengths]))


def padded(batch, longest=6, *, left=False):
    """The sequences with NaN behind them, or before, and the mask of tokens."""
    mask = np.arange(longest) < batch.lengths[:, None]
    if left:
        mask = mask[:, ::-1].copy()
    values = np.full((*mask.shape, batch.values.shape[-1]), np.nan, np.float32)
    values[mask] = batch.values
    return values, mask


def like_twin(layer, twin, *shapes):
    """The layer, built, with the weights of its twin in `regard.nn`."""
    layer.build(*shapes)
    regard.keras.load_state_dict(layer, twin.state_dict())
    return layer


def given_by(twin, *inputs, **options):
    """What the twin gives, in evaluation."""
    with torch.no_grad():
        tensors = [
            regard.Packed(torch.from_numpy(x.values), x.offsets)
            if isinstance(x, regard.Packed)
            else torch.from_numpy(x)
            for x in inputs
        ]
        found = twin.eval()(*tensors, **options)
    return (found.values if isinstance(found, regard.Packed) else found).numpy()
