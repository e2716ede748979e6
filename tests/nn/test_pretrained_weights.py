"""Files of pretrained weights: the names of all years, every element type, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch

import pretrained_folders as folders
from regard import CheckpointError
from regard.nn import PretrainedEncoder

CONFIG = folders.CONFIGS["bert"]
FIRST = "encoder.layer.0.output.dense.weight"


def same(one, other):
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def changed(tmp_path, change, config=CONFIG):
    """The folder of an encoder whose tensors went through `change`."""
    tensors = folders.random_tensors(config)
    found = change(tensors)
    return folders.write_folder(tmp_path / "changed", config, tensors if found is None else found)


@pytest.mark.parametrize("architecture", folders.CONFIGS)
def test_prefixes_heads_and_old_names_make_no_difference(tmp_path, architecture):
    config = folders.CONFIGS[architecture]
    plain = PretrainedEncoder.load(folders.write_folder(tmp_path / "plain", config))

    def renamed(tensors):
        old = {}
        for name, tensor in tensors.items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            old[f"{architecture}.{name}"] = tensor
        old[f"{architecture}.pooler.dense.weight"] = np.zeros((12, 12), np.float32)
        old[f"{architecture}.embeddings.position_ids"] = np.arange(20)[None]
        old["cls.predictions.transform.LayerNorm.gamma"] = np.zeros(12, np.float32)
        return old

    assert same(plain, PretrainedEncoder.load(changed(tmp_path, renamed, config)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types_become_float32(tmp_path, dtype):
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    tensors = {
        name: torch.from_numpy(tensor).to(dtype) for name, tensor in folders.random_tensors(CONFIG).items()
    }
    save_torch(tensors, folder / "model.safetensors")
    encoder = PretrainedEncoder.load(folder)
    assert torch.equal(encoder.words.weight, tensors["embeddings.word_embeddings.weight"].float())
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert not encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_loading_leaves_the_file_alone(tmp_path):
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    before = (folder / "model.safetensors").read_bytes()
    encoder = PretrainedEncoder.load(folder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before
    assert not same(encoder, PretrainedEncoder.load(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FIRST) is None or None, rf"'{FIRST}' is missing. Expected: shape \(12, 20\)"),
        (
            lambda t: t.update({FIRST: np.zeros((12, 19), "f4")}),
            rf"'{FIRST}' does not fit.*\(12, 20\).*\(12, 19\)",
        ),
        (
            lambda t: t.update({"embeddings.word_embeddings.weight": np.zeros((17, 12), "f4")}),
            r"word_embeddings.weight' does not fit. Expected: shape \(16, 12\).*Received: \(17, 12\)",
        ),
        (lambda t: t.update({FIRST: np.zeros((12, 20), "i1")}), rf"'{FIRST}' cannot be used.*floating.*int8"),
        (
            lambda t: t.update({"encoder.layer.2.output.dense.bias": np.zeros(12, "f4")}),
            "'encoder.layer.2.output.dense.bias' has no place",
        ),
        (lambda t: {"lm.weight": np.zeros(3, "f4")}, "holds 0 encoders.*Received: lm.weight"),
        (lambda t: {**t, **{f"other.{k}": v.copy() for k, v in t.items()}}, "holds 2 encoders"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        PretrainedEncoder.load(changed(tmp_path, change))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "pytorch_model.bin, which is pickled.*save_pretrained"),
        ("model.safetensors.index.json", "several files.*save the model anew"),
        (None, "Received: no weights at all"),
    ],
)
def test_other_files_are_refused_with_the_remedy(tmp_path, name, message):
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    (folder / "model.safetensors").unlink()
    if name is not None:
        (folder / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(CheckpointError, match=message):
        PretrainedEncoder.load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_file_is_refused(tmp_path, keep):
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        PretrainedEncoder.load(folder)


def test_a_configuration_of_more_than_the_file_holds_allocates_nothing(tmp_path):
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 10**12}))
    with pytest.raises(CheckpointError, match=r"Expected: shape \(1000000000000, 12\)"):
        PretrainedEncoder.load(folder)
