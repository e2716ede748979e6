"""The same bits on any number of threads of either pool; calls from several threads; forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regard._errors import RegardError
from regard._lowering import kernel, threads
from ways import INSTRUCTION_SETS

pytestmark = pytest.mark.skipif(not INSTRUCTION_SETS, reason="there is no kernel")

CHILD = Path(__file__).with_name("native_child.py")


def child(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "REGARD_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(CHILD), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def digests(pool):
    found = {}
    for line in child("bits", pool):
        used, name, dtype, different, digest, case = line.split("\t")
        assert used == pool
        assert different == "1", f"{case} on {name} in {dtype} differs between numbers of threads"
        found[name, dtype, case] = digest
    return found


def test_results_are_the_same_bits_on_any_number_of_threads_of_either_pool():
    own = digests("own")
    assert {name for name, _, _ in own} == set(INSTRUCTION_SETS)
    openmp = digests("openmp")
    assert openmp == {place: own[place] for place in openmp}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
@pytest.mark.parametrize("pool", ["own", "openmp"])
def test_a_forked_child_computes(pool):
    """OpenMP's own threads do not survive a fork: the child goes on with a pool of ours."""
    assert child("fork", pool) == ["same"]


@pytest.mark.parametrize("pool", ["own", "openmp"])
def test_several_python_threads_may_call_at_once(pool):
    assert child("crowd", pool) == [f"same {pool}"]


def test_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("REGARD_NUM_THREADS", "5")
    assert threads() == 5
    for nothing in ("0", "many", "-1", "5000", "²"):
        monkeypatch.setenv("REGARD_NUM_THREADS", nothing)
        with pytest.raises(RegardError, match="REGARD_NUM_THREADS must be a number from 1 to 4096"):
            threads()
    monkeypatch.setenv("REGARD_NUM_THREADS", "")
    assert threads() == torch.get_num_threads()
    monkeypatch.delenv("REGARD_NUM_THREADS")
    assert threads() == torch.get_num_threads()


def test_instruction_sets_are_chosen_by_name():
    with pytest.raises(ValueError, match=r"no instruction set called 'mmx'; it has .*generic"):
        kernel().use_instruction_set("mmx")
    assert kernel().instruction_set() in kernel().instruction_sets()
    assert kernel().instruction_sets()[-1] == "generic"


@pytest.mark.parametrize("name", [*INSTRUCTION_SETS, "mmx"])
def test_the_environment_chooses_the_instruction_set(name):
    code = "import numpy as np, regard; from regard._lowering import kernel\nx = np.ones((3, 1, 4))\n"
    code += "regard.attention(x, x, x); print(kernel().instruction_set())"
    environment = os.environ | {"REGARD_ISA": name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    if name == "mmx":
        assert "no instruction set called 'mmx'" in done.stderr
    else:
        assert done.stdout.split() == [name]
