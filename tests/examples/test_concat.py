from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "examples" / "concat.py"


@pytest.fixture(scope="module")
def concat():
    spec = importlib.util.spec_from_file_location("concat_example", PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


@pytest.fixture
def x():
    return np.random.default_rng(3).normal(size=(2, 5, 8))


def by_hand(x, p):
    query, key, value = x @ p.query, x @ p.key, x @ p.value
    scores = np.exp(query @ np.swapaxes(key, -1, -2) / np.sqrt(x.shape[-1]))
    context = scores / scores.sum(-1, keepdims=True) @ value
    return np.concatenate([query, context], -1) @ p.output + p.bias


def test_numpy_is_the_formula(concat, x):
    parameters = concat.Parameters.draw(8)
    np.testing.assert_allclose(concat.with_numpy(x, parameters), by_hand(x, parameters), rtol=0, atol=1e-12)


@pytest.mark.parametrize("trainable", [True, False])
def test_torch_gives_the_same_numbers(concat, x, trainable):
    parameters = concat.Parameters.draw(8)
    out = concat.with_torch(x, parameters, trainable=trainable).detach().numpy()
    np.testing.assert_allclose(out, concat.with_numpy(x, parameters), rtol=0, atol=1e-12)


@pytest.mark.parametrize("trainable", [True, False])
def test_tensorflow_gives_the_same_numbers(concat, tensorflow, x, trainable):
    parameters = concat.Parameters.draw(8)
    out = concat.with_tensorflow(x, parameters, trainable=trainable)
    np.testing.assert_allclose(out, concat.with_numpy(x, parameters), rtol=0, atol=1e-12)


def test_the_published_version_fails_as_said(concat, tensorflow):
    square_root, layers = concat.why_the_published_version_fails()
    assert "int32" in square_root
    assert "has no attribute 'layers'" in layers


def test_the_example_runs(concat, tensorflow, capsys):
    concat.main()
    assert "TensorFlow differs by" in capsys.readouterr().out
