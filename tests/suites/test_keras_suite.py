from __future__ import annotations

import keras_suite
import pytest


@pytest.mark.parametrize(
    ("backend", "only"),
    [
        ("numpy", "NNOps"),
        *(pytest.param(backend, "", marks=pytest.mark.slow) for backend in keras_suite.BACKENDS),
    ],
)
def test_no_test_of_keras_fails_that_passes_with_its_own_operator(backend, only):
    theirs, ours = keras_suite.compare(backend, only)
    assert set(ours["failed"]) <= set(theirs["failed"])
    assert ours["tests"] == theirs["tests"] >= (15 if only else 120)
    assert ours["calls"] > 10
