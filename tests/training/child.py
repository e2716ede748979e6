"""Runs in a process of their own, which may kill itself, or be one of several workers: `child.py '[{...}]'`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from regard.tasks.translate import Translate
from regard.training import muon, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

ORTHOGONAL = muon.orthogonal


class Dying(Reporter):
    """Keeps the losses, and kills the process after a step."""

    last = None

    def step(self, *, step, loss, tokens, **facts):
        super().step(step=step, loss=loss, tokens=tokens, **facts)
        self.seen = [*getattr(self, "seen", []), (loss, tokens)]
        if step == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at_sync(number):
    """Kill the process when a file has been written for the nth time from now, before it is moved to its place."""
    sync, done = os.fsync, [0]

    def counted(file):
        done[0] += 1
        if done[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = counted


def steady(matrices, iterations=5):
    """Matrices as large as orthogonal ones: making them orthogonal would turn the last bit of a sum into the third digit of a step."""
    norm = torch.linalg.matrix_norm(matrices, keepdim=True)
    return matrices / norm.clamp(min=1e-12) * min(matrices.shape[-2:]) ** 0.5


def main(order):
    torch.set_num_threads(1)
    folder, rank = Path(order["folder"]), os.environ.get("RANK", "")
    reporter = Dying(folder / f"metrics{rank}.jsonl", Silence())
    reporter.last = order.get("die_after_step")
    muon.orthogonal = steady if order.get("steady") else ORTHOGONAL
    trainer = runs.begin(Translate(), Recipe(**order["recipe"]), *map(Path, order["data"]), folder, reporter)
    if "die_at_sync" in order:
        die_at_sync(order["die_at_sync"])
    trainer.run()
    if "weights" in order:
        weights = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
        torch.save(weights, order["weights"].format(rank))
        Path(order["losses"].format(rank)).write_text(json.dumps(reporter.seen), encoding="utf8")


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        main(one)
