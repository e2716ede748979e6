"""What the kernel's own doors refuse before memory is touched, and what regard does without a kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import ragged
from cases import draw
from regard import Aux, Causal, RegardError, _attention, attention, explain
from regard._lowering import kernel
from regard.backends import native
from ways import INSTRUCTION_SETS

needs_kernel = pytest.mark.skipif(not INSTRUCTION_SETS, reason="there is no kernel")

SIZES = (10, 12, 4, 2, 3, 5)
FINE = [[0, 4], [4, 6], [0, 5], [5, 7], [1, 1]]  # q_begin, q_length, k_begin, k_length, query_start
LARGEST, LEAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def plan(spans=FINE, sizes=SIZES, *, step=1, boxes=None, starts=None, ends=None, dropout=0.0):
    spans = np.array(spans, np.int64) if isinstance(spans, list) else spans
    return kernel().Plan(spans, sizes, 1.0, 0.0, dropout, step, boxes, starts, ends)


def changed(row, values):
    spans = [list(numbers) for numbers in FINE]
    spans[row] = values
    return spans


SPANS = {
    "queries overlap": (changed(0, [0, 3]), "queries of sequences 0 and 1 overlap"),
    "queries overlap, unsorted": (changed(0, [3, 0]), "queries of sequences 1 and 0 overlap"),
    "queries past the end": (changed(1, [4, 7]), "sequence 1 has 7 queries from row 4, but there are 10 rows"),
    "queries before the beginning": (changed(0, [-1, 4]), "sequence 0 has 4 queries from row -1"),
    "no queries past the end": (changed(0, [0, 11]), "sequence 1 has 6 queries from row 11"),
    "a negative number of queries": (changed(1, [4, -6]), "sequence 1 has -6 queries"),
    "as many queries as numbers": (changed(1, [LARGEST, 6]), "sequence 0 has 9223372036854775807 queries"),
    "a sum that overflows": ([[0, LARGEST], [4, LARGEST], [0, 5], [5, 7], [1, 1]], "sequence 1 has"),
    "a begin that is the least": (changed(0, [LEAST, 4]), "from row -9223372036854775808"),
    "2^32 too many": (changed(1, [2**32 + 4, 6]), "sequence 0 has 4294967300 queries"),
    "keys past the end": (changed(3, [5, 8]), "sequence 1 has 8 keys from row 5, but there are 12 rows"),
    "keys before the beginning": (changed(2, [-5, 5]), "sequence 0 has 5 keys from row -5"),
    "a negative number of keys": (changed(3, [-5, 7]), "sequence 0 has -5 keys"),
    "keys overlap without beginning together": (changed(2, [0, 4]), "keys of sequence 1 overlap others"),
    "keys overlap inside": ([[0, 4], [4, 6], [0, 5], [12, 7], [1, 1]], "keys of sequence 1 overlap others"),
}  # fmt: skip


@needs_kernel
@pytest.mark.parametrize("name", SPANS)
def test_malformed_spans_are_refused(name):
    spans, message = SPANS[name]
    with pytest.raises(ValueError, match=message):
        plan(spans)


@needs_kernel
def test_a_third_sequence_may_not_hide_an_overlap():
    """Keys that begin together and a later one that begins inside the longest."""
    for begins, lengths in (([0, 0, 3], [9, 2, 2]), ([0, 2, 2], [3, 1, 5]), ([0, 0, 1], [2, 2, 1])):
        with pytest.raises(ValueError, match="overlap others without beginning where they begin"):
            plan([[0, 1, 2], [1, 1, 1], begins, lengths, [0, 0, 0]])
    plan([[0, 1, 2], [1, 1, 1], [0, 0, 9], [9, 2, 3], [0, 0, 0]])


WRONG = {
    "four rows of spans": ({"spans": np.zeros((4, 2), np.int64)}, ValueError, "spans must have shape"),
    "flat spans": ({"spans": np.zeros(10, np.int64)}, ValueError, "spans must have shape"),
    "no array": ({"spans": None}, TypeError, "incompatible"),
    "too many rows": ({"sizes": (2**31, 12, 4, 2, 3, 5)}, ValueError, "at most 2.31 - 1 rows"),
    "fewer rows than none": ({"sizes": (-1, 12, 4, 2, 3, 5)}, ValueError, "at most 2.31 - 1 rows"),
    "no heads": ({"sizes": (10, 12, 0, 0, 3, 5)}, ValueError, "multiple of the key heads. Received 0 and 0"),
    "heads": ({"sizes": (10, 12, 3, 2, 3, 5)}, ValueError, "multiple of the key heads. Received 3 and 2"),
    "size": ({"sizes": (10, 12, 4, 2, -3, 5)}, ValueError, "head sizes must lie between 0 and 65,536"),
    "large size": ({"sizes": (10, 12, 4, 2, 3, 1 << 40)}, ValueError, "head sizes must lie between"),
    "five sizes": ({"sizes": (10, 12, 4, 2, 3)}, TypeError, "incompatible"),
    "step": ({"step": 0}, ValueError, "the step must be at least 1"),
    "negative step": ({"step": -1}, ValueError, "the step must be at least 1"),
    "dropout": ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and below 1"),
    "dropout that is none": ({"dropout": np.nan}, ValueError, "dropout must be at least 0 and below 1"),
    "boxes of others": ({"boxes": np.zeros((3, 1, 6), np.int64)}, ValueError, "boxes must have shape"),
    "five bounds": ({"boxes": np.zeros((2, 1, 5), np.int64)}, ValueError, "boxes must have shape"),
    "flat boxes": ({"boxes": np.zeros(12, np.int64)}, ValueError, "boxes must have shape"),
    "no ends": ({"starts": np.zeros((1, 10, 1), np.int32)}, ValueError, "both their starts and their ends"),
    "rows": ({"starts": np.zeros((1, 9, 1), np.int32), "ends": np.zeros((1, 9, 1), np.int32)}, ValueError, "intervals must have shape"),
    "heads of intervals": ({"starts": np.zeros((2, 10, 1), np.int32), "ends": np.zeros((2, 10, 1), np.int32)}, ValueError, "intervals must have shape"),
    "ends": ({"starts": np.zeros((1, 10, 2), np.int32), "ends": np.zeros((1, 10, 1), np.int32)}, ValueError, "must have one shape"),
    "boxes and intervals": ({"boxes": np.zeros((2, 1, 6), np.int64), "starts": np.zeros((1, 10, 1), np.int32), "ends": np.zeros((1, 10, 1), np.int32)}, ValueError, "not both"),
}  # fmt: skip


@needs_kernel
@pytest.mark.parametrize("name", WRONG)
def test_arguments_of_other_shapes_are_refused(name):
    arguments, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        plan(**arguments)


def computed(made):
    """Output, lse and gradients of a plan given directly, inside guards that nothing may touch."""
    guards, views = [], []
    rng = np.random.default_rng(0)
    shapes = (
        (10, 4, 3),
        (12, 2, 3),
        (12, 2, 5),
        (10, 4, 5),
        (10, 4),
        (10, 4, 5),
        (10, 4, 3),
        (12, 2, 3),
        (12, 2, 5),
    )
    for shape in shapes:
        guard = np.full(int(np.prod(shape)) + 400, 7.0)
        guards.append(guard)
        view = guard[200:-200].reshape(shape)
        view[...] = rng.normal(size=shape)
        views.append(view)
    query, key, value, out, lse, grad_out, *grads = views
    given = (8, *map(native._view, (query, key, value)), None, None, None, 0)
    made.forward(given, 0, native._view(out), native._address(lse), 2)
    made.backward(
        given, 0, native._view(out), native._address(lse), native._view(grad_out), 0, *map(native._view, grads), 0, 0, 2
    )  # fmt: skip
    for guard in guards:
        assert (guard[:200] == 7).all()
        assert (guard[-200:] == 7).all()
    return out, lse, *grads


EXTREMES = [LEAST, LEAST + 1, -(2**40), -(2**31), -1, 0, 1, 5, 2**31, 2**40, LARGEST - 1, LARGEST]


@needs_kernel
def test_absurd_boxes_and_positions_neither_crash_nor_write_elsewhere():
    rng = np.random.default_rng(0)
    for _ in range(300):
        boxes = rng.choice(np.array(EXTREMES, np.int64), size=(2, rng.integers(1, 4), 6))
        spans = changed(4, rng.choice(np.array(EXTREMES, np.int64), size=2).tolist())
        step = int(rng.choice([1, 2, 3, 100]))
        results = computed(plan(spans, boxes=boxes, step=step))
        assert all(np.isfinite(array).all() for array in (results[0], *results[2:]))


@needs_kernel
def test_absurd_intervals_neither_crash_nor_write_elsewhere():
    rng = np.random.default_rng(0)
    numbers = np.array([-(2**31), -1, 0, 1, 3, 7, 2**31 - 1], np.int32)
    for _ in range(300):
        heads, count = rng.choice([1, 4]), rng.integers(0, 4)
        starts, ends = rng.choice(numbers, size=(2, heads, 10, count))
        results = computed(plan(starts=starts, ends=ends, step=int(rng.choice([1, 2, 5]))))
        assert all(np.isfinite(array).all() for array in (results[0], *results[2:]))


@needs_kernel
@pytest.mark.parametrize("dilation", [10**9, 10**12])
def test_a_dilation_beyond_every_length_costs_nothing(dilation):
    code = f"import math, numpy as np, regard; x, mask = np.ones((3, 1, 2)), regard.Window(math.inf, dilation={dilation})\n"
    code += "np.testing.assert_allclose(regard.attention(x, x, x, mask=mask), x, rtol=1e-14)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=3, env=environment)


@needs_kernel
@pytest.mark.parametrize("start", [2**33, 2**39, -(2**39)])
def test_positions_far_away(start):
    """Causal queries far behind their keys see all of them, far before them none."""
    query, key, value = draw(3, 5)
    out = attention(query, key, value, mask=Causal(), query_start=start)
    np.testing.assert_allclose(out, attention(query, key, value) if start > 0 else 0 * out, atol=1e-13)


@needs_kernel
@pytest.mark.parametrize("count", [0, -1, 5000])
def test_numbers_of_threads_that_are_none_are_refused(count):
    made, x = plan(), np.zeros((12, 4, 5))
    arrays, rest = (*[native._view(x)] * 3, None, None, None, 0), (0, native._view(x), native._address(x))
    with pytest.raises(ValueError, match="threads must be between 1 and 4,096"):
        made.forward((8, *arrays), *rest, count)
    with pytest.raises(ValueError, match="elements must be float32 or float64"):
        made.forward((2, *arrays), *rest, 1)


@needs_kernel
def test_a_bias_by_distance_must_reach_every_distance():
    made, x, bias = plan(), np.zeros((12, 4, 5)), np.zeros((4, 9))
    for first in (-4, -6):  # distances go from -5 to 6
        given = (8, *[native._view(x)] * 3, None, None, (native._address(bias), 9, first, 9), 0)
        with pytest.raises(ValueError, match="a number for every distance of the call"):
            made.forward(given, 0, native._view(x), native._address(x), 1)


# Without a kernel.


def test_attention_works_without_a_kernel_and_explain_says_why(monkeypatch):
    arrays = draw(5, 6)
    expected = attention(*arrays, mask=Causal(), backend="reference")
    monkeypatch.setattr(_attention, "kernel", lambda: None)
    out, aux = attention(*arrays, mask=Causal(), return_aux=Aux(lse=True, topk=2))
    np.testing.assert_array_equal(out, expected)
    assert aux.topk.keys.shape == (5, 4, 2)
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = attention(*leaves, mask=Causal())
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-14)
    out.sum().backward()
    for given, other in ((arrays, "reference"), (leaves, "tiled")):
        found = explain(*given, mask=Causal())
        assert found.backend == other
        assert found.refusals["native"].startswith("was not built when the package was installed")
        assert "not native: was not built" in str(found)
    with pytest.raises(RegardError, match="'native' was not built"):
        attention(*arrays, backend="native")


def test_a_process_without_the_module_has_no_kernel(monkeypatch):
    import importlib

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert kernel.__wrapped__() is None


@needs_kernel
def test_explain_names_the_kernel():
    arrays = draw(5, 6)
    assert explain(*arrays).backend == "native"
    assert explain(*map(torch.tensor, arrays)).backend == "native"
    assert explain(*arrays).refusals["reference"] == "comes after native"
    assert ragged.packed([3]).framework == "numpy"
