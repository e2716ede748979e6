"""A graph of ONNX operators, written down one call an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.export.files import needed

OPSET, IR_VERSION = 23, 11  # the first with Attention, RMSNormalization and RotaryEmbedding


class Graph:
    """Operators and constants in the order in which they are written.

    Arguments:
        name: of the graph, for people.
    """

    def __init__(self, name: str) -> None:
        self.onnx = needed("onnx", "onnx")
        self.name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One operator with one output, whose name is returned."""
        return self.add_several(operator, 1, *inputs, **attributes)[0]

    def add_several(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """One operator with several outputs."""
        names = [f"{operator}_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(self.onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """An array that is part of the model."""
        name = f"constant_{len(self._constants)}"
        array: NDArray[Any] = np.asarray(value, dtype)
        self._constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def input(self, name: str, dtype: Any, shape: list[int | str]) -> str:
        """An input; names in its shape are free sizes."""
        self._inputs.append(self._described(name, dtype, shape))
        return name

    def output(self, source: str, name: str, dtype: Any, shape: list[int | str]) -> None:
        """Give what an operator made a name of its own, as an output."""
        self._nodes.append(self.onnx.helper.make_node("Identity", [source], [name]))
        self._outputs.append(self._described(name, dtype, shape))

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Check the graph, infer its shapes strictly, and write it with these facts as metadata."""
        onnx = self.onnx
        graph = onnx.helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._constants)
        opsets = [onnx.helper.make_opsetid("", OPSET)]
        model = onnx.helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="regard"
        )
        onnx.helper.set_model_props(model, facts)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)

    def _described(self, name: str, dtype: Any, shape: list[int | str]) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)
