"""Keras' backend is one for a whole process: `KERAS_BACKEND=torch pytest tests/keras` tests one; without, each is tested in a process of its own."""

from __future__ import annotations

import os

if "KERAS_BACKEND" in os.environ:
    collect_ignore = ["test_backends.py"]
    if os.environ["KERAS_BACKEND"] == "jax":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
else:
    collect_ignore_glob = ["test_[!b]*.py", "test_blocks.py"]
