"""Where the time of a training step goes: shares by kind of work, from PyTorch's profiler.

    python benchmarks/profile_training.py --data DIR --steps 20 --precision bf16 --layers 4 4

DIR holds train and dev as `.jsonl.gz`. Self CPU time is counted, so the shares add up to all operations; what Python itself
takes between operations is the rest of the processor's time of those steps. They go block by block, so that their operations
show; the speed is that of unwatched steps, in which a stack of blocks is one operation. The step's arithmetic is 6 for each weight
and token that it meets, forward and backward, and 14 dim for each pair and layer of attention; its share is of the speed of
a large product in the same numbers, measured in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from regard.nn import _stack
from regard.tasks import make_task
from regard.training import runs
from regard.training.loop import Trainer
from regard.training.precision import resolved
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe


def main(given: list[str] | None = None) -> None:
    """Train some steps, the last of them watched, and print shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--layers", type=int, nargs=2, metavar=("ENCODER", "DECODER"))
    for option in ("tokens", "dim", "heads", "hidden", "vocabulary"):
        parser.add_argument(f"--{option}", type=int)
    arguments = parser.parse_args(given)
    encoder, decoder = arguments.layers or (None, None)
    sizes = {name: getattr(arguments, name) for name in ("tokens", "dim", "heads", "hidden", "vocabulary")}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(
            steps=10 * arguments.steps, lowercase=True, precision=arguments.precision, encoder_layers=encoder,
            decoder_layers=decoder, **sizes,
        )  # fmt: skip
        trainer = runs.begin(
            make_task("translate"),
            recipe,
            str(arguments.data / "train.jsonl.gz"),
            str(arguments.data / "dev.jsonl.gz"),
            Path(folder) / "run",
            Reporter(None, Silence()),
        )
        for optimizer in trainer.optimizers:
            optimizer.step = record_function("Optimizer.step")(optimizer.step)  # type: ignore[method-assign]
        steps(trainer, 5)
        counted = Counted(trainer)
        speed = product_speed(resolved(arguments.precision))
        begin, cpu = time.perf_counter(), time.process_time()
        steps(trainer, arguments.steps)
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        speed = max(speed, product_speed(resolved(arguments.precision)))
        operations, tokens = counted.operations, counted.tokens
        by_blocks = mock.patch.object(_stack, "is_fused", return_value=False)
        with by_blocks, profile(activities=[ProfilerActivity.CPU]) as watched:
            steps(trainer, arguments.steps)
    print(f"{tokens / wall:,.0f} tokens/s, source and target, {resolved(arguments.precision)}")
    share = operations / wall / speed
    print(
        f"arithmetic: {operations / wall / 1e9:.1f} of {speed / 1e9:.0f} GFLOP/s of a large product, {share:.0%}"
    )
    report(watched.key_averages(), wall / arguments.steps, cpu / arguments.steps, arguments)


def steps(trainer: Trainer, count: int) -> None:
    """Some updates."""
    for _ in range(count):
        trainer.update(0.5)


def product_speed(precision: str) -> float:
    """Operations a second of a product of 1,024 x 1,024."""
    a = torch.randn(1024, 1024, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024**3 / best


class Counted:
    """The tokens and the arithmetic of every update of a trainer from now on."""

    def __init__(self, trainer: Trainer) -> None:
        self.tokens, self.operations = 0, 0.0
        self.model, self.pack = trainer.model, trainer.learning.batch
        trainer.learning.batch = self.batch  # type: ignore[method-assign]

    def linear(self, source: float, target: float) -> float:
        """Operations of the linear layers of all blocks for so many tokens; what keys and values of a source are projected by meets its tokens."""
        met = 0.0
        for stack, tokens in ((self.model.encoder, source), (self.model.decoder, target)):
            for half in stack.halves:
                for name, weight in half.layer.named_parameters():
                    met += weight.numel() * (source if name.startswith("key_value") else tokens)
        return 6 * met

    def batch(self, indices: Any, step: int) -> Any:
        """The batch of these examples: its tokens, its pairs of attention, its scores over the vocabulary."""
        packed = self.pack(indices, step)
        source, target = (np.diff(packed[name].offsets).astype(float) for name in ("source", "target"))
        shape = self.model.shape
        pairs = shape.encoder_layers * (source**2).sum()
        pairs += shape.decoder_layers * (target * (target + 1) / 2 + source * target).sum()
        self.operations += self.linear(source.sum(), target.sum())
        self.operations += 14 * shape.dim * pairs + 6 * self.model.embedding.weight.numel() * target.sum()
        self.tokens += int(source.sum() + target.sum())
        return packed


# Operations by a part of their name; the first that fits counts.
KINDS = {
    "attention": ("NativeAttention",),
    "loss without its products": ("_VocabularyLoss",),
    "optimizer": ("Optimizer.step", "_foreach_", "_fused_", "aten::lerp", "aten::bmm", "aten::baddbmm"),
    "products": ("aten::mm", "aten::addmm", "_KernelLinear", "_BlockedLinear"),
}


def report(events: Any, wall: float, cpu: float, arguments: argparse.Namespace) -> None:
    """Print the shares by kind, then the operations that take longest."""
    shares: Counter[str] = Counter()
    for event in events:
        kind = next(
            (kind for kind, names in KINDS.items() if event.key.startswith(names)),
            "normalization, elementwise, data",
        )
        shares[kind] += event.self_cpu_time_total / 1e3 / arguments.steps
    total = sum(shares.values())
    print(
        f"{1e3 * wall:.0f} ms a step by the clock, {1e3 * cpu:.0f} ms of all threads, {total:.0f} ms of operations watched"
    )
    for kind, milliseconds in shares.most_common():
        print(f"| {kind} | {milliseconds:.1f} ms | {milliseconds / total:.0%} |")
    print(events.table(sort_by="self_cpu_time_total", row_limit=arguments.rows, max_name_column_width=40))


if __name__ == "__main__":
    main()
