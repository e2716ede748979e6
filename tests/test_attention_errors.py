"""What the operator refuses, and what it says: what is wrong, what was expected, what was received, how to mend it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from regard import Alibi, Dense, DenseBias, Documents, Lengths, Packed, _attention, attention
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
    "sinks": ({"sinks": np.ones(3)}, ShapeError, r"sinks must have shape \(H,\) = \(2,\). Received \(3,\)"),
    "no seed": ({"dropout_p": 0.1}, RegardError, "dropout needs a seed. Received dropout_p=0.1"),
    "share": ({"dropout_p": 1.0, "seed": 0}, RegardError, "dropout_p must be at least 0 and below 1. Received 1.0"),
    "negative share": ({"dropout_p": -0.1, "seed": 0}, RegardError, "dropout_p must be at least 0 and below 1"),
    "softcap": ({"softcap": 0.0}, RegardError, "softcap must be positive, or None for no cap. Received 0.0"),
    "float mask": ({"mask": np.ones((5, 6))}, RegardError, "mask must be a Mask or a boolean array.*as bias"),
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


@pytest.mark.parametrize("bring", [torch.tensor, jnp.asarray], ids=["torch", "jax"])
@pytest.mark.parametrize("name", ["head size", "no seed", "float mask", "total", "heads", "sinks", "lengths"])
def test_frameworks_raise_the_same(name, bring):
    arguments, kind, message = WRONG[name]
    arguments = {"query": Q, "key": K, "value": V} | arguments
    arrays = ("query", "key", "value", "mask", "bias", "sinks")
    arguments = {
        n: bring(a) if n in arrays and isinstance(a, np.ndarray) else a for n, a in arguments.items()
    }
    with pytest.raises(kind, match=message):
        attention(**arguments)


def test_offsets_of_values_must_be_those_of_keys():
    query, key, value = (Q, Q, Q)
    cu = np.array([0, 2, 5])
    with pytest.raises(ShapeError):
        attention(Packed(query, cu), Packed(key, cu), Packed(value, np.array([0, 3, 5])))


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
