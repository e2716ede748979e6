from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings

import regard
import regard.keras
import regard.nn
from keras_forms import DIM, draw, given_by, lengths_lists, like_twin, numbers, packed, padded, some

TRAINS = keras.backend.backend() != "numpy"
LAYERS = {
    "self": (regard.keras.SelfAttention, {"num_heads": 2, "rotary": True, "qk_norm": True, "use_bias": True}),
    "concat": (regard.keras.SelfAttention, {"num_heads": 2, "combine": "concat", "causal": True}),
    "encoder": (regard.keras.EncoderBlock, {"num_heads": 2, "hidden_dim": 12, "sliding_window": 3}),
    "feed_forward": (regard.keras.FeedForward, {"hidden_dim": 12}),
    "pooling": (regard.keras.MeanPooling, {}),
}


@pytest.mark.parametrize("kv", some([2, 4]))
@settings(max_examples=5)
@given(lengths=lengths_lists)
def test_an_encoder_block_gives_the_numbers_of_its_twin(kv, lengths):
    batch = packed(lengths)
    x, mask = padded(batch)
    expected = given_by(TWINS[kv], batch)
    np.testing.assert_allclose(numbers(BLOCKS[kv](batch).values), expected, atol=1e-4)
    np.testing.assert_allclose(numbers(BLOCKS[kv](x, mask=mask))[mask], expected, atol=1e-4)


TWINS = {kv: regard.nn.EncoderBlock(DIM, 4, 24, kv_heads=kv) for kv in (4, 2)}
BLOCKS = {
    kv: like_twin(regard.keras.EncoderBlock(4, 24, num_key_value_heads=kv), twin, (None, None, DIM))
    for kv, twin in TWINS.items()
}


@pytest.mark.parametrize("qk_norm", some([True, False]))
def test_a_decoder_block_gives_the_numbers_of_its_twin(qk_norm):
    twin = regard.nn.DecoderBlock(DIM, 4, 24, qk_norm=qk_norm)
    shape = (None, None, DIM)
    layer = like_twin(regard.keras.DecoderBlock(4, 24, qk_norm=qk_norm), twin, shape, shape)
    batch, context, reads = packed([3, 0, 4]), packed([5, 2], seed=1), np.array([1, 0, 0])
    expected = given_by(twin, batch, context, key_sequence=reads)
    np.testing.assert_allclose(numbers(layer(batch, context, key_sequence=reads).values), expected, atol=1e-4)
    context = packed([5, 2, 6], seed=1)
    (x, mask), (read, read_mask) = padded(batch), padded(context)
    found = numbers(layer(x, read, x_mask=mask, context_mask=read_mask))
    np.testing.assert_allclose(found[mask], given_by(twin, batch, context), atol=1e-4)


@settings(max_examples=10)
@given(lengths=lengths_lists)
def test_pooling_is_the_mean_of_the_tokens_alone(lengths):
    batch, pool = packed(lengths), regard.keras.MeanPooling()
    x, mask = padded(batch)
    expected = [rows.mean(0) if len(rows) else np.zeros(DIM) for rows in batch.unpack()]
    np.testing.assert_allclose(numbers(pool(batch)), expected, atol=1e-6)
    np.testing.assert_allclose(numbers(pool(x, mask=mask)), expected, atol=1e-6)


def test_pooling_leaves_out_what_stands_past_the_last_offset():
    x = draw(6, DIM)
    found = regard.keras.MeanPooling()({"values": x, "offsets": np.array([0, 1, 4], np.int32)})
    np.testing.assert_allclose(numbers(found), [x[:1].mean(0), x[1:4].mean(0)], atol=1e-6)


@pytest.mark.parametrize("name", some(LAYERS, 2))
def test_keras_own_checks_of_a_layer_pass(name):
    """Shapes, configuration, saving, masks, training in the modes of the backend, and mixed precision, as Keras tests its own layers."""
    from keras.src.testing import TestCase

    layer, options = LAYERS[name]
    shape = (2, 5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they warn of what they do themselves
        TestCase("run_layer_test").run_layer_test(
            layer,
            options,
            input_shape=shape,
            expected_output_shape=(2, 8) if name == "pooling" else shape,
            supports_masking=True,
            run_training_check=TRAINS and name != "pooling",
        )


@pytest.mark.parametrize("policy", some(["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"]))
def test_policies_of_precision_hold(policy):
    batch = packed([3, 0, 6])
    plain = regard.keras.EncoderBlock(4, 24)
    expected = numbers(plain(batch).values)
    block = regard.keras.EncoderBlock(4, 24, dtype=policy)
    block.build((None, None, DIM))
    block.set_weights(plain.get_weights())
    found = block(batch)
    assert keras.backend.standardize_dtype(found.values.dtype) == keras.DTypePolicy(policy).compute_dtype
    tolerance = 1e-5 if policy == "float64" else 0.1
    np.testing.assert_allclose(
        numbers(keras.ops.cast(found.values, "float32")), expected, atol=tolerance, rtol=tolerance
    )


def model_of_packed(block):
    inputs = {
        "values": keras.Input((), dtype="int32", name="values"),
        "offsets": keras.Input((), dtype="int32", name="offsets"),
    }
    embedded = keras.layers.Embedding(11, 8)(inputs["values"])
    found = block({"values": embedded, "offsets": inputs["offsets"]})
    return keras.Model(inputs, keras.layers.Dense(3)(regard.keras.MeanPooling()(found)))


def ids(lengths, seed=0):
    values = np.random.default_rng(seed).integers(1, 11, sum(lengths)).astype(np.int32)
    return {"values": values, "offsets": np.cumsum([0, *lengths]).astype(np.int32)}


def test_a_functional_model_of_packed_sequences_is_saved_and_loaded(tmp_path):
    model = model_of_packed(regard.keras.EncoderBlock(2, 12, dropout=0.1, seed=1))
    batch = ids([3, 0, 4])
    expected = numbers(model(batch))
    assert expected.shape == (3, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numbers(loaded(batch)), expected, atol=1e-6)
    for layer, other in zip(model.layers, loaded.layers, strict=True):
        assert layer.get_config() == other.get_config()


def test_a_model_of_two_inputs_is_saved_and_loaded(tmp_path):
    x, context = keras.Input((None, 8)), keras.Input((4, 6))
    hidden = regard.keras.CrossAttention(2, qk_norm=True, dropout=0.1)(x, context)
    hidden = regard.keras.DecoderBlock(2, 12)(hidden, regard.keras.SelfAttention(2, key_dim=4)(x))
    out, scores = regard.keras.MultiHeadAttention(2, 4, num_key_value_heads=1, kernel_regularizer="l2")(
        hidden, context, return_attention_scores=True
    )
    assert (out.shape, scores.shape) == ((None, None, 8), (None, 2, None, 4))
    model = keras.Model([x, context], out)
    inputs = [draw(2, 5, 8), draw(2, 4, 6, seed=1)]
    expected = numbers(model(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numbers(loaded(inputs)), expected, atol=1e-6)


def model_of_padded(block):
    tokens = keras.Input((None,), dtype="int32")
    found = block(keras.layers.Embedding(11, 8, mask_zero=True)(tokens))
    return keras.Model(tokens, keras.layers.Dense(3)(regard.keras.MeanPooling()(found)))


@pytest.mark.everywhere
@pytest.mark.skipif(not TRAINS, reason="Keras does not train on NumPy")
def test_packed_and_padded_batches_train_alike():
    def batches(form):
        for step in range(12):
            batch = ids([3, 2, 4, 3], seed=step % 3)
            first = batch["values"][batch["offsets"][:-1]]
            if form == "padded":
                rows = np.split(batch["values"], batch["offsets"][1:-1])
                batch = np.stack([np.pad(row, (0, 4 - len(row))) for row in rows])
            yield batch, first % 3

    losses, weights = {}, None
    for form, make in (("packed", model_of_packed), ("padded", model_of_padded)):
        model = make(regard.keras.EncoderBlock(2, 12, causal=True))
        weights = weights or model.get_weights()
        model.set_weights(weights)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.02), loss)
        history = model.fit(batches(form), steps_per_epoch=3, epochs=4, verbose=0, shuffle=False)
        losses[form] = history.history["loss"]
    np.testing.assert_allclose(losses["packed"], losses["padded"], rtol=1e-3)
    assert losses["packed"][-1] < 0.8 * losses["packed"][0]


def test_symbolic_shapes_are_those_of_the_numbers():
    for name, (layer, options) in some(LAYERS.items(), 2):
        made = layer(**options)
        wanted = (2, 8) if name == "pooling" else (2, 5, 8)
        assert tuple(made.compute_output_shape((2, 5, 8))) == wanted
        assert made(keras.KerasTensor((2, 5, 8))).shape == wanted
    pair = {"values": (None, 8), "offsets": (None,)}
    assert regard.keras.EncoderBlock(2, 12).compute_output_shape(pair) == pair
    assert regard.keras.MeanPooling().compute_output_shape(pair) == (None, 8)
    assert regard.keras.MultiHeadAttention(2, 4, output_shape=3).compute_output_shape(pair, pair) == {
        "values": (None, 3),
        "offsets": (None,),
    }
