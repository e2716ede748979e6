"""What the operator refuses, and what it says: what is wrong, what was expected, what was received, how to mend it."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from regard import Alibi, Dense, DenseBias, Documents, Lengths, Packed, RelativeBias, _attention, attention
from regard._errors import BackendError, RegardError, ShapeError

Q, K, V = np.ones((5, 2, 3)), np.ones((6, 2, 3)), np.ones((6, 2, 4))
CU = np.array([0, 5])
WRONG = {
    "integers": ({"query": np.ones((5, 2, 3), int)}, RegardError, "query must hold floating-point numbers. Received int64; convert"),
    "booleans": ({"value": np.ones((6, 2, 4), bool)}, RegardError, "value must hold floating-point numbers"),
    "dtypes": ({"query": Q.astype("f4")}, RegardError, "must share one dtype. Received float32, float64 and float64"),
    "frameworks": ({"query": torch.tensor(Q)}, RegardError, "different frameworks; expected one, received numpy and torch"),
    "jax and numpy": ({"query": jnp.asarray(Q)}, RegardError, "different frameworks; expected one, received jax and numpy"),
    "no array": ({"query": [[1.0]]}, RegardError, "cannot attend over list; expected NumPy arrays, PyTorch tensors"),
    "dimensions": ({"query": np.ones((5, 3))}, ShapeError, r"query must have shape \(..., length, heads, size\).*Received shape \(5, 3\)"),
    "head size": ({"query": np.ones((5, 2, 4))}, ShapeError, r"agree in head size. Received 4 \(query \(5, 2, 4\)\) and 3"),
    "key and value": ({"value": np.ones((5, 2, 4))}, ShapeError, r"key and value must agree .* Received \(6, 2, 3\) and \(5, 2, 4\)"),
    "heads": ({"query": np.ones((5, 3, 3))}, ShapeError, "multiple of the key heads. Received 3 query heads and 2 key heads"),
    "leading": ({"query": np.ones((2, 5, 2, 3)), "key": np.ones((3, 6, 2, 3)), "value": np.ones((3, 6, 2, 4))}, ShapeError, "must broadcast"),
    "mixed sinks": ({"sinks": torch.ones(2)}, RegardError, "different frameworks; expected one, received numpy and torch"),
    "mixed bias": ({"bias": jnp.ones((5, 6))}, RegardError, "different frameworks; expected one, received jax and numpy"),
    "mixed slopes": ({"bias": Alibi(tf.ones(2))}, RegardError, "different frameworks; expected one, received numpy and tensorflow"),
    "mixed table": ({"bias": RelativeBias(torch.ones(8, 2))}, RegardError, "different frameworks; expected one, received numpy and torch"),
    "sinks": ({"sinks": np.ones(3)}, ShapeError, r"sinks must have shape \(H,\) = \(2,\). Received \(3,\)"),
    "kind of sinks": ({"sinks": np.ones(2, int)}, RegardError, "sinks must hold floating-point numbers. Received int64; convert it first."),
    "list of sinks": ({"sinks": [1.0, 2.0]}, RegardError, "cannot attend over list; expected NumPy arrays"),
    "no seed": ({"dropout_p": 0.1}, RegardError, "dropout needs a seed. Received dropout_p=0.1"),
    "share": ({"dropout_p": 1.0, "seed": 0}, RegardError, "dropout_p must be at least 0 and below 1. Received 1.0"),
    "negative share": ({"dropout_p": -0.1, "seed": 0}, RegardError, "dropout_p must be at least 0 and below 1"),
    "softcap": ({"softcap": 0.0}, RegardError, "softcap must be positive, or None for no cap. Received 0.0"),
    "float mask": ({"mask": np.ones((5, 6))}, RegardError, "mask must be a Mask or a boolean array.*Received float64; pass numbers .* as bias"),
    "list as a mask": ({"mask": [[True]]}, RegardError, "mask must be a Mask or a boolean array.*Received list; pass"),
    "integer bias": ({"bias": np.ones((5, 6), int)}, ShapeError, "DenseBias needs a floating-point array, got int64; pass a boolean"),
    "sequences of a mask": ({"mask": np.ones((2, 1, 5, 6), bool)}, ShapeError, r"broadcast to \(\) sequences"),
    "sequences of a bias": ({"bias": DenseBias(np.ones((2, 1, 5, 6)))}, ShapeError, "DenseBias needs 1 or 1 sequences, got 2"),
    "heads of a bias": ({"bias": np.ones((3, 5, 6))}, ShapeError, "DenseBias needs 1 or 2 heads, got 3"),
    "heads of slopes": ({"bias": Alibi(np.ones(3))}, ShapeError, "Alibi needs numbers for each of the 2 query heads, got 3"),
    "heads of a mask": ({"mask": Dense(np.ones((3, 5, 6), bool))}, ShapeError, "Dense needs 1 or 2 heads, got 3"),
    "keys' offsets alone": ({"cu_seqlens_k": np.array([0, 6])}, RegardError, "cu_seqlens_k was given without cu_seqlens_q"),
    "key_sequence alone": ({"key_sequence": [0]}, RegardError, "key_sequence was given without cu_seqlens_q"),
    "total": ({"cu_seqlens_q": CU}, ShapeError, r"cu_seqlens_q \(cu_seqlens_k was not given\) must start at 0 and end .* 6. Received"),
    "first": ({"cu_seqlens_q": [1, 5], "cu_seqlens_k": [0, 6]}, ShapeError, "cu_seqlens_q must start at 0 .* first entry of 1"),
    "falling": ({"cu_seqlens_q": [0, 4, 3, 5], "cu_seqlens_k": [0, 1, 2, 6]}, ShapeError, "must never fall. Received 4 before 3"),
    "offsets' kind": ({"cu_seqlens_q": [0.0, 5.0]}, RegardError, "cu_seqlens_q must hold integers"),
    "offsets' shape": ({"cu_seqlens_q": [[0, 5]], "cu_seqlens_k": [0, 6]}, ShapeError, "cu_seqlens_q must be one-dimensional"),
    "counts": ({"cu_seqlens_q": [0, 2, 5], "cu_seqlens_k": [0, 6]}, ShapeError, "equally many sequences. Received 2 and 1; say with key_seq"),
    "reads": ({"cu_seqlens_q": CU, "cu_seqlens_k": [0, 6], "key_sequence": [1]}, ShapeError, r"one of the 1 key sequences .* Received \[1\]"),
    "starts": ({"query_start": [0, 1]}, ShapeError, r"query_start must be one integer or one for each of the 1 sequences"),
    "fractional start": ({"query_start": 0.5}, RegardError, "query_start must hold integers"),
    "lengths": ({"mask": Lengths(k=[7])}, ShapeError, r"Lengths\(k=...\) must lie between 0 and the array's length. Received \[7\]"),
    "documents": ({"mask": Documents(np.zeros(4, int))}, ShapeError, r"Documents\(queries=\) must hold one id per token, 5 in all, got 4"),
    "packed array mask": ({"mask": np.ones((5, 6), bool), "cu_seqlens_q": CU, "cu_seqlens_k": [0, 6]}, RegardError, "packed arrays take a Mask"),
    "packed array bias": ({"bias": np.ones((5, 6)), "cu_seqlens_q": CU, "cu_seqlens_k": [0, 6]}, RegardError, "packed arrays take a Bias"),
    "packed and padded": ({"query": np.ones((1, 5, 2, 3)), "cu_seqlens_q": CU, "cu_seqlens_k": [0, 6]}, ShapeError, "query must be packed"),
    "no kind of backend": ({"backend": "cuda"}, BackendError, "no wanted backend can compute this call: 'cuda' is no backend. Expected one of 'native', "),
    "backend": ({"backend": "tiled"}, BackendError, "no wanted backend can compute this call: 'tiled' computes torch, jax and tensorflow arrays, these are numpy. Expected one of 'native', 'reference'"),
    "backends": ({"backend": ["tiled", "cuda"]}, BackendError, "'tiled' computes torch, jax and tensorflow arrays, these are numpy; 'cuda' is no backend. Expected .*all there are: native, reference, tiled"),
    "no backends": ({"backend": []}, BackendError, "none was named"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong_and_how_to_mend_it(name):
    arguments, kind, message = WRONG[name]
    arguments = {"query": Q, "key": K, "value": V} | arguments
    with pytest.raises(kind, match=message):
        attention(**arguments)


BRING = {"torch": torch.as_tensor, "jax": jnp.asarray, "tensorflow": tf.constant}
ARRAYS = "query", "key", "value", "mask", "bias", "sinks"


class Watch(TorchDispatchMode):
    """Sees every operation, and lets it be done."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        return operation(*arguments, **(options or {}))


def traced(framework, arguments):
    """The call under each framework's own tracer; PyTorch's is one that computes what it sees."""
    arrays = {name: array for name, array in arguments.items() if name in ARRAYS and hasattr(array, "dtype")}
    rest = {name: part for name, part in arguments.items() if name not in arrays}
    if framework == "torch":
        with Watch():
            return attention(**arrays, **rest)
    if framework == "jax":
        return jax.jit(lambda given: attention(**given, **rest))(arrays)
    return tf.function(lambda given: attention(**given, **rest))(arrays)


def brought(framework, arguments):
    """The arrays of a call, those within biases among them, in a framework."""
    bring, found = BRING[framework], {}
    for name, part in arguments.items():
        if name in ARRAYS and isinstance(part, np.ndarray):
            part = bring(part)
        elif isinstance(part, DenseBias):
            part = DenseBias(bring(part.array))
        elif isinstance(part, Alibi):
            part = Alibi(bring(part.slopes))
        found[name] = part
    return found


# What other frameworks say in words of their own, or cannot say.
OWN = {
    "frameworks",
    "jax and numpy",
    "no array",
    "mixed sinks",
    "mixed bias",
    "mixed slopes",
    "mixed table",
    "backend",
    "backends",
}
# What is no error where offsets can't be looked at: what lies past the last one gives 0.
HIDDEN = {"total"}


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("framework", BRING)
@pytest.mark.parametrize("name", sorted(set(WRONG) - OWN))
def test_frameworks_raise_the_same(name, framework, wide):
    arguments, kind, message = WRONG[name]
    with pytest.raises(kind, match=message.replace("'reference'", "'tiled'")):
        attention(**brought(framework, {"query": Q, "key": K, "value": V} | arguments))


@pytest.mark.parametrize("framework", BRING)
@pytest.mark.parametrize("name", sorted(set(WRONG) - OWN - HIDDEN))
def test_tracers_raise_the_same(name, framework, wide):
    arguments, kind, message = WRONG[name]
    with pytest.raises(kind, match=message.replace("'reference'", "'tiled'")):
        traced(framework, brought(framework, {"query": Q, "key": K, "value": V} | arguments))


FRAMEWORKS = {"numpy": np.asarray, **BRING}


@pytest.mark.parametrize("first", FRAMEWORKS)
@pytest.mark.parametrize("second", FRAMEWORKS)
@pytest.mark.parametrize("place", ["key", "value", "bias", "sinks", "slopes"])
def test_arrays_of_two_frameworks_are_refused_whatever_they_are_for(first, second, place, wide):
    bring, other = FRAMEWORKS[first], FRAMEWORKS[second]
    arguments = {name: bring(array) for name, array in (("query", Q), ("key", K), ("value", V))}
    given = {"key": K, "value": V, "bias": np.zeros((5, 6)), "sinks": np.zeros(2), "slopes": np.zeros(2)}[
        place
    ]
    arguments |= {"bias": Alibi(other(given))} if place == "slopes" else {place: other(given)}
    if first == second or (second == "numpy" and place in {"bias", "sinks", "slopes"}):
        out = attention(**arguments)  # numbers of NumPy are constants anywhere
        assert type(out) is type(arguments["query"])
        return
    message = f"received {' and '.join(sorted({first, second}))}. Convert them to one framework first."
    with pytest.raises(RegardError, match=message):
        attention(**arguments)
    if first == "torch":
        with Watch(), pytest.raises(RegardError, match=message):
            attention(**arguments)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_backend_of_others_is_none_of_this_framework(framework, wide):
    arrays = [FRAMEWORKS[framework](array) for array in (Q, K, V)]
    name, others = ("tiled", "torch, jax and tensorflow") if framework == "numpy" else ("reference", "numpy")
    own = "'native', 'reference'" if framework == "numpy" else "'native', 'tiled'"
    message = (
        f"no wanted backend can compute this call: '{name}' computes {others} arrays, these are {framework}; 'cuda' is no backend. "
        rf"Expected one of {own} \(all there are: native, reference, tiled\). Leave backend=None to let regard choose."
    )
    with pytest.raises(BackendError, match=message):
        attention(*arrays, backend=[name, "cuda"])
    if framework != "numpy":
        with pytest.raises(BackendError, match=message):
            traced(framework, dict(zip(ARRAYS[:3], arrays, strict=True)) | {"backend": [name, "cuda"]})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_offsets_of_values_must_be_those_of_keys(framework, wide):
    array, cu = FRAMEWORKS[framework](Q), np.array([0, 2, 5])
    packed, other = Packed(array, cu), Packed(array, [0, 3, 5])
    with Watch() if framework == "torch" else contextlib.nullcontext():
        for arguments in ({"key": packed}, {"key": array}, {"key": array, "cu_seqlens_k": cu}):
            with pytest.raises(ShapeError, match=r"key and value must be packed alike"):
                attention(packed, value=other, **arguments)
    for call in (attention, jax.jit(attention)) if framework == "jax" else (attention,):
        with pytest.raises(RegardError, match=r"value is Packed, and nothing says where the keys"):
            call(array, array, packed)
        with pytest.raises(ShapeError, match=r"must be packed alike"):
            call(packed, packed, Packed(array, [0, 5]))
    if framework == "tensorflow":
        with pytest.raises(ShapeError, match=r"must be packed alike"):
            tf.function(lambda given: attention(packed.with_values(given), packed, other))(array)


def test_offsets_come_from_one_place():
    packed = Packed(Q, [0, 2, 5])
    with pytest.raises(
        RegardError, match=r"cu_seqlens_q was given beside a Packed query, .* Leave cu_seqlens_q out"
    ):
        attention(packed, packed, packed, cu_seqlens_q=[0, 5])
    with pytest.raises(
        RegardError, match=r"cu_seqlens_k was given beside a Packed key, which has its offsets"
    ):
        attention(packed, packed, packed, cu_seqlens_k=[0, 5])


def test_a_backend_may_be_named_and_is_never_replaced(monkeypatch):
    query, key, value = (np.random.default_rng(n).normal(size=(3, 2, 4)) for n in range(3))
    plain = attention(query, key, value, backend="reference")
    np.testing.assert_array_equal(attention(query, key, value, backend=["tiled", "reference"]), plain)
    tensors = [torch.tensor(array) for array in (query, key, value)]
    torch.testing.assert_close(attention(*tensors, backend="tiled").numpy(), plain)
    message = "'reference' computes numpy arrays, these are torch. Expected one of 'native', 'tiled'"
    with pytest.raises(BackendError, match=message):
        attention(*tensors, backend="reference")
    monkeypatch.setattr(_attention, "kernel", lambda: None)
    with pytest.raises(
        BackendError, match="'native' was not built when the package was installed; install it"
    ):
        attention(*tensors, backend="native")
    torch.testing.assert_close(attention(*tensors, backend=["native", "tiled"]).numpy(), plain)
