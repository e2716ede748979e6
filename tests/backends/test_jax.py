"""JAX: under jit with unknown offsets, in both rooms, against the reference; forward-mode, second derivatives, vmap."""

from __future__ import annotations

import contextlib
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
from regard import (
    Alibi,
    Aux,
    Causal,
    Dense,
    DenseBias,
    Documents,
    Global,
    Lengths,
    Packed,
    Prefix,
    RelativeBias,
    Window,
    attention,
    explain,
)
from regard._errors import BackendError, RegardError, ShapeError
from regard.backends import reference
from regard.backends.jax import layout, native

ROOMS = ("native", "tiled")
QUERIES, KEYS, HEADS, KEY_HEADS, SIZE, VALUE_SIZE = 9, 11, 4, 2, 3, 5
NAMES = ("query", "key", "value", "bias", "sinks")


@contextlib.contextmanager
def small_tiles():
    """Cut the work so small that short sequences have many blocks, chunks and turns."""
    with mock.patch.multiple(layout, ROWS=(2, 2), KEYS=(4, 4), SCORES=64):
        yield


def call(form, arrays, where):
    """Output and lse of one of the forms, from differentiable arrays and from what offsets and masks are made of."""
    options = {"return_aux": Aux(lse=True)}
    packing = {"cu_seqlens_q": where["cu_q"], "cu_seqlens_k": where["cu_k"]}
    if form == "plain":
        options |= packing
    elif form == "window":
        options |= packing | {
            "mask": Causal() & Window(2, 1, dilation=2),
            "softcap": 0.8,
            "sinks": arrays["sinks"],
        }
        options |= {"bias": Alibi(arrays["bias"]), "dropout_p": 0.4, "seed": where["seed"], "query_start": 1}
    elif form == "documents":
        mask = Documents(where["queries"], where["keys"]) | ~Prefix(where["prefix"]) | Global((1, 4))
        options |= packing | {"mask": mask, "key_sequence": where["reads"], "query_start": where["start"]}
        options |= {"bias": RelativeBias(arrays["bias"], max_distance=8), "scale": 0.7}
    else:
        options |= {"mask": Dense(where["dense"]) & Lengths(q=where["prefix"], k=where["reads"])}
        options |= {"bias": DenseBias(arrays["bias"]), "sinks": arrays["sinks"]}
    return options


def shapes_of(form):
    leading = (3,) if form == "padded" else ()
    shapes = {
        "query": (*leading, QUERIES, HEADS, SIZE),
        "key": (*leading, KEYS, KEY_HEADS, SIZE),
        "value": (*leading, KEYS, KEY_HEADS, VALUE_SIZE),
    }
    bias = {"window": (HEADS,), "documents": (6, HEADS), "padded": (1, HEADS, QUERIES, KEYS - 1)}.get(form)
    if bias:
        shapes["bias"] = bias
    if form in ("window", "padded"):
        shapes["sinks"] = (HEADS,)
    return shapes


@functools.cache
def program(form, room):
    """Everything of a call, compiled once for all lengths."""

    def everything(arrays, where, ups):
        def run(arrays):
            options = call(form, arrays, where)
            out, aux = attention(*(arrays[name] for name in NAMES[:3]), **options, backend=room)
            return out, aux.lse

        found, pull = jax.vjp(run, arrays)
        return dict(zip(("out", "lse"), found, strict=True)) | pull(ups)[0]

    return jax.jit(everything)


def expected(form, arrays, where, ups):
    """The same by the reference, of the tokens that belong to a sequence."""
    packed = form != "padded"
    ends = (where["cu_q"][-1], where["cu_k"][-1]) if packed else (None, None)
    own = {
        name: array[: ends[name != "query"]] if packed and name in NAMES[:3] else array
        for name, array in arrays.items()
    }
    where = dict(where)
    if packed:
        where |= {"queries": where["queries"][: ends[0]], "keys": where["keys"][: ends[1]]}
    options = call(form, own, where)
    options.pop("return_aux")
    made = cases.call_of(*(own[name] for name in NAMES[:3]), **options)
    given = made.plan, made.query, made.key, made.value, made.bias_array, made.sinks, made.seed
    out, lse = reference.forward(*given)
    up_out, up_lse = (
        up.reshape(-1, *up.shape[up.ndim - rank :])[: ends[0]] for up, rank in zip(ups, (2, 1), strict=True)
    )
    grads = dict(zip(NAMES, reference.backward(*given, out, lse, up_out, up_lse), strict=True))
    if made.bias is not None:
        grads["bias"] = native._bias_gradient(made.bias, made.plan.distances, grads["bias"])
    found = {"out": out, "lse": lse} | {name: grad for name, grad in grads.items() if grad is not None}
    if not packed:
        return {name: found[name].reshape(shape_like(name, arrays, out)) for name in found}
    return {name: padded_to(array, name, arrays) for name, array in found.items()}


def shape_like(name, arrays, out):
    query = arrays["query"].shape
    return {"out": (*query[:-1], out.shape[-1]), "lse": query[:-1]}.get(name) or arrays[name].shape


def padded_to(array, name, arrays):
    """With what tokens past the last offset get: 0, and an lse of -inf."""
    total = len(arrays["query" if name in ("out", "lse") else name])
    rest = np.full((total - len(array), *array.shape[1:]), -np.inf if name == "lse" else 0)
    return np.concatenate([array, rest])


@st.composite
def layouts(draw, form):
    """Lengths with 0 and 1 among them, whose sum may be less than the arrays hold."""

    def lengths(total):
        cuts = sorted(draw(st.lists(st.integers(0, total), min_size=3, max_size=3)))
        return np.array([0, *cuts], np.int64)

    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    where = {
        "cu_q": lengths(QUERIES),
        "cu_k": lengths(KEYS),
        "reads": rng.integers(0, 3, 3),
        "start": rng.integers(-3, 4, 3),
        "prefix": rng.integers(0, 4, 3),
        "queries": rng.integers(0, 2, QUERIES),
        "keys": rng.integers(0, 2, KEYS),
        "dense": rng.random((3, 1, QUERIES, KEYS)) < 0.7,
        "seed": np.int64(draw(st.integers(-(2**63), 2**63 - 1))),
    }
    arrays = {name: rng.normal(size=shape) for name, shape in shapes_of(form).items()}
    if "bias" in arrays and form != "window":
        arrays["bias"][rng.random(arrays["bias"].shape) < 0.2] = -math.inf
    if "sinks" in arrays and draw(st.booleans()):
        arrays["sinks"][0] = -math.inf
    shape = arrays["query"].shape[:-1]
    return arrays, where, (rng.normal(size=(*shape, VALUE_SIZE)), rng.normal(size=shape))


def assert_same(received, wanted, tolerance=1e-12):
    assert set(received) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(
            np.asarray(received[name]), array, atol=tolerance, rtol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("form", ["plain", "window", "documents", "padded"])
def test_programs_equal_the_reference_for_all_lengths_with_gradients(form, room):
    @given(layouts(form))
    def check(drawn):
        with small_tiles():
            assert_same(program(form, room)(*drawn), expected(form, *drawn))

    check()


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_foreign_or_past_the_end_has_no_influence(room, poison):
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(size=shape) for name, shape in shapes_of("plain").items()}
    ups = rng.normal(size=(QUERIES, HEADS, VALUE_SIZE)), rng.normal(size=(QUERIES, HEADS))
    where = {"cu_q": np.array([0, 3, 3, 7]), "cu_k": np.array([0, 4, 6, 9])}
    others = {"reads": 3, "start": 3, "prefix": 3, "queries": QUERIES, "keys": KEYS}
    where |= {name: np.zeros(size, np.int64) for name, size in others.items()}
    where |= {"dense": np.ones((3, 1, QUERIES, KEYS), bool), "seed": np.int64(0)}
    with small_tiles():
        clean = program("plain", room)(arrays, where, ups)
        dirty = {name: array.copy() for name, array in arrays.items()}
        for name, ends in (("query", (3, 7)), ("key", (4, 9)), ("value", (4, 9))):
            dirty[name][: ends[0]] = dirty[name][ends[1] :] = poison
        spoilt = tuple(up.copy() for up in ups)
        for up in spoilt:
            up[:3] = up[7:] = poison
        found = program("plain", room)(dirty, where, spoilt)
    for name in ("out", "lse", "query"):
        np.testing.assert_allclose(found[name][3:7], clean[name][3:7], atol=1e-14)
    for name in ("key", "value"):
        np.testing.assert_allclose(found[name][4:9], clean[name][4:9], atol=1e-14)
    for name in ("out", "query", "key", "value"):
        assert (found[name][9:] == 0).all()


@settings(max_examples=15)
@given(cases.cases(longest=4))
def test_gradients_outside_of_programs_equal_the_reference(case):
    wanted = ("query", "key", "value", *cases.BIASES, "sinks")
    leaves = {name: jnp.asarray(case.arrays[name]) for name in wanted if name in case.arrays}
    options = cases.packed_options(case)

    def run(leaves):
        given = dict(options) | {"bias": cases.bias_of(case, leaves, cases.packed_form(case))}
        if "sinks" in leaves:
            given["sinks"] = leaves["sinks"]
        out, aux = attention(*(leaves[name] for name in NAMES[:3]), **given, return_aux=Aux(lse=True))
        return out, aux.lse

    (out, lse), pull = jax.vjp(run, leaves)
    grads = pull((jnp.asarray(case.arrays["grad_out"]), jnp.asarray(case.arrays["grad_lse"])))[0]
    wanted = {name: array for name, array in cases.expected(case).items() if array is not None}
    assert_same({"out": out, "lse": lse} | grads, wanted)


def simple(room, query, key, value):
    return attention(query, key, value, mask=Causal(), softcap=2.0, backend=room)


def drawn(*leading):
    return [jnp.asarray(array) for array in cases.draw(4, 5, leading=leading)]


def formula(query, key, value):
    """What `simple` computes, dense."""
    key, value = (jnp.repeat(array, 2, axis=1) for array in (key, value))
    scores = 2 * jnp.tanh(jnp.einsum("thd,shd->hts", query, key) / math.sqrt(query.shape[-1]) / 2)
    allowed = jnp.arange(5) <= jnp.arange(4)[:, None] + 1
    return jnp.einsum("hts,shd->thd", jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), -1), value)


def test_forward_mode_and_second_derivatives():
    arrays, along = drawn(), drawn()

    def moved(function):
        return jax.jvp(function, arrays, along)

    def second(function):
        return jax.jvp(
            jax.grad(lambda *arrays: (function(*arrays) ** 2).sum(), argnums=(0, 1, 2)), arrays, along
        )[1]

    ours = functools.partial(simple, None)
    for derivative in (moved, second):
        run = jax.jit(derivative, static_argnums=0)
        for received, wanted in zip(run(ours), run(formula), strict=True):
            np.testing.assert_allclose(received, wanted, atol=1e-11)


@pytest.mark.slow
def test_second_derivatives_backwards():
    arrays = drawn()

    def second(function):
        inner = jax.grad(lambda *arrays: (function(*arrays) ** 2).sum(), argnums=(0, 1, 2))
        return jax.grad(lambda *arrays: sum((grad**2).sum() for grad in inner(*arrays)), argnums=(0, 1, 2))(
            *arrays
        )

    for received, wanted in zip(second(functools.partial(simple, None)), second(formula), strict=True):
        np.testing.assert_allclose(received, wanted, atol=1e-11)


@pytest.mark.parametrize("room", ROOMS)
def test_vmap_is_one_call_after_the_other(room):
    query, key, value = drawn(3)
    run = functools.partial(simple, room)
    found = jax.vmap(run)(query, key, value)
    np.testing.assert_allclose(found, attention(query, key, value, mask=Causal(), softcap=2.0), atol=1e-13)
    shared = jax.vmap(run, in_axes=(0, None, None), out_axes=1)(query, key[0], value[0])
    for n in range(3):
        np.testing.assert_allclose(shared[:, n], run(query[n], key[0], value[0]), atol=1e-13)
    if room == "native":
        sinks = jnp.asarray(cases.RNG.normal(size=(3, 4)))
        each = jax.vmap(lambda query, sinks: attention(query, key[0], value[0], sinks=sinks))(query, sinks)
        for n in range(3):
            np.testing.assert_allclose(
                each[n], attention(query[n], key[0], value[0], sinks=sinks[n]), atol=1e-13
            )
        grads = jax.vmap(jax.grad(lambda *arrays: run(*arrays).sum(), argnums=1))(query, key, value)
        alone = jax.grad(lambda key: run(query[1], key, value[1]).sum())(key[1])
        np.testing.assert_allclose(grads[1], alone, atol=1e-13)


@pytest.mark.parametrize(
    ("room", "dtype"),
    [("native", "float16"), ("native", "bfloat16"), ("native", "float32"), ("tiled", "bfloat16")],
)
def test_the_output_keeps_the_dtype(dtype, room):
    exact = drawn()
    arrays = [array.astype(dtype) for array in exact]
    out, pull = jax.vjp(functools.partial(simple, room), *arrays)
    truth, pull_exact = jax.vjp(formula, *(array.astype("float64") for array in arrays))
    unit = float(jnp.finfo(dtype).eps)
    for received, wanted in zip(
        (out, *pull(jnp.ones_like(out))), (truth, *pull_exact(jnp.ones_like(truth))), strict=True
    ):
        assert received.dtype == dtype
        np.testing.assert_allclose(
            received.astype("float64"), wanted, atol=4 * unit * float(jnp.abs(wanted).max())
        )


def test_without_64_bits_everything_holds():
    with jax.enable_x64(False):
        query, key, value = drawn()
        out = attention(
            query,
            key,
            value,
            mask=Documents([2**31 + 1, 0, 1, 0], [0, 1, 0, 1, 0]),
            dropout_p=0.5,
            seed=2**40 + 3,
        )
        assert out.dtype == jnp.float32
        wanted = attention(
            *map(np.asarray, (query, key, value)),
            mask=Documents([3, 0, 1, 0], [0, 1, 0, 1, 0]),
            dropout_p=0.5,
            seed=2**40 + 3,
        )
        np.testing.assert_allclose(out, wanted, atol=1e-6)
        with pytest.raises(RegardError, match="JAX counts positions in 32 bits"):
            jax.jit(lambda query: attention(query, key, value, query_start=2**31))(query)
        run = jax.jit(lambda query, seed: attention(query, key, value, dropout_p=0.5, seed=seed))
        far = jax.jit(lambda query: attention(query, key, value, dropout_p=0.5, seed=np.int64(2**40 + 3)))(
            query
        )
        np.testing.assert_allclose(
            far, attention(query, key, value, dropout_p=0.5, seed=2**40 + 3), atol=1e-6
        )
        for seed in (7, -7):
            wanted = attention(query, key, value, dropout_p=0.5, seed=seed)
            np.testing.assert_allclose(run(query, jnp.asarray(seed)), wanted, atol=1e-6)


@pytest.mark.parametrize("room", ROOMS)
def test_no_sequence_and_no_key_at_all(room):
    query, key, value = drawn()
    nothing = jax.jit(lambda offsets: attention(query, key, value, cu_seqlens_q=offsets, backend=room))(
        jnp.array([0])
    )
    assert (nothing == 0).all()
    empty = jax.jit(jax.grad(lambda query: attention(query, key[:0], value[:0], backend=room).sum()))(query)
    assert (empty == 0).all()


def test_trees_go_through_programs():
    query, key, value = drawn()
    packed = Packed(query, np.array([0, 1, 4]))
    keys, values = (Packed(array, np.array([0, 2, 5])) for array in (key, value))
    mask = Causal() & Lengths(k=np.array([1, 3])) & Dense(np.ones((2, 1, 4, 5), bool))
    run = jax.jit(lambda *arguments: attention(*arguments[:3], mask=arguments[3], bias=arguments[4]))
    bias = Alibi(jnp.ones(4))
    out = run(packed, keys, values, mask, bias)
    assert isinstance(out, Packed)
    assert isinstance(out.offsets, np.ndarray)
    np.testing.assert_allclose(
        out.values, attention(packed, keys, values, mask=mask, bias=bias).values, atol=1e-13
    )
    assert run._cache_size() == 1
    run(Packed(query, np.array([0, 3, 4])), keys, values, mask, bias)
    assert run._cache_size() == 1
    grad = jax.grad(lambda bias: attention(packed, keys, values, bias=bias).values.sum())(bias)
    assert grad.slopes.shape == (4,)


def test_packed_holds_the_values_that_came():
    values = drawn()[0]
    packed = Packed(values, jnp.asarray([0, 1, 4]))
    assert packed.values is values
    assert packed.offsets.dtype == np.int32
    np.testing.assert_array_equal(packed.to_padded()[0, 1:], 0)
    assert isinstance(packed.to_padded(), jax.Array)
    np.testing.assert_array_equal(Packed.pack(packed.unpack()).values, values)


def test_what_programs_refuse():
    query, key, value = drawn()
    with pytest.raises(RegardError, match="under a tracer, return_aux gives the lse alone"):
        jax.jit(lambda query: attention(query, key, value, return_aux=Aux(topk=1)))(query)
    with pytest.raises(ShapeError, match="must start at 0 and end at the number of tokens"):
        jax.jit(lambda query: attention(query, query[:, :2], value[:4], cu_seqlens_q=np.array([0, 3])))(query)
    with pytest.raises(BackendError, match="'reference' computes numpy arrays, these are jax"):
        jax.jit(lambda query: attention(query, key, value, backend="reference"))(query)
    run = jax.jit(
        lambda offsets: attention(query, key, value, cu_seqlens_q=offsets, cu_seqlens_k=jnp.array([0, 2, 5]))
    )
    with pytest.raises(Exception, match="cu_seqlens_q must end within the array's 4 tokens"):
        run(jnp.array([0, 2, 9])).block_until_ready()


def test_without_the_handler_programs_call_back(monkeypatch):
    monkeypatch.setattr(native, "has_handler", lambda: False)
    query, key, value = drawn()
    run = jax.jit(jax.value_and_grad(lambda *arrays: simple("native", *arrays).sum(), argnums=(0, 1)))
    found, grads = run(query, key, value)
    monkeypatch.undo()
    wanted, wanted_grads = jax.value_and_grad(
        lambda *arrays: simple("native", *arrays).sum(), argnums=(0, 1)
    )(query, key, value)
    np.testing.assert_allclose(found, wanted)
    for received, expected_grad in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(received, expected_grad, atol=1e-14)


def test_explain_says_who_computes_and_how_programs_reach_the_kernel(monkeypatch):
    query, key, value = drawn()
    told = explain(query, key, value, mask=Causal())
    assert told.backend == "native"
    assert told.refusals["reference"] == "computes numpy arrays, these are jax"
    assert told.refusals["tiled"] == "comes after native"
    assert "callback" not in str(told)
    monkeypatch.setattr(native, "has_handler", lambda: False)
    assert "backend: native (in programs by JAX's callback" in str(explain(query, key, value))


def test_what_comes_out_is_where_the_query_is():
    query, key, value = (jax.device_put(array, jax.devices()[0]) for array in drawn())
    for out in (attention(query, key, value), attention(query, key, value, bias=Alibi(np.ones(4)))):
        assert out.committed
        assert out.sharding == query.sharding


def test_calls_that_come_often_are_compiled():
    query, key, value = drawn()
    grad = jax.grad(lambda query: simple(None, query, key, value).sum())
    first = grad(query)
    for _ in range(10):
        np.testing.assert_array_equal(grad(query), first)
