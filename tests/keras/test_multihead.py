from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings

import regard
import regard.keras
from keras_forms import DIM, draw, lengths_lists, numbers, packed, padded, some
from regard._errors import ShapeError


def pair(dim=DIM, context=12, **options):
    """A layer of Keras and ours with its weights."""
    theirs = keras.layers.MultiHeadAttention(4, 6, **options)
    ours = regard.keras.MultiHeadAttention(4, 6, **options)
    for layer in (theirs, ours):
        layer.build((None, None, dim), (None, None, context))
    ours.set_weights(theirs.get_weights())
    return ours, theirs


@pytest.mark.parametrize(
    "options", some([{"sliding_window": 2, "output_shape": 7}, {}, {"use_bias": False}]), ids=str
)
@pytest.mark.parametrize("causal", some([True, False]))
def test_numbers_are_those_of_keras(options, causal):
    ours, theirs = pair(**options)
    query, value = draw(2, 3, DIM), draw(2, 5, 12, seed=1)
    expected = numbers(theirs(query, value, use_causal_mask=causal))
    np.testing.assert_allclose(numbers(ours(query, value, use_causal_mask=causal)), expected, atol=1e-5)


def test_values_may_have_a_size_of_their_own():
    layer = regard.keras.MultiHeadAttention(4, 6, value_dim=5, use_bias=False)
    x = draw(2, 5, DIM)
    found = numbers(layer(x, x))
    query, key, value, output = map(numbers, layer.weights)
    heads = (np.einsum("btd,dhk->bthk", x, kernel) for kernel in (query, key, value))
    np.testing.assert_allclose(found, np.einsum("bthk,hkd->btd", regard.attention(*heads), output), atol=1e-5)


def test_masks_of_keys_values_and_pairs_intersect_as_in_keras():
    ours, theirs = pair()
    query, value = draw(2, 3, DIM), draw(2, 5, 12, seed=1)
    allowed = np.random.default_rng(2).random((2, 3, 5)) < 0.7
    allowed[..., 0] = True
    masks = {
        "value_mask": np.array([[True, True, False, True, False], [True] * 5]),
        "key_mask": np.array([[True] * 5, [True, True, True, False, True]]),
        "attention_mask": allowed,
    }
    np.testing.assert_allclose(
        numbers(ours(query, value, **masks)), numbers(theirs(query, value, **masks)), atol=1e-5
    )


def test_grouped_heads_are_those_of_keras():
    theirs = keras.layers.GroupQueryAttention(6, 4, 2)
    ours = regard.keras.MultiHeadAttention(4, 6, num_key_value_heads=2)
    x = draw(2, 5, DIM)
    theirs.build(x.shape, x.shape)
    ours.build(x.shape, x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(numbers(ours(x, x)), numbers(theirs(x, x)), atol=1e-5)


def test_scores_are_those_of_keras():
    ours, theirs = pair(context=DIM)
    query, value = draw(2, 3, DIM), draw(2, 5, DIM, seed=1)
    out, scores = ours(query, value, return_attention_scores=True)
    expected_out, expected = theirs(query, value, return_attention_scores=True)
    np.testing.assert_allclose(numbers(out), numbers(expected_out), atol=1e-5)
    np.testing.assert_allclose(numbers(scores), numbers(expected), atol=1e-5)


OURS = pair(context=DIM)[0]


@settings(max_examples=10)
@given(lengths=lengths_lists)
def test_padded_and_packed_give_the_same(lengths):
    batch = packed(lengths)
    x, mask = padded(batch)
    expected = numbers(OURS(batch, batch, use_causal_mask=True).values)
    found = numbers(OURS(x, x, query_mask=mask, value_mask=mask, use_causal_mask=True))
    np.testing.assert_allclose(found[mask], expected, atol=1e-5)


def test_causality_holds_with_dropout_scores_and_masks():
    layer, x = regard.keras.MultiHeadAttention(2, 4, dropout=0.5, seed=1), draw(2, 4, DIM)
    later = x.copy()
    later[:, 3] += 5
    layer.build(x.shape, x.shape)
    state = [numbers(variable) for variable in layer.variables]

    def seen(values, **options):
        for variable, value in zip(layer.variables, state, strict=True):
            variable.assign(value)
        found = layer(values, values, use_causal_mask=True, **options)
        return numbers(found[0] if isinstance(found, tuple) else found)[:, :3]

    for options in (
        {"training": True},
        {"return_attention_scores": True},
        {"training": True, "attention_mask": np.ones((2, 4, 4), bool)},
    ):
        np.testing.assert_allclose(seen(x, **options), seen(later, **options), atol=1e-6)


@pytest.mark.parametrize("use_bias", some([True, False]))
@pytest.mark.parametrize("groups", some([2, 4]))
def test_self_and_cross_attention_take_the_weights_of_keras(use_bias, groups):
    if groups == 4:
        source = keras.layers.MultiHeadAttention(4, DIM // 4, use_bias=use_bias)
    else:
        source = keras.layers.GroupQueryAttention(DIM // 4, 4, groups, use_bias=use_bias)
    x = draw(2, 5, DIM)
    source.build(x.shape, x.shape)
    source.set_weights([draw(*weight.shape, seed=seed) for seed, weight in enumerate(source.get_weights())])
    expected = numbers(source(x, x))
    own = regard.keras.SelfAttention(4, num_key_value_heads=groups, use_bias=use_bias)
    other = regard.keras.CrossAttention(4, num_key_value_heads=groups, use_bias=use_bias)
    own.build(x.shape)
    other.build(x.shape, x.shape)
    for layer, inputs in ((own, [x]), (other, [x, x])):
        regard.keras.load_multihead(layer, source)
        np.testing.assert_allclose(numbers(layer(*inputs)), expected, atol=2e-5, rtol=1e-4)


def test_weights_that_do_not_fit_are_refused():
    source, layer = keras.layers.MultiHeadAttention(4, 4), regard.keras.SelfAttention(2, use_bias=True)
    source.build((2, 5, DIM), (2, 5, DIM))
    layer.build((2, 5, DIM))
    with pytest.raises(ShapeError, match=r"2 query heads and 2 key heads\. Received 4 and 4"):
        regard.keras.load_multihead(layer, source)
    plain, turned = regard.keras.SelfAttention(4), regard.keras.SelfAttention(4, rotary=True)
    plain.build((2, 5, DIM))
    with pytest.raises(ShapeError, match=r"expected 4 weights.*Received 8"):
        regard.keras.load_multihead(plain, source)
    with pytest.raises(ShapeError, match="no rotation"):
        regard.keras.load_multihead(turned, source)
    with pytest.raises(ShapeError, match="been built"):
        regard.keras.state_dict(turned)
    with pytest.raises(ShapeError, match=r"Missing: .*'output\.weight'"):
        regard.keras.load_state_dict(plain, {})
    wrong = regard.keras.state_dict(plain) | {"output.weight": np.ones((3, 2))}
    with pytest.raises(ShapeError, match=r"must have the shape \(16, 16\)\. Received \(3, 2\)"):
        regard.keras.load_state_dict(plain, wrong)
