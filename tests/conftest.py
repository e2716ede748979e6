"""What every test shares: one thread per worker, a Hypothesis profile, poisoned memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Set before NumPy or a framework starts its pool: the workers of one run would fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # the oracle has float64

import numpy as np
import pytest
import torch  # before TensorFlow: the other order has crashed
from hypothesis import HealthCheck, settings

import ways

torch.set_num_threads(1)

settings.register_profile(
    "local", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module", params=ways.WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Computes a module's calls in every way, one after the other."""
    with ways.used(request.param):
        yield request.param


@pytest.fixture(scope="module", params=ways.INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Computes a module's calls by the kernel, on one instruction set after the other; skipped where there is no kernel."""
    with ways.used(request.param):
        yield request.param


@pytest.fixture(scope="module")
def plain() -> Iterator[None]:
    """Keeps a module's calls from the kernel."""
    with ways.used("plain"):
        yield


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every freshly allocated float array with NaN, so that reading what nobody wrote shows."""
    _poison(monkeypatch, np, ("empty", "empty_like"), _fill_numpy)
    _poison(monkeypatch, torch, ("empty", "empty_like"), _fill_torch)
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty, _fill_torch))


def _poison(monkeypatch, module, names, fill):
    for name in names:
        monkeypatch.setattr(module, name, _poisoned(getattr(module, name), fill))


def _poisoned(allocate, fill):
    def allocate_poisoned(*arguments, **options):
        return fill(allocate(*arguments, **options))

    return allocate_poisoned


def _fill_numpy(array):
    if np.issubdtype(array.dtype, np.inexact):
        array.fill(np.nan)
    return array


def _fill_torch(tensor):
    if tensor.is_floating_point():
        with torch.no_grad():
            tensor.fill_(float("nan"))
    return tensor
