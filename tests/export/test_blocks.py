"""A block's graph computes what the block computes, in ONNX Runtime and as ONNX itself says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from graphs import compare, padded
from regard import Causal, Packed, Window
from regard._errors import ConfigError
from regard.export import block_to_onnx
from regard.nn import DecoderBlock, EncoderBlock, RecurrentEncoderBlock

OPTIONS = [{}, {"kv_heads": 2, "dropout": 0.5}, {"qk_norm": False, "kv_heads": 1}]
LENGTHS = [(5, 1, 7), (1, 1, 1)]
CONTEXTS = [(2, 9, 4), (1, 0, 1)]
PROGRAMS = ["runtime", "reference"]


def packed(lengths):
    return Packed.pack([torch.randn(length, 16) for length in lengths])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mask", [None, Causal(), Window(2, 1), Causal() & Window(3)])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_encoder_block(tmp_path, options, lengths, mask, program):
    torch.manual_seed(0)
    block = EncoderBlock(16, heads=4, hidden=24, **options).eval()
    path = block_to_onnx(block, tmp_path / "block.onnx", mask=mask)
    x = packed(lengths)
    inputs = {"x": padded(x, 3.0), "lengths": np.array(lengths)}
    compare(path, program, inputs, block(x, mask=mask))
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Attention") == 1
    assert "Softmax" not in operators


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("contexts", CONTEXTS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_decoder_block(tmp_path, options, lengths, contexts, program):
    torch.manual_seed(0)
    block = DecoderBlock(16, heads=4, hidden=24, **options).eval()
    path = block_to_onnx(block, str(tmp_path / "block.onnx"))
    x, context = packed(lengths), packed(contexts)
    inputs = {
        "x": padded(x, 3.0),
        "lengths": np.array(lengths),
        "context": padded(context, 5.0),
        "context_lengths": np.array(contexts),
    }
    compare(path, program, inputs, block(x, context))
    assert [node.op_type for node in onnx.load(path).graph.node].count("Attention") == 2


@torch.no_grad()
def test_every_norm_keeps_its_own_eps(tmp_path):
    torch.manual_seed(0)
    block = DecoderBlock(16, heads=4, hidden=24)
    norms = "attention_norm", "context_norm", "feed_forward_norm"
    for name, eps in zip(norms, (0.5, 1.0, 2.0), strict=True):
        getattr(block, name).eps = eps
    block.attention.query_norm.eps, block.context_attention.query_norm.eps = 0.25, 4.0
    x, context = packed([3, 1]), packed([1, 2])
    inputs = {"x": padded(x, 3.0), "lengths": np.array([3, 1])}
    inputs |= {"context": padded(context, 5.0), "context_lengths": np.array([1, 2])}
    compare(block_to_onnx(block, tmp_path / "block.onnx"), "runtime", inputs, block(x, context))


def test_what_has_no_graph_is_refused(tmp_path):
    path = tmp_path / "block.onnx"
    with pytest.raises(ConfigError, match="a DecoderBlock is causal and takes no other mask, got Causal"):
        block_to_onnx(DecoderBlock(16, heads=4, hidden=24), path, mask=Causal())
    with pytest.raises(ConfigError, match="takes the masks Causal and Window, joined by &, got"):
        block_to_onnx(EncoderBlock(16, heads=4, hidden=24), path, mask=~Causal())
    for other in (torch.nn.Linear(2, 2), RecurrentEncoderBlock(16, heads=4, hidden=24)):
        with pytest.raises(ConfigError, match=f"DecoderBlock itself, got {type(other).__name__}"):
            block_to_onnx(other, path)
    exchanged = EncoderBlock(16, heads=4, hidden=24)
    exchanged.attention_norm = torch.nn.RMSNorm(16)
    with pytest.raises(
        ConfigError, match=r"expected attention_norm to be a RMSNorm of regard\.nn, got torch"
    ):
        block_to_onnx(exchanged, path)
    assert not path.exists()
