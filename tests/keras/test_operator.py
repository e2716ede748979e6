from __future__ import annotations

import keras
import numpy as np
import pytest

import regard
import regard.compat.keras as compat
from keras_forms import draw, numbers, some
from regard._errors import BackendError, ShapeError

OURS, THEIRS = compat.dot_product_attention, keras.ops.dot_product_attention
BIAS = draw(2, 4, 3, 5, seed=3)
MASK = np.random.default_rng(4).random((2, 1, 3, 5)) < 0.7
MASK[..., 0] = True


def arrays(value_dim=8, heads=4):
    return draw(2, 3, 4, 8), draw(2, 5, heads, 8, seed=1), draw(2, 5, heads, value_dim, seed=2)


@pytest.mark.parametrize(
    "options",
    some(
        [
            {},
            {"is_causal": True},
            {"bias": BIAS},
            {"bias": BIAS[:1, :1]},
            {"mask": MASK},
            {"mask": MASK[0, 0], "scale": 0.5},
            {"mask": MASK, "is_causal": True, "flash_attention": False},
        ],
        3,
        6,
    ),
    ids=lambda options: "+".join(options) or "plain",
)
def test_numbers_are_those_of_keras(options):
    if "bias" in options:  # which PyTorch wants whole
        theirs = options | {"bias": np.broadcast_to(options["bias"], BIAS.shape).copy()}
    else:
        theirs = options
    np.testing.assert_allclose(
        numbers(OURS(*arrays(), **options)), numbers(THEIRS(*arrays(), **theirs)), atol=1e-5
    )


@pytest.mark.everywhere
def test_bias_mask_and_causality_intersect():
    q, k, v = arrays(heads=2)
    allowed = MASK & np.tril(np.ones((3, 5), bool))
    expected = regard.attention(q, k, v, mask=allowed, bias=BIAS, softcap=2.0)
    found = OURS(q, k, v, bias=BIAS, mask=MASK, is_causal=True, attn_logits_soft_cap=2.0)
    np.testing.assert_allclose(numbers(found), expected, atol=1e-5)


@pytest.mark.everywhere
def test_a_query_that_sees_nothing_gives_zero():
    nothing = MASK.copy()
    nothing[:, :, 1] = False
    found = numbers(OURS(*arrays(), mask=nothing))
    assert (found[:, 1] == 0).all()
    assert np.isfinite(found).all()


def test_dtypes_are_joined_and_values_may_have_a_size_of_their_own():
    q, k, v = arrays(value_dim=3, heads=2)
    found = OURS(q.astype(np.float16), k, v)
    assert tuple(found.shape) == (2, 3, 4, 3)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"


def test_masks_and_biases_of_regard_are_taken():
    q, k, v = arrays()
    bias = regard.Alibi(np.array([0.5, 0.25, 0.1, 0.0]))
    expected = regard.attention(q, k, v, mask=regard.Window(1), bias=bias, query_start=0)
    np.testing.assert_allclose(numbers(OURS(q, k, v, mask=regard.Window(1), bias=bias)), expected, atol=1e-5)


def test_arrays_of_other_ranks_are_refused():
    with pytest.raises(ShapeError, match="four dimensions"):
        OURS(*(array[0] for array in arrays()))


def test_symbolic_tensors_make_a_model_that_is_saved(tmp_path):
    query, key = keras.Input((3, 4, 8)), keras.Input((5, 4, 8))
    out = OURS(query, key, key, is_causal=True, scale=0.5)
    assert out.shape == (None, 3, 4, 8)
    model = keras.Model([query, key], out)
    model.save(tmp_path / "model.keras")
    q, k, _ = arrays()
    expected = numbers(THEIRS(q, k, k, is_causal=True, scale=0.5))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numbers(loaded([q, k])), expected, atol=1e-5)


@pytest.mark.everywhere
def test_it_stands_behind_the_layers_of_keras_until_it_leaves(monkeypatch):
    from keras.src import backend

    own = backend.nn.dot_product_attention
    layer, x = keras.layers.MultiHeadAttention(4, 8), draw(2, 5, 8)
    expected = numbers(layer(x, x, use_causal_mask=True))
    with compat.installed():
        assert backend.nn.dot_product_attention is compat.dot_product_attention
        compat.install()  # a second time changes nothing
        np.testing.assert_allclose(numbers(layer(x, x, use_causal_mask=True)), expected, atol=1e-5)
        with compat.installed():
            pass
        assert backend.nn.dot_product_attention is compat.dot_product_attention
    assert backend.nn.dot_product_attention is own
    compat.uninstall()  # nothing is there to take away
    assert backend.nn.dot_product_attention is own
    monkeypatch.delattr(backend.nn, "dot_product_attention")
    with pytest.raises(BackendError, match="does not hold dot_product_attention"):
        compat.install()
