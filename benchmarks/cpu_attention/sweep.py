"""Many shapes against SDPA: where ours is worst, and how the ratios are spread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product

import numpy as np

from cpu_attention.clock import Pace
from cpu_attention.compare import Row, compare
from cpu_attention.items import Item

LENGTHS = (
    *(1, 2, 3, 4, 7, 8, 16, 17, 32, 33, 64, 65, 100, 128, 129),
    *(256, 257, 500, 512, 1000, 1024, 1025, 2047, 2048, 3000, 4096),
)
HEADS = (1, 4, 16)
SIZES = (16, 64, 128, 256)
USUAL, MOST = 0.3e9, 10e9  # operations of a forward pass: what a batch is filled up to, and what is left out
ELEMENTS = 2**21  # of one array, at most
PASSES = ("forward", "f+b")


def sweep_items(every: int = 1) -> Iterator[Item]:
    """Every n-th shape, its batch filled up to about the same cost."""
    shapes = [shape for shape in product(LENGTHS, HEADS, SIZES) if _operations(*shape) <= MOST]
    for length, heads, size in shapes[::every]:
        count = min(USUAL / _operations(length, heads, size), ELEMENTS / (length * heads * size), 256)
        for causal in (False, True):
            name = f"{max(1, int(count))}x{length}, {heads} heads of {size}{', causal' if causal else ''}"
            lengths = (length,) * max(1, int(count))
            yield Item(name, "sweep", lengths, heads=heads, key_heads=heads, size=size, causal=causal)


def sweep(pace: Pace, backend: str | None, every: int, dtype: str = "float32") -> list[Row]:
    """Measure all shapes; which one is being measured is told on stderr."""
    rows = []
    for item in sweep_items(every):
        print(f"\r{item.name:50}", end="", file=sys.stderr, flush=True)
        rows += compare(item, pace, backend, dtype)
    print(file=sys.stderr)
    return rows


def report(rows: list[Row], worst: int = 15) -> str:
    """The spread of the ratios by pass, their worst and middle by length, and the worst shapes."""
    lines = [f"{len(rows)} measurements; SDPA's time / ours", "", _spread_header()]
    for what, causal in product(PASSES, (False, True)):
        ratios = [r.ratios["sdpa"] for r in _answered(rows) if r.what == what and r.item.causal == causal]
        if ratios:
            lines.append(f"{what + (' causal' if causal else ''):16}" + _spread(ratios))
    lines += ["", f"{'length':>8}" + "".join(f"{what + ', worst / middle':>26}" for what in PASSES)]
    lines += [_by_length(rows, length) for length in sorted({row.item.lengths[0] for row in rows})]
    lines += ["", "worst"]
    ordered = sorted(_answered(rows), key=lambda row: row.ratios["sdpa"])
    lines += [f"{row.ratios['sdpa']:8.2f}  {row.what:8} {row.item.name}" for row in ordered[:worst]]
    refused = [f"{row.item.name}: {reason}" for row in rows for reason in row.refusals.values()]
    return "\n".join([*lines, *refused])


def _spread_header() -> str:
    return f"{'':16}" + "".join(f"{name:>8}" for name in ("least", "5 %", "25 %", "50 %", "75 %", "most"))


def _spread(ratios: list[float]) -> str:
    return "".join(f"{ratio:8.2f}" for ratio in np.percentile(ratios, [0, 5, 25, 50, 75, 100]))


def _by_length(rows: list[Row], length: int) -> str:
    cells = ""
    for what in PASSES:
        here = [
            row.ratios["sdpa"]
            for row in _answered(rows)
            if row.what == what and row.item.lengths[0] == length
        ]
        cells += f"{f'{min(here):.2f} / {np.median(here):.2f}' if here else '-':>26}"
    return f"{length:8}{cells}"


def _answered(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "sdpa" in row.seconds]


def _operations(length: int, heads: int, size: int) -> float:
    return 4.0 * length * length * heads * size
