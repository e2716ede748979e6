"""An attention layer's graph computes what the layer computes, in ONNX Runtime and as ONNX itself says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from graphs import compare, padded
from regard import Causal, Lengths, Packed, Window
from regard._errors import ConfigError
from regard.export import attention_to_onnx
from regard.nn import CrossAttention, SelfAttention

LAYERS = {
    "plain": ({"bias": True}, None),
    "causal": ({"kv_heads": 2}, Causal()),
    "window": ({"rotary": True, "qk_norm": True, "kv_heads": 1}, Window(2, 1)),
    "causal window": ({"rotary": True, "head_dim": 6, "dropout": 0.5}, Causal() & Window(3)),
    "concat": ({"combine": "concat", "qk_norm": True}, Causal()),
}
LENGTHS = [5, 1, 7]


@pytest.mark.parametrize("program", ["runtime", "reference"])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_self_attention(tmp_path, name, program):
    options, mask = LAYERS[name]
    torch.manual_seed(0)
    layer = SelfAttention(16, heads=4, **options).eval()
    path = attention_to_onnx(layer, tmp_path / "layer.onnx", mask=mask)
    x = Packed.pack([torch.randn(length, 16) for length in LENGTHS])
    inputs = {"x": padded(x, 3.0), "lengths": np.array(LENGTHS)}
    compare(path, program, inputs, layer(x, mask=mask))
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "Attention" in operators
    assert "Softmax" not in operators


@pytest.mark.parametrize("program", ["runtime", "reference"])
@pytest.mark.parametrize("options", [{}, {"kv_heads": 2, "qk_norm": True, "bias": True, "context_dim": 10}])
@pytest.mark.parametrize("lengths", [(2, 9, 4), (1, 1, 1), (0, 3, 1)])
@torch.no_grad()
def test_cross_attention(tmp_path, lengths, options, program):
    torch.manual_seed(0)
    layer = CrossAttention(16, heads=4, **options)
    path = attention_to_onnx(layer, str(tmp_path / "layer.onnx"))
    x = Packed.pack([torch.randn(length, 16) for length in LENGTHS])
    context = Packed.pack([torch.randn(length, options.get("context_dim", 16)) for length in lengths])
    inputs = {"x": padded(x, 3.0), "context": padded(context, 5.0), "context_lengths": np.array(lengths)}
    compare(path, program, inputs, layer(x, context))


def test_what_has_no_graph_is_refused(tmp_path):
    layer, path = SelfAttention(16, heads=4), tmp_path / "layer.onnx"
    for mask in (Lengths(k=3), Window(4, dilation=2), ~Causal()):
        with pytest.raises(ConfigError, match="takes the masks Causal and Window, joined by &, got"):
            attention_to_onnx(layer, path, mask=mask)
    with pytest.raises(
        ConfigError, match=r"expected a regard.nn.SelfAttention or CrossAttention, got Linear"
    ):
        attention_to_onnx(torch.nn.Linear(2, 2), path)
    with pytest.raises(ConfigError, match="takes no mask in a graph"):
        attention_to_onnx(CrossAttention(16, heads=4), path, mask=Causal())
    assert not path.exists()
