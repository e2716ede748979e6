"""What every export refuses, and leaves as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regard._errors import ConfigError
from regard.export import export
from regard.nn import EncoderDecoder, Shape


def of(model, usual):
    return SimpleNamespace(model=model, task=usual.task)


def test_an_unknown_format_names_the_nearest(usual, tmp_path):
    with pytest.raises(ConfigError, match="there is no format 'onx'; did you mean 'onnx'"):
        export(usual, "onx", tmp_path)


def test_an_export_replaces_an_export_and_nothing_else(usual, tmp_path):
    first = [path.read_bytes() for path in export(usual, "onnx", tmp_path)]
    assert [path.read_bytes() for path in export(usual, "onnx", tmp_path)] == first
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds other files \(notes.txt\); nothing was changed"):
        export(usual, "onnx", tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        export(usual, "onnx", tmp_path / "notes.txt")


def test_other_models_are_refused(usual, tmp_path):
    with pytest.raises(ConfigError, match=r"only translation models can be exported.*Received: Linear"):
        export(of(nn.Linear(2, 2), usual), "onnx", tmp_path)


def small():
    return EncoderDecoder(Shape(20, dim=8, heads=2, hidden=8, encoder_layers=1, decoder_layers=1))


def test_other_blocks_are_refused(usual, tmp_path):
    model = small()
    model.encoder.blocks[0] = nn.Identity()
    with pytest.raises(ConfigError, match="expected blocks of EncoderBlock, received Identity"):
        export(of(model, usual), "onnx", tmp_path)


def test_a_parameter_without_a_place_is_refused(usual, tmp_path):
    model = small()
    model.gain = nn.Parameter(torch.ones(3))
    with pytest.raises(ConfigError, match="no place for gain"):
        export(of(model, usual), "onnx", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_parameter_of_another_shape_is_refused(usual, tmp_path):
    model = small()
    model.decoder.blocks[0].feed_forward.down = nn.Linear(9, 8, bias=False)
    with pytest.raises(ConfigError, match=r"down.weight of shape \(8, 8\), received \(8, 9\)"):
        export(of(model, usual), "onnx", tmp_path / "model")


@pytest.mark.parametrize("name", ["eps", "base"])
def test_other_numbers_than_ours_are_refused(usual, tmp_path, name):
    model = small()
    setattr(model.decoder.norm if name == "eps" else model.decoder.rotary, name, 1e-5)
    with pytest.raises(ConfigError, match=f"received .* with .*{name}=1e-05"):
        export(of(model, usual), "onnx", tmp_path / "model")
