"""Two processes on the loopback are one: the same global batch, the same normalization, the same weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.data.batches import PackedBatches
from regard.tasks.translate import Translate
from regard.training import muon, runs, workers
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe
from training import child
from training.conftest import SMALL

CHILD = Path(child.__file__)
RECIPE = SMALL | {"steps": 6, "evaluations": 1, "dropout": 0.0, "average": 0.0, "dev_examples": 2}
SWITCHES = {"bpe_dropout": 0.1, "variants": 2, "r_drop": 1.0, "weight_decay": 0.1}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(*orders):
    """The same orders, one after the other, to two workers, as `torchrun` would start them."""
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    shared |= {"PYTHONPATH": ":".join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(CHILD), json.dumps(orders)]
    processes = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}) for rank in range(2)
    ]
    try:
        return [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_workers_are_one_and_end_by_one_clock(data, tmp_path, monkeypatch):
    monkeypatch.setattr(muon, "orthogonal", child.steady)
    whole = tmp_path / "whole"
    trainer = runs.begin(
        Translate(), Recipe(**RECIPE, **SWITCHES), *data, whole, Reporter(whole / "metrics.jsonl", Silence())
    )
    losses = []
    trainer.reporter.step = lambda **facts: losses.append((facts["loss"], facts["tokens"]))
    trainer.run()
    steps = {
        "data": [str(path) for path in data],
        "recipe": RECIPE | SWITCHES,
        "steady": True,
        "folder": str(tmp_path / "steps"),
    }
    steps |= {"weights": str(tmp_path / "weights{}.pt"), "losses": str(tmp_path / "losses{}.json")}
    minutes = {"data": steps["data"], "folder": str(tmp_path / "minutes")}
    minutes["recipe"] = RECIPE | {"pretrain": 0.3, "steps": None, "minutes": 0.02, "evaluations": 3}
    assert together(steps, minutes) == [0, 0]
    for rank in range(2):
        weights = torch.load(tmp_path / f"weights{rank}.pt", weights_only=True)
        for name, parameter in trainer.model.named_parameters():
            torch.testing.assert_close(weights[name], parameter.detach(), atol=2e-5, rtol=0)
        received = json.loads((tmp_path / f"losses{rank}.json").read_text(encoding="utf8"))
        np.testing.assert_allclose(received, losses, rtol=1e-5)
    assert runs.checkpoints.saved_step(tmp_path / "minutes") > 0


def test_shares_make_the_global_batch():
    lengths = np.random.default_rng(0).integers(1, 30, (40, 2))
    whole = PackedBatches(lengths, 100, 0)
    shares = [PackedBatches(lengths, 100, 0, rank=rank, world=3) for rank in range(3)]
    for _ in range(20):
        assert sorted(next(whole)) == sorted(np.concatenate([next(share) for share in shares]))


@pytest.mark.parametrize("number", [3, 2.5])
def test_one_process_alone_needs_no_group(number):
    parameter = torch.nn.Parameter(torch.ones(2))
    workers.start_workers()
    workers.sum_gradients([parameter])
    workers.wait()
    assert parameter.grad is None
    assert (workers.rank(), workers.world()) == (0, 1)
    assert workers.total(number) == workers.first(number) == number
