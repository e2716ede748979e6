"""TensorFlow: eager, in graphs and under XLA, against the reference; what graphs can't know, and forms of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

import cases
import ways
from regard import (
    Alibi,
    Aux,
    Causal,
    Lengths,
    Packed,
    Window,
    attention,
    explain,
    merge,
)
from regard._choice import BACKENDS
from regard._errors import BackendError, RegardError, ShapeError
from regard.backends import native
from regard.backends.tensorflow import exchange, function

RNG = np.random.default_rng(0)
ARRAYS = ("query", "key", "value", *cases.BIASES, "sinks")


def drawn(*shape):
    return tf.constant(RNG.normal(size=shape))


def differentiated(call, leaves, ups):
    """What a call of leaves gives, and their gradients."""
    with tf.GradientTape() as tape:
        for leaf in leaves:
            tape.watch(leaf)
        outs = call(*leaves)
    grads = tape.gradient(outs, leaves, ups)
    return [
        *outs,
        *(
            tf.zeros_like(leaf) if grad is None else tf.convert_to_tensor(grad)
            for grad, leaf in zip(grads, leaves, strict=True)
        ),
    ]


def packed_call(case, *, hidden=False, backend=None, wrap=lambda function: function):
    """Output, lse and gradients of the packed call; `hidden`: its layout comes as tensors, which a graph can't look at."""
    leaves = {name: tf.constant(case.arrays[name]) for name in ARRAYS if name in case.arrays}
    form = cases.packed_form(case)
    options = cases.packed_options(case)
    names = ("cu_seqlens_q", "cu_seqlens_k", "key_sequence", "query_start")
    layout = {
        name: tf.constant(options[name]) for name in names if hidden and isinstance(options[name], np.ndarray)
    }

    def whole(leaves, layout):
        def call(*given):
            found = dict(zip(leaves, given, strict=True))
            rest = options | layout | {"bias": cases.bias_of(case, found, form), "sinks": found.get("sinks")}
            arrays = (found[name] for name in ("query", "key", "value"))
            out, aux = attention(*arrays, **rest, return_aux=Aux(lse=True), backend=backend)
            return out, aux.lse

        return differentiated(
            call, list(leaves.values()), [tf.constant(case.arrays[name]) for name in ("grad_out", "grad_lse")]
        )

    return dict(zip(("out", "lse", *leaves), wrap(whole)(leaves, layout), strict=True))


def check(case, **how):
    expected = cases.expected(case)
    for name, array in packed_call(case, **how).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-9, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS["tensorflow"])
@given(case=cases.cases())
def test_eager_calls_and_gradients(backend, case):
    check(case, backend=backend)


@settings(max_examples=10)
@given(case=cases.cases())
def test_many_tiles(case):
    with ways.small_tiles(2, 4, 16):
        check(case, backend="tiled")


@settings(max_examples=5)
@given(case=cases.cases())
def test_the_kernel_in_graphs(case):
    check(case, hidden=True, wrap=tf.function)


CASES = {
    "everything": {
        "mask": ("or", ("causal",), ("prefix", 1)), "sinks": (4,), "bias": (3, 4, 3, 4), "dropout_p": 0.3, "softcap": 1.3,
        "reads": [1, 1, 2],
    },
    "by distance": {"mask": ("and", ("window", 2, 1, 1), ("lengths", None, [3, 1, 0])), "slopes": (4,), "query_start": -1},
    "arrays": {"mask": ("or", ("documents", [0, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1, 0]), ("dense", [[True, False, True]]))},
}  # fmt: skip


def case_of(mask=None, reads=(0, 1, 2), query_start=None, dropout_p=0.0, softcap=None, **shapes):
    """Three sequences, an empty one among them."""
    shapes = {
        "query": (5, 4, 2),
        "key": (7, 2, 2),
        "value": (7, 2, 3),
        "grad_out": (5, 4, 3),
        "grad_lse": (5, 4),
    } | shapes
    arrays = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
    options = {"dropout_p": dropout_p, "seed": 2**63 - 7, "softcap": softcap, "scale": None}
    lengths = np.array([3, 0, 2]), np.array([4, 1, 2])
    return cases.Case(
        *lengths, np.array(reads), arrays, _arrays_in(mask), query_start, options, {"max_distance": 4}
    )


def _arrays_in(tree):
    if isinstance(tree, tuple) and tree[:1] != ("window",):
        return tuple(map(_arrays_in, tree))
    return np.array(tree) if isinstance(tree, list) else tree


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("hidden", [False, True])
def test_tiles_in_graphs(name, hidden):
    with ways.small_tiles(2, 4, 64) if name == "everything" else ways.small_tiles(8, 8, 512):
        check(case_of(**CASES[name]), hidden=hidden, backend="tiled", wrap=tf.function)


@pytest.mark.parametrize(("name", "hidden"), [("everything", True), ("by distance", False)])
def test_xla(name, hidden):
    check(
        case_of(**CASES[name]), hidden=hidden, wrap=lambda function: tf.function(function, jit_compile=True)
    )


# What a graph does not know.


def poisoned(rows, lengths):
    """Padded arrays whose padding is NaN."""
    real = np.arange(rows.shape[1]) < np.array(lengths)[:, None]
    return tf.constant(np.where(real[..., None, None], rows, math.nan))


@pytest.mark.parametrize("way", ["native", "tiled", "graph", "tiled graph", "xla"])
def test_padding_that_is_no_number_has_no_influence(way):
    rows, lengths = RNG.normal(size=(3, 4, 2, 2)), [4, 0, 1]
    up = poisoned(RNG.normal(size=rows.shape), lengths)
    backend = {"native": "native", "tiled": "tiled", "tiled graph": "tiled"}.get(way)

    def call(array, lengths):
        return differentiated(
            lambda x: [attention(x, x, x, mask=Causal() & Lengths(q=lengths, k=lengths), backend=backend)],
            [array],
            [up],
        )

    run = {
        "graph": tf.function,
        "tiled graph": tf.function,
        "xla": lambda f: tf.function(f, jit_compile=True),
    }.get(way, lambda f: f)
    out, grad = run(call)(poisoned(rows, lengths), tf.constant(lengths))
    assert np.isfinite(out).all()
    assert (out.numpy()[1] == 0).all()
    assert (out.numpy()[2, 1:] == 0).all()
    assert np.isfinite(grad.numpy()[0]).all()
    assert (np.nan_to_num(grad.numpy(), nan=0.0)[1] == 0).all()
    clean = tf.constant(np.nan_to_num(poisoned(rows, lengths).numpy()))
    up = tf.constant(np.nan_to_num(up.numpy()))
    expected = call(clean, lengths)
    for received, wanted in zip((out, grad), expected, strict=True):
        np.testing.assert_allclose(received, wanted, atol=1e-12)


def test_a_key_that_is_no_number_is_met_by_those_who_see_it_alone():
    x = RNG.normal(size=(5, 1, 2))
    x[3] = math.inf
    for backend in BACKENDS["tensorflow"]:
        same = tf.ones((5, 1, 2), tf.float64)
        out = attention(same, same, tf.constant(x), mask=Window(1, 0), backend=backend)
        assert np.isfinite(out[:3]).all()
        assert (out.numpy()[3:] == math.inf).all()


@pytest.mark.parametrize("backend", BACKENDS["tensorflow"])
def test_unknown_shapes(backend):
    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 4, 2], tf.float64)]
        + [tf.TensorSpec([None, None, 2, 2], tf.float64)] * 2
    )
    def call(query, key, value):
        return attention(query, key, value, mask=Causal(), backend=backend)

    for rows, keys in ((3, 4), (1, 1), (0, 3), (3, 0)):
        arrays = cases.draw(rows, keys, size=2, out_size=2, leading=(2,))
        np.testing.assert_allclose(
            call(*arrays), attention(*arrays, mask=Causal(), backend="reference"), atol=1e-12
        )


@pytest.mark.parametrize("wrap", [tf.function, lambda f: tf.function(f, jit_compile=True)])
def test_tokens_past_the_last_offset_give_zero(wrap):
    query = drawn(6, 2, 3)
    offsets = tf.constant([0, 2, 4])
    out = wrap(lambda query, offsets: attention(query, query, query, cu_seqlens_q=offsets))(query, offsets)
    np.testing.assert_allclose(
        out[:4], attention(query[:4], query[:4], query[:4], cu_seqlens_q=offsets), atol=1e-12
    )
    assert (out.numpy()[4:] == 0).all()


def test_leading_dimensions_broadcast_in_graphs():
    query, key = drawn(2, 1, 3, 2, 4), drawn(5, 4, 2, 4)
    mask, bias = tf.constant(RNG.random((5, 1, 3, 4)) < 0.7), drawn(2, 5, 2, 3, 4)
    expected = attention(query, key, key, mask=mask, bias=bias)
    for backend in BACKENDS["tensorflow"]:
        run = tf.function(
            lambda *given, backend=backend: attention(
                *given[:3], mask=given[3], bias=given[4], backend=backend
            )
        )
        np.testing.assert_allclose(run(query, key, key, mask, bias), expected, atol=1e-12)


# Numbers.


EPSILON = {tf.float16: 2**-10, tf.bfloat16: 2**-7, tf.float32: 2**-23}


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("backend", BACKENDS["tensorflow"])
def test_narrow_numbers_are_computed_in_wide_ones(backend, dtype):
    exact = [tf.cast(tf.constant(array), dtype) for array in cases.draw(20, 24, size=8, out_size=8)]
    up = tf.cast(drawn(20, 4, 8), dtype)
    found = differentiated(lambda *arrays: [attention(*arrays, mask=Causal(), backend=backend)], exact, [up])
    assert {array.dtype for array in found} == {dtype}
    wide = differentiated(
        lambda *arrays: [attention(*arrays, mask=Causal())],
        [tf.cast(array, tf.float64) for array in exact],
        [tf.cast(up, tf.float64)],
    )
    for received, wanted in zip(found, wide, strict=True):
        error = np.abs(tf.cast(received, tf.float64) - wanted).max()
        assert error <= 4 * EPSILON[dtype] * np.abs(wanted).max()


def test_dropout_is_that_of_every_framework():
    arrays = cases.draw(9, 11)
    options = {"dropout_p": 0.5, "seed": -5}
    expected = attention(*arrays, **options)
    tensors = [tf.constant(array) for array in arrays]
    for backend in BACKENDS["tensorflow"]:
        np.testing.assert_allclose(attention(*tensors, **options, backend=backend), expected, atol=1e-12)
        run = tf.function(
            lambda seed, backend=backend: attention(*tensors, dropout_p=0.5, seed=seed, backend=backend)
        )
        np.testing.assert_allclose(run(tf.constant(-5, tf.int64)), expected, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS["tensorflow"])
def test_second_derivatives(backend):
    query, key = drawn(3, 2, 2), drawn(4, 1, 2)

    def by_hand(query, key):
        scores = tf.einsum("thd,sd->hts", query, key[:, 0]) * 2**-0.5
        return tf.einsum("hts,sd->thd", tf.nn.softmax(scores), key[:, 0])

    def second(call):
        with tf.GradientTape() as outer:
            outer.watch((query, key))
            with tf.GradientTape() as inner:
                inner.watch(query)
                out = tf.reduce_sum(call(query, key) ** 2)
            first = inner.gradient(out, query)
        return outer.gradient(first, (query, key))

    received = second(lambda query, key: attention(query, key, key, backend=backend))
    for one, other in zip(received, second(by_hand), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_second_derivatives_in_graphs():
    x = drawn(3, 2, 2)

    def second(x, backend):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                out = tf.reduce_sum(attention(x, x, x, backend=backend) ** 2)
            first = inner.gradient(out, x)
        return outer.gradient(first, x)

    traced = tf.function(second, autograph=False)
    np.testing.assert_allclose(traced(x, "tiled"), second(x, "native"), atol=1e-10)
    with pytest.raises(RegardError, match="no second derivatives in a graph"):
        traced(x, "native")


def test_forward_mode():
    x = drawn(3, 2, 2)
    for backend in BACKENDS["tensorflow"]:
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as along:
            out = attention(x, x, x, backend=backend)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            again = attention(x, x, x, backend="tiled")
        columns = tape.jacobian(again, x, experimental_use_pfor=False)
        np.testing.assert_allclose(along.jvp(out), tf.reduce_sum(columns, (3, 4, 5)), atol=1e-10)


def test_shapes_of_masks_and_biases_may_be_unknown():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 2, 4], tf.float64),
            tf.TensorSpec([None, None, None, None], tf.bool),
            tf.TensorSpec([None, 2, None, None], tf.float64),
        ]
    )
    def call(x, mask, bias):
        return [attention(x, x, x, mask=mask, bias=bias, backend=name) for name in BACKENDS["tensorflow"]]

    x = RNG.normal(size=(2, 5, 2, 4))
    for shape in ((2, 1, 5, 5), (1, 1, 5, 5), (2, 2, 1, 5)):
        mask, bias = RNG.random(shape) < 0.6, RNG.normal(size=(1, 2, 5, 5))
        for out in call(x, mask, bias):
            np.testing.assert_allclose(out, attention(x, x, x, mask=mask, bias=bias), atol=1e-12)


def test_arrays_are_read_and_written_where_they_lie():
    array = exchange.empty((3, 5), np.float32)
    array[:] = 1
    tensor = exchange.tensor(array)
    assert np.shares_memory(exchange.view(tensor), array)
    assert array.__array_interface__["data"][0] % 64 == 0
    narrow = tf.cast(tensor, tf.bfloat16)
    assert exchange.tensor(exchange.view(narrow)).dtype == tf.bfloat16
    assert exchange.tensor(np.zeros((0, 3))).shape == (0, 3)


def test_memory_grows_with_the_length_alone():
    """The largest tensor of a graph's tiles, at twice the length, is at most twice as large."""
    largest = []
    for length in (4096, 8192):
        x = tf.zeros((length, 2, 8))
        graph = tf.function(lambda x: attention(x, x, x, backend="tiled")).get_concrete_function(x).graph
        functions = [
            graph,
            *(
                graph._get_function(name).graph
                for name in graph._functions
                if graph._get_function(name).graph is not None
            ),
        ]
        shapes = [
            t.shape.num_elements() or 0 for g in functions for op in g.get_operations() for t in op.outputs
        ]
        largest.append(max(shapes))
    assert largest[1] <= 2 * largest[0]


# Forms of its own.


def test_variables_and_ragged_tensors():
    x = drawn(5, 2, 3)
    ragged = tf.RaggedTensor.from_row_lengths(x, [3, 0, 2])
    expected = attention(Packed(x, [0, 3, 3, 5]), x, x, cu_seqlens_k=[0, 3, 3, 5], mask=Causal())
    out = attention(ragged, ragged, ragged, mask=Causal())
    assert isinstance(out, tf.RaggedTensor)
    assert out.row_lengths().numpy().tolist() == [3, 0, 2]
    np.testing.assert_allclose(out.values, expected.values)
    graph = tf.function(lambda ragged: attention(ragged, ragged, ragged, mask=Causal()))(ragged)
    np.testing.assert_allclose(graph.values, expected.values)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        attended = attention(variable, variable, variable)
    assert tape.gradient(attended, variable).shape == x.shape
    with pytest.raises(RegardError, match="ragged along its lengths alone"):
        attention(tf.ragged.constant([[[1.0]], []]), x, x)


def test_packed_over_tensors():
    ragged = tf.RaggedTensor.from_row_lengths(drawn(5, 2, 3), [3, 0, 2])
    packed = Packed.of(ragged)
    assert packed.values is ragged.values
    assert packed.offsets.tolist() == [0, 3, 3, 5]
    padded = packed.to_padded(fill=7)
    assert padded.shape == (3, 3, 2, 3)
    assert (padded.numpy()[1] == 7).all()
    again = Packed.from_padded(padded, packed.lengths)
    np.testing.assert_array_equal(again.values, packed.values)

    @tf.function
    def call(packed):
        return attention(packed, packed, packed, mask=Causal())

    out = call(packed)
    assert isinstance(out, Packed)
    assert out.offsets.tolist() == [0, 3, 3, 5]
    np.testing.assert_allclose(out.values, attention(packed, packed, packed, mask=Causal()).values)


def test_parts_join_with_gradients():
    query, key = drawn(3, 2, 4), drawn(6, 2, 4)

    def parts(query):
        found = [attention(query, some, some, return_aux=Aux(lse=True)) for some in (key[:2], key[2:])]
        return merge(*((out, aux.lse) for out, aux in found))

    def whole(query):
        out, aux = attention(query, key, key, return_aux=Aux(lse=True))
        return out, aux.lse

    ups = [drawn(3, 2, 4), drawn(3, 2)]
    for one, other in zip(*(differentiated(call, [query], ups) for call in (parts, whole)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_tiny_calls_of_graphs_stay_in_them():
    def called(length):
        x = tf.zeros((1, length, 2, 4))
        graph = tf.function(lambda x: attention(x, x, x)).get_concrete_function(x).graph
        return any("PyFunc" in operation.type for operation in graph.get_operations())

    assert not called(5)
    assert called(100)


def test_explain_and_refusals():
    x = tf.zeros((2, 10, 4, 16))
    found = explain(x, x, x, mask=Causal())
    assert (found.backend, found.pairs) == ("native", 2 * 4 * 55)
    assert found.refusals["tiled"] == "comes after native"
    with pytest.raises(BackendError, match="'reference' computes numpy arrays, these are tensorflow"):
        attention(x, x, x, backend="reference")
    with pytest.raises(BackendError, match="'native' can't be called from what XLA compiles"):
        tf.function(lambda x: attention(x, x, x, backend="native"), jit_compile=True, autograph=False)(x)
    with pytest.raises(
        RegardError, match="different frameworks; expected one, received numpy and tensorflow"
    ):
        attention(x, x, np.zeros((2, 10, 4, 16), np.float32))


def test_graphs_say_what_they_cannot_do():
    x, packed = tf.zeros((2, 3, 1, 4)), tf.zeros((6, 1, 4))

    def traced(call, *signature):
        tf.function(call, input_signature=signature, autograph=False).get_concrete_function()

    with pytest.raises(ShapeError, match="known number of dimensions"):
        traced(lambda x: attention(x, x, x), tf.TensorSpec(None))
    with pytest.raises(RegardError, match="the lse alone"):
        tf.function(lambda x: attention(x, x, x, return_aux=Aux(topk=1)), autograph=False)(x)
    with pytest.raises(RegardError, match="dropout needs a seed"):
        tf.function(lambda x: attention(x, x, x, dropout_p=0.5), autograph=False)(x)
    with pytest.raises(RegardError, match="most distances that there can be"):
        traced(
            lambda x, offsets: attention(x, x, x, cu_seqlens_q=offsets, bias=Alibi(tf.zeros(1)), backend="tiled"),
            tf.TensorSpec([None, 1, 4]), tf.TensorSpec([None], tf.int32),
        )  # fmt: skip
    with pytest.raises(RegardError, match="must share one dtype"):
        tf.function(lambda x: attention(x, x, tf.cast(x, tf.float64)), autograph=False)(x)
    with pytest.raises(Exception, match="dropout needs a seed"):  # as AutoGraph tells it
        tf.function(lambda x: attention(x, x, x, dropout_p=0.5))(x)
    with pytest.raises(tf.errors.OpError, match="must end within the array's 6 tokens"):
        tf.function(lambda x, offsets: attention(x, x, x, cu_seqlens_q=offsets))(packed, tf.constant([0, 7]))


def test_without_the_kernel_tiles_serve(monkeypatch):
    monkeypatch.setattr("regard._attention.kernel", lambda: None)
    monkeypatch.setattr("regard._entries.tensorflow_graph.kernel", lambda: None)
    monkeypatch.setattr(native, "forward", None)
    x = drawn(4, 2, 3)
    expected = attention(x.numpy(), x.numpy(), x.numpy(), backend="reference")
    np.testing.assert_allclose(attention(x, x, x), expected)
    np.testing.assert_allclose(tf.function(lambda x: attention(x, x, x))(x), expected)


def test_where_tensorflow_tells_nothing_about_tapes_gradients_are_recorded(monkeypatch):
    monkeypatch.setattr(exchange, "_recording", lambda: None)
    x = drawn(4, 2, 3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = attention(x, x, x)
    received = tape.gradient(out, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out, _ = function.attend(*_plan_and_arrays(x))
    np.testing.assert_allclose(received, tape.gradient(out, x), atol=1e-12)


def _plan_and_arrays(x):
    array = x.numpy()
    return cases.call_of(array, array, array).plan, (x, x, x, None, None), None
