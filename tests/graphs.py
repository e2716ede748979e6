"""ONNX graphs of layers beside the layers: padded inputs, two programs that run them, and one tolerance."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator


def runner(path, name):
    if name == "reference":
        return ReferenceEvaluator(onnx.load(path)).run
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make install")
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run


def padded(packed, junk):
    out = np.full((len(packed), max(packed.lengths), packed.values.shape[-1]), junk, np.float32)
    for row, part in zip(out, packed.unpack(), strict=True):
        row[: len(part)] = part
    return out


def compare(path, program, inputs, expected):
    (found,) = runner(path, program)(None, inputs)
    for row, part in zip(found, expected.unpack(), strict=True):
        np.testing.assert_allclose(row[: len(part)], part.numpy(), atol=2e-6, rtol=1e-5)
