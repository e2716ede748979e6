from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # onnx's own generators divide by zero and cast infinities
    from onnx.backend.test.loader import load_model_tests
    from onnx.backend.test.runner import Runner

    CASES = [
        case
        for case in load_model_tests(kind="node")
        if case.name.startswith("test_attention") and not case.name.endswith("_expanded")
    ]

from regard._errors import BackendError
from regard.backends import reference
from regard.compat.onnx import backend


def test_all_cases_are_here():
    assert len(CASES) == 93


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax", "tensorflow"])
def test_conformance(case, framework, monkeypatch):
    if framework != "numpy":  # computed by the framework's backend, not by the NumPy specification
        monkeypatch.setattr(reference, "forward", None)
        monkeypatch.setattr(reference, "look", None)
    for inputs, expected in case.data_sets:
        received = backend(framework).run_model(case.model, inputs)
        assert len(received) == len(expected)
        for output, wanted in zip(received, expected, strict=True):
            assert isinstance(output, np.ndarray)
            assert output.dtype == wanted.dtype
        # ONNX's own comparison: the case's tolerance, and for bfloat16 two units in the last place.
        Runner.assert_similar_outputs(expected, received, case.rtol, case.atol)


def model_of(node):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 4])
    graph = helper.make_graph([node], "model", [value], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def test_inputs_may_be_named():
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    model = model_of(helper.make_node("Attention", ["x", "x", "x"], ["y"]))
    (named,) = backend("numpy").run_model(model, {"x": x})
    (listed,) = backend("torch").run_model(model, [x])
    np.testing.assert_allclose(named, listed, atol=1e-6)


def test_other_nodes_and_frameworks_are_refused():
    with pytest.raises(BackendError, match="Attention nodes only, got Relu"):
        backend("numpy").prepare(model_of(helper.make_node("Relu", ["x"], ["y"])))
    with pytest.raises(BackendError, match="got 'pytorch'; did you mean 'torch'"):
        backend("pytorch")
    assert backend("torch").supports_device("CPU")
    assert not backend("torch").supports_device("CUDA")
