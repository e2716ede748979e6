from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import RegardError, ShapeError
from regard.pictures import merge_pieces_to_words
from regard.pictures._weights import MASKED, STEPS, check_weights


def softmax_weights(*shape, seed=0):
    scores = np.random.default_rng(seed).normal(size=shape)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def words(count):
    return [f"w{i}" for i in range(count)]


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_missing_axes_are_added_in_front(leading):
    checked = check_weights(softmax_weights(*leading, 4, 5), words(4), words(5))
    assert checked.values.shape == (1,) * (2 - len(leading)) + (*leading, 4, 5)


def test_a_tensor_with_gradients_in_bfloat16_is_read():
    weights = torch.full((2, 4), 0.25, dtype=torch.bfloat16, requires_grad=True)
    assert check_weights(weights, words(2), words(4)).values.sum() == 2.0


def test_nothing_to_show_is_no_error():
    assert check_weights(np.zeros((0, 3)), [], words(3)).values.shape == (1, 1, 0, 3)


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        (np.ones(3), {}, ShapeError, r"expected \(layers, heads, queries, keys\).*received shape \(3,\)"),
        (
            np.full((1, 2, 3), 1 / 3),
            {},
            ShapeError,
            "keys do not fit the weights: expected 3 words .*received 2",
        ),
        (
            np.ones((2, 2)),
            {},
            RegardError,
            r"do not sum to one: expected 1, received 2.0000 for query 0 of layer 0, head 0",
        ),
        (np.zeros((2, 2)), {}, RegardError, "pass mask= for queries that see nothing"),
        (np.array([[2.0, -1.0], [0, 1]]), {}, RegardError, "are negative"),
        (np.array([[np.nan, 1.0], [0, 1]]), {}, RegardError, "NaN or infinity"),
        (
            np.eye(2),
            {"mask": np.ones((2, 2))},
            RegardError,
            "expected booleans, True = may attend, received float64",
        ),
        (
            np.eye(2),
            {"mask": np.ones((3, 2), bool)},
            ShapeError,
            r"broadcasts to \(1, 1, 2, 2\), received \(3, 2\)",
        ),
        (
            np.eye(2),
            {"mask": ~np.eye(2, dtype=bool)},
            RegardError,
            "a pair that the mask forbids has weight 1",
        ),
        (np.ones((2, 2)), {"partial": True}, RegardError, "expected at most 1"),
    ],
)
def test_what_no_softmax_gives_is_refused(weights, options, error, message):
    with pytest.raises(error, match=message):
        check_weights(weights, words(2), words(2), **options)


def test_one_string_is_not_a_list_of_words():
    with pytest.raises(ShapeError, match="queries is one string: expected a list of 2 words, received 'ab'"):
        check_weights(np.eye(2), "ab", words(2))


def test_a_query_that_sees_nothing_is_fine_when_the_mask_says_so():
    mask = np.array([[True, True], [False, False]])
    checked = check_weights([[0.5, 0.5], [0.0, 0.0]], words(2), words(2), mask=mask)
    assert checked.visible[0, 0].tolist() == mask.tolist()


def test_partial_rows_are_allowed_on_request():
    check_weights([[0.2, 0.3]], words(1), words(2), partial=True)


def test_encoding_keeps_weights_and_marks_masked_pairs():
    weights = softmax_weights(2, 3, 4, 5) * np.array([1, 1, 1, 1, 0])
    weights /= weights.sum(-1, keepdims=True)
    mask = np.array([True, True, True, True, False])
    codes = np.frombuffer(
        base64.b64decode(check_weights(weights, words(4), words(5), mask=mask).encoded()), np.uint8
    )
    codes = codes.reshape(weights.shape)
    assert (codes[..., 4] == MASKED).all()
    assert (codes[..., :4] <= STEPS).all()
    np.testing.assert_allclose((codes[..., :4] / STEPS) ** 2, weights[..., :4], atol=1 / STEPS)


def test_a_zero_that_is_not_masked_stays_a_zero():
    assert base64.b64decode(check_weights(np.eye(2), words(2), words(2)).encoded()) == bytes(
        [STEPS, 0, 0, STEPS]
    )


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_pooling_keeps_row_sums_and_bounds(queries, keys, max_queries, max_keys):
    pooled = check_weights(softmax_weights(2, queries, keys), words(queries), words(keys)).pooled(
        max_queries, max_keys
    )
    assert len(pooled.queries) <= max_queries
    assert len(pooled.keys) <= max_keys
    assert pooled.values.shape == (1, 2, len(pooled.queries), len(pooled.keys))
    np.testing.assert_allclose(pooled.values.sum(-1), 1.0, atol=1e-5)


def test_pooled_labels_name_the_first_and_the_last():
    pooled = check_weights(softmax_weights(5, 4), words(5), words(4)).pooled(3, 4)
    assert pooled.queries == ["w0 … w1", "w2 … w3", "w4"]
    assert pooled.keys == words(4)
    assert (pooled.query_group, pooled.key_group) == (2, 1)


def test_a_pooled_cell_is_visible_where_any_pair_is():
    mask = np.tril(np.ones((4, 4), bool))
    pooled = check_weights(mask / mask.sum(-1, keepdims=True), words(4), words(4), mask=mask).pooled(2, 2)
    assert pooled.visible[0, 0].tolist() == [[True, False], [True, True]]


def test_pieces_become_words():
    weights = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    by_key = merge_pieces_to_words(weights, [0, 0, 1], "keys")
    np.testing.assert_allclose(by_key, [[0.3, 0.7], [0.6, 0.4], [1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(
        merge_pieces_to_words(by_key, [0, 1, 1], "queries"), [[0.3, 0.7], [0.8, 0.2]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("numbers", "axis", "message"),
    [
        ([0, 0], "keys", r"does not fit the keys: expected 3 numbers, received shape \(2,\)"),
        ([0, 2, 2], "keys", r"skips a word: .* received \[0, 2, 2\]"),
        ([-1, 0, 1], "keys", "skips a word"),
        ([0, 1], "rows", "expected 'keys' or 'queries', received 'rows'"),
    ],
)
def test_word_numbers_that_do_not_fit_are_refused(numbers, axis, message):
    with pytest.raises(RegardError, match=message):
        merge_pieces_to_words(np.eye(3), numbers, axis)
