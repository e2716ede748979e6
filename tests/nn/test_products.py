"""The kernel's matrix products against NumPy in float64, on every instruction set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ways
from regard._lowering import kernel
from regard.nn._products import new_product, product

pytestmark = pytest.mark.skipif(kernel() is None, reason="there is no kernel")

SIZES = st.sampled_from([0, 1, 2, 3, 5, 6, 7, 15, 16, 17, 31, 33, 64, 65, 97, 130, 290, 450])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


def matrix(rows, columns, dtype, layout, seed):
    """Rows or columns of memory that stand together, or numbers that do not, as a part of something larger."""
    torch.manual_seed(seed)
    if layout == "columns":
        return torch.randn(columns, rows + 3).to(dtype)[:, 1 : rows + 1].mT
    if layout == "apart":
        return torch.randn(rows, 2 * columns).to(dtype)[:, ::2]
    return torch.randn(rows, columns + 3).to(dtype)[:, 2 : columns + 2]


LAYOUTS = st.sampled_from(["rows", "columns", "apart"])


@given(
    sizes=st.tuples(SIZES, SIZES, SIZES), dtypes=st.tuples(DTYPES, DTYPES, DTYPES), layouts=st.tuples(LAYOUTS, LAYOUTS),
    rounds=st.booleans(), add=st.booleans(), way=st.sampled_from(ways.INSTRUCTION_SETS), seed=st.integers(0, 99),
)  # fmt: skip
def test_products_are_those_of_float64(sizes, dtypes, layouts, rounds, add, way, seed):
    rows, depth, columns = sizes
    a = matrix(rows, depth, dtypes[0], layouts[0], seed)
    b = matrix(depth, columns, dtypes[1], layouts[1], seed + 1)
    add = add and dtypes[2] == torch.float32
    room = torch.full((rows, columns + 2), 7.0, dtype=dtypes[2])
    with ways.used(way):
        out = product(a, b, room[:, 1:-1], add=add, rounds=rounds)
    if rounds:
        a, b = a.bfloat16(), b.bfloat16()
    a, b = a.double().numpy(), b.double().numpy()
    expected, scale = a @ b + 7 * add, np.abs(a) @ np.abs(b) + 7
    error = np.abs(out.double().numpy() - expected)
    digits = 1e-6 * scale if dtypes[2] == torch.float32 else 2.0**-8 * np.abs(expected) + 1e-6 * scale
    assert (error <= digits).all()
    assert (room[:, 0] == 7).all()  # what stands beside is left alone
    assert (room[:, -1] == 7).all()


@pytest.mark.parametrize("way", ways.INSTRUCTION_SETS)
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("columns", [192, 200])  # whole panels, and one that is not
def test_neither_threads_nor_other_rows_change_a_bit(way, rounds, columns, monkeypatch):
    torch.manual_seed(0)
    a, b, start = torch.randn(301, 170), torch.randn(170, columns), torch.randn(301, columns)

    def added(rows: slice) -> torch.Tensor:
        return product(a[rows], b, start[rows].clone(), add=True, rounds=rounds)

    with ways.used(way):
        found = []
        for count in (1, 2, 5):
            monkeypatch.setenv("REGARD_NUM_THREADS", str(count))
            found.append((new_product(a, b, torch.float32, rounds=rounds), added(slice(None))))
        assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))
        for begin, end in itertools.pairwise([0, 1, 8, 107, 301]):
            part = new_product(a[begin:end], b, torch.float32, rounds=rounds)
            assert torch.equal(part, found[0][0][begin:end])
            assert torch.equal(added(slice(begin, end)), found[0][1][begin:end])


@pytest.mark.parametrize("way", ways.INSTRUCTION_SETS)
@pytest.mark.parametrize("rounds", [False, True])
def test_nan_and_infinity_stay_in_their_rows(way, rounds):
    a, b = torch.ones(20, 9), torch.ones(9, 33)
    a[3, 8], a[5, 0] = torch.nan, torch.inf
    with ways.used(way):
        out = new_product(a, b, torch.bfloat16, rounds=rounds)
    assert out[3].isnan().all()
    assert out[5].isposinf().all()
    assert (out[[0, 1, 2, 4, *range(6, 20)]] == 9).all()


def test_broken_calls_are_refused():
    numbers = torch.zeros(6)
    side = (numbers.data_ptr(), 4, 2, False)
    good = {
        "rows": 2, "columns": 2, "depth": 2, "a": side, "b": side, "out": numbers.data_ptr(), "out_bytes": 4,
        "out_row": 2, "add": False, "rounds": False, "threads": 1,
    }  # fmt: skip
    broken = [
        {"rows": -1}, {"threads": 0}, {"out_bytes": 8}, {"out_row": 1}, {"out_bytes": 2, "add": True},
        {"a": (*side[:2], -1, False)}, {"b": (side[0], 8, 2, False)},
    ]  # fmt: skip
    for change in broken:
        with pytest.raises(ValueError, match="must"):
            kernel().product(**(good | change))
