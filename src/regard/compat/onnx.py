"""ONNX: a backend that runs `Attention` nodes (opsets 23 to 25) through `regard.attention`.

Shapes: B batch, T queries, S keys, H query heads, J key heads, D head size; ONNX has heads before lengths, we after.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard._attention import attention
from regard._aux import Aux
from regard._biases import DenseBias
from regard._errors import BackendError, nearest
from regard._masks import Causal, Coordinates, Dense, Lengths, Mask, Window
from regard.compat._onnx_verbs import FRAMEWORKS, NumPyVerbs

_INPUTS = "query", "key", "value", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"
_RAW, _CAPPED, _MASKED, _WEIGHTS = range(4)


@functools.cache
def backend(name: str) -> type:
    """A subclass of `onnx.backend.base.Backend` that computes in the named framework, "numpy", "torch", "jax" or "tensorflow".

    `backend("torch").run_model(model, inputs)` takes NumPy inputs and returns a tuple of NumPy outputs, as ONNX's own
    tests want. The model may hold `Attention` nodes only.

    Raises:
        BackendError: no such framework, onnx is not installed, or (when run) a node that is no `Attention`.

    Source: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    if name not in FRAMEWORKS:
        raise BackendError(
            f"regard.compat.onnx computes in {' or '.join(FRAMEWORKS)}, got {name!r}{nearest(name, FRAMEWORKS)}"
        )
    try:
        from onnx.backend.base import Backend, BackendRep
    except ImportError as error:
        raise BackendError(
            "regard.compat.onnx needs onnx; install it with `pip install regard[export]`"
        ) from error

    class Prepared(BackendRep):
        """A model ready to run."""

        def __init__(self, model: Any) -> None:
            self.model = model

        def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
            return _run(self.model, inputs, FRAMEWORKS[name])

    class RegardBackend(Backend):
        """Runs models of `Attention` nodes."""

        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Prepared:
            super().prepare(model, device, **kwargs)
            _check_nodes(model)
            return Prepared(model)

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device.split(":", maxsplit=1)[0] == "CPU"

    return RegardBackend


@dataclass(frozen=True, eq=False)
class _Node:
    """One `Attention` node's arrays, with lengths before heads, and what its attributes say."""

    framework: type[NumPyVerbs]
    query: Any  # (B, T, H, D)
    key: Any  # (B, S, J, D), past and present
    value: Any
    mask: Mask | None
    bias: Any | None
    query_start: Any
    scale: float
    softcap: float | None

    def attend(self, aux: Aux | None = None) -> Any:
        bias = None if self.bias is None else DenseBias(self.bias)
        return attention(
            self.query, self.key, self.value, mask=self.mask, bias=bias, query_start=self.query_start,
            scale=self.scale, softcap=self.softcap, return_aux=aux,
        )  # fmt: skip

    def scores(self, mode: int) -> Any:
        """(B, H, T, S): all scores at the stage that ONNX calls `mode`; a look inside that costs T x S."""
        if mode == _WEIGHTS:
            return self._weights()
        query, key = (
            self.framework.swap(self.framework.widen(array, False)) for array in (self.query, self.key)
        )
        batch, heads, length, size = query.shape
        grouped = self.framework.reshape(query, (batch, key.shape[1], heads // key.shape[1], length, size))
        turned = self.framework.swap(key[:, :, None], 3, 4)
        scores = self.framework.reshape(grouped @ turned, (batch, heads, length, -1)) * self.scale
        if mode >= _CAPPED and self.softcap is not None:
            scores = self.framework.tanh(scores / self.softcap) * self.softcap
        if mode == _MASKED:
            scores = scores if self.bias is None else scores + self.bias
            scores = scores if self.mask is None else self.framework.mask(scores, self._allowed(self.mask))
        return scores

    def _weights(self) -> Any:
        batch, length, heads, _ = self.query.shape
        rows = self.attend(Aux(rows=range(batch * length)))[1].rows
        missing = self.key.shape[1] - rows.shape[-1]
        rows = self.framework.join([rows, self.framework.full(rows, (*rows.shape[:-1], missing), 0)], -1)
        return self.framework.swap(self.framework.reshape(rows, (batch, length, heads, -1)))

    def _allowed(self, mask: Mask) -> Any:
        batch, length, heads, _ = self.query.shape
        sequence = np.arange(batch)[:, None, None, None]
        row, key = np.arange(length)[:, None], np.arange(self.key.shape[1])
        start = np.broadcast_to(self.query_start, (batch,))[sequence]
        at = Coordinates(
            sequence=self.framework.bring(sequence),
            head=self.framework.bring(np.arange(heads)[:, None, None]),
            row=self.framework.bring(row),
            position=self.framework.bring(start + row),
            key=self.framework.bring(key),
            query_token=self.framework.bring(row),
            key_token=self.framework.bring(key),
            bring=self._bring,
        )
        return mask.allows(at)

    def _bring(self, array: Any) -> Any:
        return self.framework.bring(array) if isinstance(array, np.ndarray) else array


def _run(model: Any, inputs: Any, framework: type[NumPyVerbs]) -> tuple[Any, ...]:
    from onnx import numpy_helper

    graph = model.graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if isinstance(inputs, Mapping):
        values.update(inputs)
    else:
        names = [value.name for value in graph.input if value.name not in values]
        values.update(zip(names, inputs, strict=True))
    for node in graph.node:
        results = _attention_node(node, [values[name] if name else None for name in node.input], framework)
        values.update((name, result) for name, result in zip(node.output, results, strict=False) if name)
    return tuple(values[output.name] for output in graph.output)


def _check_nodes(model: Any) -> None:
    others = sorted({node.op_type for node in model.graph.node} - {"Attention"})
    if others:
        raise BackendError(f"regard.compat.onnx runs Attention nodes only, got {', '.join(others)}")


def _attention_node(node: Any, inputs: Sequence[Any], framework: type[NumPyVerbs]) -> list[Any]:
    """The node's outputs, as many as it names: Y, present_key, present_value, qk_matmul_output."""
    from onnx.helper import get_attribute_value

    attributes = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    arrays = dict(zip(_INPUTS, inputs, strict=False))
    dtype = arrays["query"].dtype
    lowered = _lowered(arrays, attributes, framework)
    out = lowered.attend()
    out = framework.swap(out) if arrays["query"].ndim == 4 else framework.reshape(out, (*out.shape[:2], -1))
    results = [out, framework.swap(lowered.key), framework.swap(lowered.value)]
    if len(node.output) > 3 and node.output[3]:
        results.append(lowered.scores(attributes.get("qk_matmul_output_mode", _RAW)))
    return [framework.take_back(result, dtype) for result in results]


def _lowered(arrays: Mapping[str, Any], attributes: Mapping[str, Any], framework: type[NumPyVerbs]) -> _Node:
    past_length = 0 if arrays.get("past_key") is None else arrays["past_key"].shape[2]
    query, key, value = (
        _lengths_first(framework, framework.bring(arrays[name]), attributes.get(heads))
        for name, heads in (("query", "q_num_heads"), ("key", "kv_num_heads"), ("value", "kv_num_heads"))
    )
    if past_length:
        key, value = (
            framework.join([framework.swap(framework.bring(arrays[name])), present], 1)
            for name, present in (("past_key", key), ("past_value", value))
        )
    valid = arrays.get("nonpad_kv_seqlen")
    start = (
        past_length if valid is None or past_length else valid.astype(np.int64).reshape(-1) - query.shape[1]
    )
    mask, bias = _mask_and_bias(arrays.get("attn_mask"), key.shape[1], framework)
    parts: list[Mask] = [] if mask is None else [mask]
    if attributes.get("is_causal", 0):
        parts.append(Causal())
    left, right = attributes.get("left_window_size", -1), attributes.get("right_window_size", -1)
    if left >= 0 or right >= 0:
        parts.append(Window(math.inf if left < 0 else left, math.inf if right < 0 else right))
    if valid is not None:
        parts.append(Lengths(k=valid.astype(np.int64).reshape(-1)))
    double = attributes.get("softmax_precision") == 11  # onnx.TensorProto.DOUBLE
    if double:
        query, key, value = (framework.widen(array, True) for array in (query, key, value))
    return _Node(
        framework,
        query,
        key,
        value,
        functools.reduce(lambda a, b: a & b, parts) if parts else None,
        bias,
        start,
        attributes.get("scale", query.shape[-1] ** -0.5),
        attributes.get("softcap", 0.0) or None,
    )


def _lengths_first(framework: type[NumPyVerbs], array: Any, heads: int | None) -> Any:
    """(B, H, T, D) or (B, T, H * D) -> (B, T, H, D)."""
    if array.ndim == 4:
        return framework.swap(array)
    shape: Any = (*array.shape[:2], heads, -1)
    return framework.reshape(array, shape)


def _mask_and_bias(attn_mask: Any, keys: int, framework: type[NumPyVerbs]) -> tuple[Mask | None, Any | None]:
    """ONNX's one input as what it is: boolean a mask, numbers a bias; keys past its end are masked."""
    if attn_mask is None:
        return None, None
    array = framework.bring(attn_mask)
    if array.ndim < 2:
        array = framework.reshape(array, (1,) * (2 - array.ndim) + tuple(array.shape))
    missing = max(0, keys - array.shape[-1])
    boolean = attn_mask.dtype == np.bool_
    if missing:
        rest = framework.full(array, (*array.shape[:-1], missing), False if boolean else -math.inf)
        array = framework.join([array, rest], -1)
    return (Dense(array), None) if boolean else (None, array)
