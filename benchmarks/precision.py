"""float32 against bfloat16 products: the time of an update, and the dev loss after equally many updates, over seeds.

    python benchmarks/precision.py --data DIR --steps 500 --seeds 0 1 2

DIR holds train and dev as `.jsonl.gz`. Two runs of one seed begin with the same weights and see the same batches; their
updates take turns, so that a machine whose speed varies is fair to both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from regard.tasks import make_task
from regard.training import runs
from regard.training.loop import Trainer
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

PRECISIONS = ("fp32", "bf16")


def main() -> None:
    """Train pairs of runs and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int)
    arguments = parser.parse_args()
    print(
        "| seed | ms an update: fp32 | bf16 | fp32 / bf16 | dev loss: fp32 | bf16 |\n| --- | --- | --- | --- | --- | --- |"
    )
    differences = []
    for seed in arguments.seeds:
        milliseconds, losses = pair(arguments, seed)
        (fp32, bf16), (loss, other) = milliseconds, losses
        print(
            f"| {seed} | {fp32:.1f} | {bf16:.1f} | {fp32 / bf16:.2f} | {loss:.4f} | {other:.4f} |", flush=True
        )
        differences.append(other - loss)
    spread = f" +- {statistics.stdev(differences):.4f}" if len(differences) > 1 else ""
    print(
        f"\ndev loss, bf16 - fp32: {statistics.mean(differences):+.4f}{spread} over {len(differences)} seeds"
    )


def pair(arguments: argparse.Namespace, seed: int) -> tuple[list[float], list[float]]:
    """Median milliseconds of an update and the dev loss at the end, for each precision."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = [begun(arguments, seed, precision, Path(folder)) for precision in PRECISIONS]
        times: list[list[float]] = [[], []]
        for _ in range(arguments.steps):
            for trainer, spent in zip(trainers, times, strict=True):
                begin = time.perf_counter()
                trainer.update(trainer.progress())
                spent.append(time.perf_counter() - begin)
        return [1e3 * statistics.median(spent) for spent in times], [
            dev_loss(trainer) for trainer in trainers
        ]


def begun(arguments: argparse.Namespace, seed: int, precision: str, folder: Path) -> Trainer:
    """A new run."""
    recipe = Recipe(
        steps=arguments.steps, lowercase=True, precision=precision, seed=seed, tokens=arguments.tokens
    )
    data = (str(arguments.data / f"{name}.jsonl.gz") for name in ("train", "dev"))
    return runs.begin(make_task("translate"), recipe, *data, folder / precision, Reporter(None, Silence()))


def dev_loss(trainer: Trainer) -> float:
    """Of the averaged weights, as evaluations score them."""
    trainer.model.eval()
    if trainer.average is None:
        raise SystemExit("the recipe keeps no average of the weights")
    with trainer.average.in_place(), torch.no_grad():
        return trainer.dev_loss()


if __name__ == "__main__":
    main()
