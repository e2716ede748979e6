"""Keras' backend is one for a whole process: `KERAS_BACKEND=torch pytest tests/keras` tests one; without, each is tested in a process of its own.

Where every new shape compiles, which takes seconds, the tests that are not marked `everywhere` are slow ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BACKEND = os.environ.get("KERAS_BACKEND")
COMPILED = BACKEND in {"jax", "tensorflow"}
if BACKEND is None:
    collect_ignore_glob = ["test_[!b]*.py", "test_blocks.py"]
else:
    collect_ignore = (
        ["test_backends.py"] if BACKEND == "tensorflow" else ["test_backends.py", "test_ragged.py"]
    )
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "everywhere: runs also where every new shape compiles")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if COMPILED and HERE in item.path.parents and item.get_closest_marker("everywhere") is None:
            item.add_marker("slow")
