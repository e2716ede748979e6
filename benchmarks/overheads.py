"""What regard costs before it computes anything: imports, `--help`, packing, and a call on a few numbers.

python benchmarks/overheads.py
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import regard
from regard.compat.torch import scaled_dot_product_attention
from regard.nn import EncoderDecoder, Shape
from regard.nn.loss import vocabulary_loss


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
    print(
        f"Packed(...)           {1e6 * best(lambda: regard.Packed(values, offsets), 2000):7.1f} us, offsets checked"
    )
    print(
        f"Packed.with_values    {1e6 * best(lambda: packed.with_values(values), 2000):7.1f} us, as layers do"
    )
    step, inside = training_step(offsets)
    print(f"Packed in a step      {1e3 * inside:7.2f} ms of {1e3 * step:.0f} ms, {inside / step:.2%}")
    tiny_calls()


def tiny_calls() -> None:
    """The drop-in beside PyTorch's function where there is next to nothing to compute, one thread."""
    torch.set_num_threads(1)
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))
    leaves = [array.clone().requires_grad_() for array in (query, key, value)]
    for name, arrays in {"tiny call": (query, key, value), "with a graph": leaves}.items():
        for function in (F.scaled_dot_product_attention, scaled_dot_product_attention):
            seconds = best(functools.partial(function, *arrays), 500)
            print(f"{name:13} {1e6 * seconds:16.1f} us, {function.__module__}")


def training_step(offsets: np.ndarray) -> tuple[float, float]:
    """Seconds of one training step of the default model, and of all that `Packed` does in it."""
    model = EncoderDecoder(Shape(vocabulary=4000))
    ids = torch.randint(0, 4000, (int(offsets[-1]),))
    spent = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal spent
            begin = time.perf_counter()
            result = method(*arguments)
            spent += time.perf_counter() - begin
            return result

        return call

    def step() -> None:
        batch = regard.Packed(ids, offsets)
        vocabulary_loss(model(batch, batch), model.embedding.weight, ids, 0.1).backward()

    seconds = best(step, 3)
    regard.Packed.with_values = timed(regard.Packed.with_values)  # type: ignore[method-assign]
    regard.Packed.__post_init__ = timed(regard.Packed.__post_init__)  # type: ignore[method-assign]
    step()
    return seconds, spent


def process(code: str, *arguments: str) -> float:
    """Seconds of a fresh interpreter that runs `code`."""
    command = [sys.executable, "-c", code, *arguments]
    return best(lambda: subprocess.run(command, check=False, capture_output=True), 1, rounds=7)


def best(function: Callable[[], Any], count: int, rounds: int = 5) -> float:
    """Seconds a call, the best of some rounds of `count` calls."""
    shortest = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(count):
            function()
        shortest = min(shortest, (time.perf_counter() - begin) / count)
    return shortest


if __name__ == "__main__":
    main()
