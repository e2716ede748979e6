"""The layers of `regard.keras` are sound: no sequence, future or padding reaches another token, not even as NaN.

On PyTorch, where it is quick; tests/keras/test_backends.py runs it in a process of its own.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import regard
import regard.keras

if keras.config.backend() != "torch":
    pytest.skip("Keras computes with another backend in this process", allow_module_level=True)

LENGTHS = [5, 1, 0, 7, 3]
OFFSETS = np.cumsum([0, *LENGTHS])
DIM = 8
REAL = np.arange(7) < np.array(LENGTHS)[:, None]


def drawn(*shape):
    return keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))


PACKED = regard.Packed(drawn(int(OFFSETS[-1]), DIM), OFFSETS)
PADDED = drawn(len(LENGTHS), 7, DIM)
CONTEXT = regard.Packed(drawn(9, DIM), np.array([0, 2, 3, 4, 9, 9]))


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


SelfAttention, CrossAttention = regard.keras.SelfAttention, regard.keras.CrossAttention
EncoderBlock, DecoderBlock = regard.keras.EncoderBlock, regard.keras.DecoderBlock
# A layer, and whether it sees no future.
LAYERS = {
    "self-attention": (lambda: SelfAttention(2, rotary=True, qk_norm=True), False),
    "causal self-attention": (lambda: SelfAttention(2, causal=True, combine="concat"), True),
    "sliding window": (lambda: SelfAttention(2, causal=True, sliding_window=3), True),
    "encoder block": (lambda: EncoderBlock(2, hidden_dim=12), False),
    "causal encoder block": (lambda: EncoderBlock(2, hidden_dim=12, causal=True), True),
    "pooling": (regard.keras.MeanPooling, False),
}
READERS = {
    "cross-attention": lambda: CrossAttention(2),
    "decoder block": lambda: DecoderBlock(2, hidden_dim=12),
}


@pytest.mark.parametrize("name", LAYERS)
def test_packed_layers_have_no_leak(name):
    make, causal = LAYERS[name]
    report = regard.check(make(), PACKED, causal=causal, strict=True)
    assert report.ok, str(report)
    assert report.checked == (("sequence", "future") if causal else ("sequence",))


@pytest.mark.parametrize("name", LAYERS)
def test_padded_layers_have_no_leak(name):
    make, causal = LAYERS[name]
    layer, mask = make(), keras.ops.convert_to_tensor(REAL)
    report = regard.check(lambda x: layer(x, mask=mask), PADDED, lengths=LENGTHS, causal=causal, strict=True)
    assert report.ok, str(report)
    assert set(report.checked) == {"sequence", "padding"} | ({"future"} if causal else set())


@pytest.mark.parametrize("name", READERS)
def test_layers_that_read_a_context_have_no_leak(name):
    layer = READERS[name]()
    report = regard.check(lambda x: layer(x, CONTEXT), PACKED, causal=True, strict=True)
    assert report.ok, str(report)
    assert report.checked == ("sequence", "future")
    pool = regard.keras.MeanPooling()  # what all queries of a sequence read, beside each context
    report = regard.check(lambda x: pool(layer(PACKED, x)), CONTEXT, strict=True)
    assert report.ok, str(report)


def test_a_layer_that_is_not_causal_is_found_out():
    report = regard.check(EncoderBlock(2, hidden_dim=12), PACKED, causal=True)
    assert {leak.kind for leak in report.found} == {"future"}
    layer = EncoderBlock(2, hidden_dim=12)
    assert {leak.kind for leak in regard.check(layer, PADDED, lengths=LENGTHS).found} == {"padding"}
