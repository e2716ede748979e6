"""`tf.RaggedTensor`, which only TensorFlow has."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import regard.keras
from keras_forms import DIM, draw, numbers, packed


def ragged(batch):
    return tf.RaggedTensor.from_row_splits(batch.values, batch.offsets)


@pytest.mark.everywhere
def test_ragged_in_ragged_out():
    layer, batch = regard.keras.EncoderBlock(4, 24), packed([3, 0, 4])
    found = layer(ragged(batch))
    assert isinstance(found, tf.RaggedTensor)
    np.testing.assert_allclose(numbers(found.values), numbers(layer(batch).values), atol=1e-6)
    np.testing.assert_array_equal(numbers(found.row_splits), batch.offsets)
    cross = regard.keras.MultiHeadAttention(2, 4)
    found = cross(ragged(batch), ragged(batch))
    np.testing.assert_allclose(numbers(found.values), numbers(cross(batch, batch).values), atol=1e-6)


@pytest.mark.everywhere
def test_a_functional_model_takes_ragged_tensors_and_trains(tmp_path):
    tokens = keras.Input((None, DIM), ragged=True)
    hidden = regard.keras.EncoderBlock(2, 12)(tokens)
    assert hidden.ragged
    model = keras.Model(tokens, keras.layers.Dense(1)(regard.keras.MeanPooling()(hidden)))
    batch = packed([3, 2, 4])
    plain = regard.keras.EncoderBlock(2, 12)
    plain.build((None, DIM))
    plain.set_weights(model.layers[1].get_weights())
    expected = numbers(model.layers[-1](regard.keras.MeanPooling()(plain(batch))))
    np.testing.assert_allclose(numbers(model(ragged(batch))), expected, atol=1e-5)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    data = tf.data.Dataset.from_tensors((ragged(batch), draw(3, 1))).repeat(6)
    losses = [model.fit(data, verbose=0, shuffle=False).history["loss"][0] for _ in range(2)]
    assert losses[1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numbers(loaded(ragged(batch))), numbers(model(ragged(batch))), atol=1e-6)
