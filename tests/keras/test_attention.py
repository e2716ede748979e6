from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import regard
import regard.keras
import regard.nn
from keras_forms import DIM, draw, given_by, lengths_lists, like_twin, numbers, packed, padded, some
from regard._errors import ConfigError, ShapeError

CASES = {
    "plain": ({}, {}),
    "bias": ({"use_bias": True}, {"bias": True}),
    "positions": ({"rotary": True, "qk_norm": True}, {"rotary": True, "qk_norm": True}),
    "shared heads": ({"num_key_value_heads": 2}, {"kv_heads": 2}),
    "concat": ({"combine": "concat", "key_dim": 6}, {"combine": "concat", "head_dim": 6}),
}


@pytest.fixture(params=some(CASES, 2))
def pair(request):
    ours, theirs = CASES[request.param]
    twin = regard.nn.SelfAttention(DIM, 4, **theirs)
    return like_twin(regard.keras.SelfAttention(4, **ours), twin, (None, None, DIM)), twin


def test_numbers_are_those_of_the_twin(pair):
    layer, twin = pair
    x, batch = draw(2, 5, DIM), packed([3, 0, 4])
    np.testing.assert_allclose(numbers(layer(x)), given_by(twin, x), atol=1e-5)
    np.testing.assert_allclose(numbers(layer(batch).values), given_by(twin, batch), atol=1e-5)


def test_weights_go_back_to_the_twin(pair):
    layer, twin = pair
    other = type(twin)(DIM, 4, **next(theirs for ours, theirs in CASES.values() if _made(layer, ours)))
    state = {name: torch.from_numpy(array) for name, array in regard.keras.state_dict(layer).items()}
    other.load_state_dict(state)
    assert all(torch.equal(state[name], weight) for name, weight in twin.state_dict().items())


def _made(layer, ours):
    defaults = {"use_bias": False, "rotary": False, "combine": "project", "num_key_value_heads": 4}
    return all(layer.get_config()[name] == (defaults | ours)[name] for name in defaults)


@pytest.mark.parametrize(
    ("options", "mask"),
    some(
        [
            ({"causal": True, "sliding_window": 3}, regard.Causal() & regard.Window(2)),
            ({"causal": True}, regard.Causal()),
            ({"sliding_window": 2}, regard.Window(1)),
        ]
    ),
)
def test_patterns_are_masks(options, mask):
    twin = regard.nn.SelfAttention(DIM, 4)
    layer = like_twin(regard.keras.SelfAttention(4, **options), twin, (None, None, DIM))
    x, batch = draw(2, 5, DIM), packed([3, 0, 4])
    np.testing.assert_allclose(numbers(layer(x)), given_by(twin, x, mask=mask), atol=1e-5)
    np.testing.assert_allclose(numbers(layer(batch).values), given_by(twin, batch, mask=mask), atol=1e-5)


@pytest.mark.everywhere
@pytest.mark.parametrize("left", some([True, False]), ids=some(["left", "right"]))
@settings(max_examples=10)
@given(lengths=lengths_lists)
def test_padded_and_packed_give_the_same(left, lengths):
    layer = LAYER
    batch = packed(lengths)
    x, mask = padded(batch, left=left)
    expected = numbers(layer(batch).values)
    np.testing.assert_allclose(numbers(layer(x, mask=mask))[mask], expected, atol=1e-5)
    np.testing.assert_allclose(
        numbers(layer({"values": batch.values, "offsets": batch.offsets})["values"]), expected, atol=1e-6
    )
    values, offsets = layer((batch.values, batch.offsets))
    np.testing.assert_allclose(numbers(values), expected, atol=1e-6)
    np.testing.assert_array_equal(numbers(offsets), batch.offsets)


LAYER = regard.keras.SelfAttention(4, causal=True, rotary=True)
LAYER.build((None, None, DIM))


def test_a_mask_of_keras_arrives():
    embedding = keras.layers.Embedding(10, DIM, mask_zero=True)
    tokens = np.array([[3, 4, 0, 0], [5, 6, 7, 8]], np.int32)
    layer = regard.keras.SelfAttention(4)
    out = layer(embedding(tokens))
    short = layer(embedding(tokens[:1, :2]))
    np.testing.assert_allclose(numbers(out)[0, :2], numbers(short)[0], atol=1e-5)
    np.testing.assert_array_equal(numbers(regard.keras._sequences.keras_mask(out)), tokens != 0)


@pytest.mark.parametrize("rank", some([3, 2, 4]))
def test_attention_masks_of_every_rank_are_honoured(rank):
    layer, x = regard.keras.SelfAttention(4), draw(2, 5, DIM)
    allowed = np.random.default_rng(1).random((2, 4, 5, 5)) < 0.6
    allowed = {2: allowed[0, 0], 3: allowed[:, 0], 4: allowed}[rank]
    four = allowed if rank == 4 else allowed[:, None] if rank == 3 else allowed
    expected = numbers(layer(x, attention_mask=regard.Dense(four)))
    np.testing.assert_allclose(numbers(layer(x, attention_mask=allowed)), expected, atol=1e-6)
    assert not np.allclose(expected, numbers(layer(x)), atol=1e-3)


def test_all_masks_intersect():
    layer, x = regard.keras.SelfAttention(4, causal=True), draw(1, 4, DIM)
    allowed, tokens = np.tril(np.ones((4, 4), bool), 1)[::-1].copy(), np.array([[True, True, False, True]])
    found = numbers(layer(x, mask=tokens, attention_mask=allowed))
    everything = allowed & np.tril(np.ones((4, 4), bool)) & tokens & tokens.T
    np.testing.assert_allclose(found, numbers(_plain(layer)(x, attention_mask=everything)), atol=1e-6)


def _plain(layer):
    other = regard.keras.SelfAttention(4)
    other.build((None, None, DIM))
    other.set_weights(layer.get_weights())
    return other


@pytest.mark.parametrize("kv", some([2, 4]))
def test_cross_attention_gives_the_numbers_of_its_twin(kv):
    twin = regard.nn.CrossAttention(DIM, 4, context_dim=12, kv_heads=kv, qk_norm=True)
    layer = regard.keras.CrossAttention(4, num_key_value_heads=kv, qk_norm=True)
    like_twin(layer, twin, (None, None, DIM), (None, None, 12))
    x, context = draw(2, 5, DIM), draw(2, 3, 12, seed=1)
    np.testing.assert_allclose(numbers(layer(x, context)), given_by(twin, x, context), atol=1e-5)
    x, context = packed([3, 0, 4]), packed([2, 5], 12, seed=1)
    reads = np.array([0, 1, 1])
    expected = given_by(twin, x, context, key_sequence=reads)
    np.testing.assert_allclose(numbers(layer(x, context, key_sequence=reads).values), expected, atol=1e-5)


def test_a_padded_context_counts_its_tokens_alone():
    layer, x, context = regard.keras.CrossAttention(4), packed([3, 1]), packed([2, 5], seed=1)
    expected = numbers(layer(x, context).values)
    (values, mask), (read, read_mask) = padded(x), padded(context)
    found = numbers(layer(values, read, x_mask=mask, context_mask=read_mask))
    np.testing.assert_allclose(found[mask], expected, atol=1e-5)


@pytest.mark.everywhere
def test_dropout_is_the_same_packed_and_padded_and_another_at_every_call():
    batch = packed([3, 6])
    x, mask = padded(batch)
    layer = regard.keras.SelfAttention(4, dropout=0.5, seed=3)
    state = numbers(layer(batch, training=True).values)
    after = numbers(layer(batch, training=True).values)
    assert not np.allclose(state, after)
    again = regard.keras.SelfAttention(4, dropout=0.5, seed=3)
    again.build((None, None, DIM))
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(numbers(again(x, mask=mask, training=True))[mask], state, atol=1e-5)
    np.testing.assert_allclose(numbers(layer(batch).values), numbers(again(batch).values), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"sliding_window": 0}, "sliding_window must be"),
        ({"combine": "sum"}, "combine must be one of project, concat"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises((ConfigError, ShapeError), match=message):
        regard.keras.SelfAttention(4, **options)


def test_inputs_that_do_not_fit_are_refused():
    layer, batch = regard.keras.SelfAttention(4), packed([3, 4])
    with pytest.raises(ShapeError, match=r'"values" and "offsets".*\[\'offset\', \'values\'\]'):
        layer({"values": batch.values, "offset": batch.offsets})
    with pytest.raises(ShapeError, match=r"regard\.Mask"):
        layer(batch, attention_mask=np.ones((7, 7), bool))
    with pytest.raises(ShapeError, match="no padding that a mask could name"):
        layer(batch, mask=np.ones(7, bool))
    with pytest.raises(ShapeError, match="both be packed or both padded"):
        regard.keras.CrossAttention(4)(batch, draw(2, 3, DIM))
    with pytest.raises(ShapeError, match="width 18, num_heads=4"):
        regard.keras.SelfAttention(4)(draw(2, 3, 18))
    with pytest.raises(ShapeError, match=r"even\. Received 3"):
        regard.keras.SelfAttention(4, rotary=True)(draw(2, 3, 12))
