"""The baselines of the captions' benchmark."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "caption.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("caption_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """Stripes of every direction in training; the same with noise, lighter, in test."""
    rng = np.random.default_rng(0)
    y, x = np.indices((64, 64))
    base = [
        127 + 100 * np.sin((x * np.cos(turn) + y * np.sin(turn)) / 3)
        for turn in np.linspace(0, np.pi, 7)[:-1]
    ]
    plain = np.stack(base)[..., None].repeat(3, axis=3)
    for name, pictures in (("train", plain), ("test", plain * 0.8 + 40 + rng.normal(0, 5, plain.shape))):
        np.savez(tmp_path / f"{name}.npz", images=pictures.clip(0, 255).astype(np.uint8))
        rows = [{"image": n, "captions": [f"stripes of direction {n}"]} for n in range(len(base))]
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return tmp_path


def test_the_nearest_picture_is_found_by_pixels_and_by_gradients(benchmark, data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["caption.py", "--data", str(data)])
    benchmark.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "nearest" in line]
    assert len(rows) == 2
    assert all("/ 100.0 / 100.0 |" in row for row in rows)


def test_gradients_know_the_direction_and_not_the_light(benchmark):
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[:, None, None].repeat(64, 1).repeat(3, 2)
    upright = benchmark.gradients(ramp)
    np.testing.assert_allclose(benchmark.gradients(0.5 * ramp + 0.2), upright, atol=5e-3)
    lying = benchmark.gradients(ramp.swapaxes(0, 1))
    assert abs(upright @ lying) < 1e-6
    np.testing.assert_allclose(np.square(upright.reshape(49, -1)).sum(axis=1), 1, atol=1e-2)
