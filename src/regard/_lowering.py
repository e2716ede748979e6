"""A plan in the kernel's terms: spans and boxes or intervals as arrays, and whether the kernel is there at all."""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._errors import RegardError
from regard._intervals import Boxes
from regard._masks import Dense, Mask, conjuncts
from regard._plan import Plan, Spans

# A list longer than this is quicker as intervals of rows, whose number of tests is bounded by what a row sees.
_MANY_BOXES = 64

_MOST_THREADS = 4096
_LARGEST_HEAD = 1 << 16
_MOST_ROWS = 2**31 - 1


@functools.cache
def kernel() -> Any:
    """The compiled module, or None where the package was installed without a compiler."""
    try:
        return importlib.import_module("regard._kernel")
    except ModuleNotFoundError:
        return None


# Why there may be no kernel, and how to get it.
missing = "was not built when the package was installed; install it where there is a C++ compiler"


def threads() -> int:
    """How many threads a call may use: REGARD_NUM_THREADS, else PyTorch's number where PyTorch is loaded, else every core.

    Raises RegardError where REGARD_NUM_THREADS is no number from 1 to 4096.
    """
    get = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if get is not None:
        _share_openmp()
    wanted = kernel().variable("REGARD_NUM_THREADS")
    if wanted:
        return _checked_threads(wanted)
    if get is not None:
        return int(get())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked_threads(wanted: str) -> int:
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= _MOST_THREADS:
        return int(wanted)
    raise RegardError(
        f"REGARD_NUM_THREADS must be a number from 1 to {_MOST_THREADS}. Received {wanted!r}; set or unset it."
    )


@functools.cache
def _share_openmp() -> None:
    kernel().share_openmp()


# How the kernel is told what the numbers of an array are; float32 and float64 are what it computes with.
STORED = {"float32": 0, "float64": 0, "bfloat16": 1, "float16": 2}


@dataclass(frozen=True, eq=False)
class Lowered:
    """The kernel's plan, and the mask's array where it has one, which the kernel reads as it lies."""

    plan: Any
    dense: Dense | None


def lowered(plan: Plan, dim: int, value_dim: int) -> Lowered:
    """The kernel's form of a plan for two head sizes, kept with the plan.

    Raises ValueError for spans that the kernel refuses.
    """
    sizes = ("kernel", dim, value_dim)
    found = plan.notes.get(sizes)
    if found is None:
        found = plan.notes[sizes] = _lowered(plan, dim, value_dim)
    return found


def _lowered(plan: Plan, dim: int, value_dim: int) -> Lowered:
    spans = plan.spans
    rows = (spans.q_begin, spans.q_length, spans.k_begin, spans.k_length, spans.query_start)
    sizes = (plan.total_queries, plan.total_keys, plan.heads, plan.kv_heads, dim, value_dim)
    mask, dense = _split_dense(plan.mask)
    boxes = starts = ends = None
    step = 1
    if mask is not None:
        found = mask.boxes(spans)
        if found is not None and len(found.boxes) <= _MANY_BOXES:
            boxes, step = _box_array(found, len(spans)), found.step
        else:
            starts, ends, step = _interval_arrays(mask, spans, plan.heads)
    made = kernel().Plan(
        np.stack([np.asarray(row, np.int64) for row in rows]),
        sizes, plan.scale, plan.softcap or 0.0, plan.dropout_p, step, boxes, starts, ends,
    )  # fmt: skip
    return Lowered(made, dense)


def _split_dense(mask: Mask | None) -> tuple[Mask | None, Dense | None]:
    """The mask without one array that stands at the top of its `&`, and that array: the kernel reads its bits."""
    others, dense = None, None
    for part in conjuncts(mask) if mask is not None else ():
        if dense is None and isinstance(part, Dense):
            dense = part
        else:
            others = part if others is None else others & part
    return others, dense


def _box_array(found: Boxes, count: int) -> np.ndarray:
    """(N, boxes, 6); a mask that is nowhere true is one empty box."""
    array = np.zeros((count, max(1, len(found.boxes)), 6), np.int64)
    for number, box in enumerate(found.boxes):
        bounds = (
            box.position_low, box.position_high, box.key_low, box.key_high, box.low_shift, box.high_shift
        )  # fmt: skip
        for place, bound in enumerate(bounds):
            array[:, number, place] = bound
    return array


def _interval_arrays(mask: Mask, spans: Spans, heads: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Starts and ends (H or 1, rows, K) of every query row's key intervals, and their step."""
    sequence = np.repeat(np.arange(len(spans)), spans.q_length)
    first = np.cumsum(spans.q_length) - spans.q_length
    row = np.arange(len(sequence)) - first[sequence]
    found = [
        mask.intervals(spans, sequence, row, head) for head in range(heads if mask.depends_on_head() else 1)
    ]
    width = max(starts.shape[1] for starts, _, _ in found)
    starts, ends = np.zeros((2, len(found), len(row), width), np.int32)
    for number, (some_starts, some_ends, _) in enumerate(found):
        starts[number, :, : some_starts.shape[1]], ends[number, :, : some_ends.shape[1]] = (
            some_starts,
            some_ends,
        )
    return starts, ends, found[0][2]


def dense_layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """How the kernel reads an array that broadcasts to (N, H, T, S): four strides, in elements, and its rows and keys."""
    shape, strides = (1,) * (4 - len(shape)) + tuple(shape), (0,) * (4 - len(strides)) + tuple(strides)
    steps = tuple(0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True))
    # An axis of one broadcasts: no row or key stands outside it.
    limits = tuple(sys.maxsize if size == 1 else size for size in shape[2:])
    return steps + limits


def bias_arguments(
    plan: Plan, shape: tuple[int, ...], strides: tuple[int, ...], address: int
) -> tuple[Any, Any]:
    """A bias array as the kernel's pair (dense, by distance), one of which is None; strides in elements."""
    if plan.bias == "dense":
        return (address, *dense_layout(shape, strides)), None
    return None, (address, strides[0], plan.distances.start, shape[1])


def beyond_limits(plan: Plan, dim: int, value_dim: int) -> str | None:
    """Why the kernel cannot take a call of this size, or None where it can."""
    return _beyond(plan.heads, max(dim, value_dim), max(plan.total_queries, plan.total_keys))


def beyond_sizes(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> str | None:
    """As `beyond_limits`, of arrays (..., T, H, D), (..., S, J, D) and (..., S, J, V)."""
    return _beyond(query[-2], max(query[-1], value[-1]), max(math.prod(query[:-2]), math.prod(key[:-2])))


def _beyond(heads: int, size: int, rows: int) -> str | None:
    if heads == 0:
        return "computes at least one head, these arrays have none"
    if size > _LARGEST_HEAD or rows > _MOST_ROWS:
        return (
            f"computes heads of size up to {_LARGEST_HEAD} and up to 2**31 - 1 rows, these arrays are larger"
        )
    return None


def seed_word(seed: int | None) -> int:
    """The seed as the 64 bits that the random numbers are made from."""
    return 0 if seed is None else seed & 0xFFFFFFFFFFFFFFFF
