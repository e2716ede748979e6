"""`regard.check` for functions of TensorFlow and layers of Keras."""

from __future__ import annotations

import numpy as np
import pytest

import regard

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
if keras.config.backend() != "tensorflow":
    pytest.skip("Keras computes with another backend in this process", allow_module_level=True)

LENGTHS = np.array([4, 2, 5])
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
SEQUENCE = np.repeat(np.arange(3), LENGTHS)
SAME = SEQUENCE[:, None] == SEQUENCE
CAUSAL = SAME & np.tri(len(SAME), dtype=bool)
REAL = np.arange(5) < LENGTHS[:, None]
VALUES = tf.constant(np.random.default_rng(0).normal(size=(len(SAME), 4)), tf.float32)
PADDED = tf.constant(np.random.default_rng(0).normal(size=(3, 5, 4)), tf.float32)


def attend(x, mask):
    scores = tf.where(mask, tf.matmul(x, x, transpose_b=True), -1e30)
    return tf.nn.softmax(scores) @ x


PACKED = {
    "masked by sequence": (lambda x: attend(x, CAUSAL), set()),
    "compiled": (tf.function(lambda x: attend(x, CAUSAL)), set()),
    "by ragged tensors": (
        lambda x: tf.RaggedTensor.from_row_splits(x, OFFSETS).with_values(x * 2).values, set(),
    ),
    "without mask": (lambda x: attend(x, np.ones_like(SAME)), {"sequence", "future"}),
    "not causal": (lambda x: attend(x, SAME), {"future"}),
    "rolled": (lambda x: tf.roll(x, 1, 0), {"sequence"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_packed_functions(name):
    function, expected = PACKED[name]
    report = regard.check(function, VALUES, offsets=OFFSETS, causal=True)
    assert {leak.kind for leak in report.found} == expected, str(report)
    assert report.checked == ("sequence", "future")


@pytest.fixture(scope="module")
def attention():
    keras.utils.set_random_seed(0)
    return keras.layers.MultiHeadAttention(2, 4)


def test_attention_of_keras_with_its_mask(attention):
    mask = REAL[:, None] & REAL[:, :, None]
    report = regard.check(lambda x: attention(x, x, attention_mask=mask), PADDED, lengths=LENGTHS)
    assert report.ok, str(report)
    assert report.checked == ("sequence", "padding")
    causal = regard.check(lambda x: attention(x, x, use_causal_mask=True), PADDED, causal=True)
    assert causal.ok, str(causal)


def test_attention_of_keras_without_a_mask(attention):
    report = regard.check(lambda x: attention(x, x), PADDED, lengths=LENGTHS, causal=True)
    assert {leak.kind for leak in report.found} == {"padding", "future"}


def test_batch_norm_and_pooling_of_keras():
    norm = keras.layers.BatchNormalization()
    report = regard.check(lambda x: norm(x, training=True), PADDED, lengths=LENGTHS)
    assert {leak.kind for leak in report.found} == {"sequence", "padding"}
    assert regard.check(lambda x: norm(x, training=False), PADDED, lengths=LENGTHS).ok
    pool = keras.layers.GlobalAveragePooling1D()
    assert {leak.kind for leak in regard.check(pool, PADDED, lengths=LENGTHS).found} == {"padding"}
    assert regard.check(lambda x: pool(x, mask=tf.constant(REAL)), PADDED, lengths=LENGTHS).ok


def test_ids_whose_padding_the_model_knows():
    ids = tf.constant(np.where(REAL, np.random.default_rng(0).integers(1, 9, REAL.shape), 0))
    model = keras.Sequential(
        [keras.layers.Embedding(9, 4, mask_zero=True), keras.layers.GlobalAveragePooling1D()]
    )
    assert regard.check(model, ids, lengths=LENGTHS, pad=0).ok
    assert not regard.check(model, ids, lengths=LENGTHS).ok


def test_a_gradient_that_a_value_does_not_show():
    @tf.custom_gradient
    def same(x):
        return tf.identity(x), lambda slope: slope + tf.reduce_sum(slope, 0)

    (leak, *_) = regard.check(same, VALUES, offsets=OFFSETS).found
    assert (leak.kind, leak.by) == ("sequence", "gradient")
