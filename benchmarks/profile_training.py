"""Where the time of a training step goes: shares by kind of work, from PyTorch's profiler.

    python benchmarks/profile_training.py --data DIR --steps 20

DIR holds train and dev as `.jsonl.gz`. Self CPU time is counted, so the shares add up to the whole step; what Python itself
takes between operations is the rest of the wall clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from regard.tasks import make_task
from regard.training import runs
from regard.training.loop import Trainer
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe


def main() -> None:
    """Train some steps, the last of them watched, and print shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = runs.begin(
            make_task("translate"),
            Recipe(steps=10 * arguments.steps, lowercase=True),
            str(arguments.data / "train.jsonl.gz"),
            str(arguments.data / "dev.jsonl.gz"),
            Path(folder) / "run",
            Reporter(None, Silence()),
        )
        steps(trainer, 5)
        begin = time.perf_counter()
        steps(trainer, arguments.steps)
        wall = (time.perf_counter() - begin) / arguments.steps
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            steps(trainer, arguments.steps)
    report(watched.key_averages(), wall, arguments)


def steps(trainer: Trainer, count: int) -> None:
    """Some updates."""
    for _ in range(count):
        trainer.update(0.5)


KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "softmax over the vocabulary": ("aten::_softmax", "aten::max", "aten::log"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::clone", "aten::fill_", "aten::zero_"),
    "gather and scatter": (
        "aten::index",
        "aten::index_select",
        "aten::index_add_",
        "aten::index_copy_",
        "aten::gather",
    ),
    "dropout's random numbers": ("aten::random_", "aten::ge"),
}


def report(events: Any, wall: float, arguments: argparse.Namespace) -> None:
    """Print the shares by kind, then the operations that take longest."""
    shares: Counter[str] = Counter()
    for event in events:
        kind = next((kind for kind, names in KINDS.items() if event.key in names), "elementwise and the rest")
        shares[kind] += event.self_cpu_time_total / 1e3 / arguments.steps
    total = sum(shares.values())
    print(f"{1e3 * wall:.0f} ms a step by the clock, {total:.0f} ms of operations under the profiler")
    for kind, milliseconds in shares.most_common():
        print(f"| {kind} | {milliseconds:.1f} ms | {milliseconds / total:.0%} |")
    print(events.table(sort_by="self_cpu_time_total", row_limit=arguments.rows, max_name_column_width=40))


if __name__ == "__main__":
    main()
