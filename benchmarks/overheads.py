"""What regard costs before it computes anything: imports, `--help`, and packing.

    python benchmarks/overheads.py
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import torch

import regard


def main() -> None:
    """Print each cost, the best of some repeats."""
    print(f"python alone          {1e3 * process('pass'):7.0f} ms")
    print(f"import numpy          {1e3 * process('import numpy'):7.0f} ms")
    print(f"import regard         {1e3 * process('import regard'):7.0f} ms")
    print(f"regard --help         {1e3 * process('from regard.cli import main; main()', '--help'):7.0f} ms")
    lengths = np.random.default_rng(0).integers(8, 25, 64)
    values = torch.randn(int(lengths.sum()), 128)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    packed = regard.Packed(values, offsets)
    print(f"Packed(...)           {1e6 * repeated(lambda: regard.Packed(values, offsets)):7.1f} us, offsets checked")
    print(f"Packed.with_values    {1e6 * repeated(lambda: packed.with_values(values)):7.1f} us, as layers do")
    print(f"values + values       {1e6 * repeated(lambda: values + values):7.1f} us, one operation, to compare")


def process(code: str, *arguments: str) -> float:
    """Seconds of a fresh interpreter that runs `code`."""
    best = float("inf")
    for _ in range(7):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True)
        best = min(best, time.perf_counter() - begin)
    return best


def repeated(function: object, count: int = 2000) -> float:
    """Seconds a call, the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(count):
            function()  # type: ignore[operator]
        best = min(best, (time.perf_counter() - begin) / count)
    return best


if __name__ == "__main__":
    main()
