"""The kernel's products of a linear layer against `torch.mm` in the same dtype, on one thread.

    python benchmarks/products.py
    python benchmarks/products.py --precision bf16 --rows 200 2048

For rows M, inputs K and outputs N: forward `x W^T`, `dx = g W` and `dW = g^T x`. Calls take turns; times are medians of the thread's
own clock. A cell says how many times quicker the kernel is, and what share of the peak of float32 multiply-adds it reaches,
PyTorch's in brackets; bfloat16 may exceed 1. Both write where they are told to; weights are float32 for the kernel and already
cast for PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from regard._lowering import kernel
from regard.nn._products import product

SHAPES = [(128, 384), (128, 128), (128, 336), (168, 128), (128, 512), (256, 128), (128, 4000)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--rows", type=int, nargs="+", default=[5, 37, 200, 1000, 2048])
    parser.add_argument("--seconds", type=float, default=0.2, help="for each product")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peak = kernel().fma_peak(0.3)
    print(f"Peak of multiply-adds: {peak / 1e9:.0f} GFLOP/s\n")
    print("| M | K | N | forward | dx | dW |\n| --- | --- | --- | --- | --- | --- |")
    for inputs, outputs in SHAPES:
        for rows in arguments.rows:
            work = 2 * rows * inputs * outputs / peak
            cells = [
                f"{theirs / ours:.2f}x, {work / ours:.2f} ({work / theirs:.2f})"
                for ours, theirs in measured(
                    rows, inputs, outputs, DTYPES[arguments.precision], arguments.seconds
                )
            ]
            print(f"| {rows} | {inputs} | {outputs} | {' | '.join(cells)} |", flush=True)


def measured(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, seconds: float
) -> list[tuple[float, float]]:
    """Seconds of the kernel and of PyTorch for the three products."""
    x, grad = torch.randn(rows, inputs).to(dtype), torch.randn(rows, outputs).to(dtype)
    weight = torch.randn(outputs, inputs)
    table = weight.to(dtype)
    forward = torch.empty(rows, outputs, dtype=dtype)
    backward, of_weight = torch.empty(rows, inputs, dtype=dtype), torch.empty(outputs, inputs)
    narrow = of_weight.to(dtype)
    return [
        in_turns(x, weight.mT, forward, lambda: torch.mm(x, table.mT, out=forward), seconds),
        in_turns(grad, weight, backward, lambda: torch.mm(grad, table, out=backward), seconds),
        in_turns(grad.mT, x, of_weight, lambda: torch.mm(grad.mT, x, out=narrow), seconds),
    ]


def in_turns(
    a: Tensor, b: Tensor, out: Tensor, theirs: Callable[[], Tensor], seconds: float
) -> tuple[float, float]:
    """Median seconds of the kernel's product and of another call."""
    calls = (lambda: product(a, b, out, rounds=a.dtype == torch.bfloat16), theirs)
    times: tuple[list[float], list[float]] = ([], [])
    for call in calls:
        call()
    end = time.thread_time() + seconds
    while time.thread_time() < end or len(times[0]) < 9:
        for call, taken in zip(calls, times, strict=True):
            start = time.thread_time()
            call()
            taken.append(time.thread_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
