"""100 steps = 50 + kill + 50, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regard.tasks.translate import Translate
from regard.training import checkpoints, runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe
from training.conftest import SMALL

CHILD = Path(__file__).with_name("child.py")
RECIPE = SMALL | {"steps": 100, "evaluations": 3, "save_steps": 10, "average": 0.2, "dev_examples": 2}
SHORT = RECIPE | {"steps": 20, "evaluations": 2, "save_steps": 4}


def begun(data, folder, recipe):
    return runs.begin(
        Translate(), Recipe(**recipe), *data, folder, Reporter(folder / "metrics.jsonl", Silence())
    )


def killed(data, folder, recipe, **order):
    """Run in another process until it kills itself."""
    order |= {"folder": str(folder), "data": [str(path) for path in data], "recipe": recipe}
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps([order])], env=environment, timeout=300, check=False
    )
    assert done.returncode == -signal.SIGKILL


def resumed(folder):
    runs.resume(Translate(), folder, Reporter(folder / "metrics.jsonl", Silence())).run()


def everything(folder):
    """What a run leaves, without the clock: weights, state, and the lines of its metrics."""
    tensors, facts = checkpoints.load_state(folder)
    clock = {
        "seconds": 0,
        "saved_at": 0,
        "scoring": 0,
        "scored_at": 0,
        "tokens_per_second": 0,
        "reporter": None,
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()]
    return load_file(folder / "model.safetensors") | tensors, facts | clock, [line | clock for line in lines]


def assert_equal(folder, whole):
    received, expected = everything(folder), everything(whole)
    assert received[1:] == expected[1:]
    assert received[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(received[0][name], tensor), name


def test_a_killed_run_goes_on_bit_for_bit(data, tmp_path):
    """Killed after step 57, so that seven steps and a line of the metrics are done again."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    killed(data, folder, RECIPE, die_after_step=57)
    assert checkpoints.saved_step(folder) == 50
    resumed(folder)
    begun(data, whole, RECIPE).run()
    assert checkpoints.saved_step(whole) == 100
    assert_equal(folder, whole)


@pytest.mark.parametrize(("sync", "saved"), [(4, 4), (6, 8)])
def test_a_run_killed_while_it_saves_goes_on_bit_for_bit(data, tmp_path, sync, saved):
    """At the note that names the new state, and between the weights of an evaluation and the state after it."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    killed(data, folder, SHORT, die_at_sync=sync)
    assert checkpoints.saved_step(folder) == saved
    resumed(folder)
    begun(data, whole, SHORT).run()
    assert_equal(folder, whole)


@pytest.mark.parametrize("last", [7, 13])
def test_a_run_with_every_switch_goes_on_bit_for_bit(data, tmp_path, last):
    """Killed while it pretrains, and after."""
    file = tmp_path / "more.txt"
    file.write_text("the old dog sings\na quiet tree\n", encoding="utf8")
    switches = {
        "bpe_dropout": 0.1,
        "variants": 3,
        "r_drop": 1.0,
        "pretrain": 0.5,
        "unlabelled": str(file),
    }
    folder, whole = tmp_path / "run", tmp_path / "whole"
    killed(data, folder, SHORT | switches, die_after_step=last)
    assert checkpoints.saved_step(folder) == last // 4 * 4
    file.unlink()  # what was read once is in the folder
    resumed(folder)
    file.write_text("the old dog sings\na quiet tree\n", encoding="utf8")
    begun(data, whole, SHORT | switches).run()
    assert_equal(folder, whole)


def test_a_run_that_never_saved_goes_on_from_its_beginning(data, tmp_path):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    begun(data, folder, SHORT).update(0.0)
    resumed(folder)
    begun(data, whole, SHORT).run()
    assert_equal(folder, whole)


def test_resuming_does_not_read_the_data_again(data, tmp_path, monkeypatch):
    """Only the dev records are read, those that the run keeps; the training data are where they were."""
    folder = tmp_path / "run"
    trainer = begun(data, folder, SHORT)
    for _ in range(3):
        trainer.update(0.1)
    trainer.save()
    read, reading = [], Translate.read

    def counted(task, source, *rest, **options):
        read.append(str(source))
        return reading(task, source, *rest, **options)

    monkeypatch.setattr(Translate, "read", counted)
    monkeypatch.setattr(Translate, "learn", None)
    again = runs.resume(Translate(), folder, Reporter(None, Silence()))
    assert again.position.step == 3
    assert read == [str(folder / "state" / "dev.jsonl")]
    assert len(again.dev) == len(trainer.dev)
    for _ in range(30):
        assert next(trainer.batches).tolist() == next(again.batches).tolist()
