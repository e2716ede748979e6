"""Encoder and vocabulary from one folder, in the layouts in which they are published, or from the hub."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import pretrained_folders as folders
import regard
from regard.data.pretrained import FILES, load_encoder, local_folder

CONFIG = folders.CONFIGS["bert"]


def test_a_folder_gives_encoder_and_tokenizer(tmp_path):
    encoder, tokenizer = load_encoder(str(folders.write_folder(tmp_path / "m", CONFIG)))
    pair = tokenizer.encode_pair("Who ran?", "A dog.")
    states = encoder(regard.Packed.pack([torch.tensor(pair.ids)]), torch.tensor(pair.token_types))
    expected = folders.hidden_states(CONFIG, folders.random_tensors(CONFIG), pair.ids, pair.token_types)
    torch.testing.assert_close(
        states.values.double().detach(), torch.from_numpy(expected[-1]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("path", ["", "0_Transformer"])
def test_the_layout_of_sentence_transformers(tmp_path, path):
    folders.write_folder(tmp_path / "m", CONFIG) if not path else (tmp_path / "m").mkdir()
    if path:
        folders.write_folder(tmp_path / "m" / path, CONFIG)
    (tmp_path / "m" / "modules.json").write_text(json.dumps([{"type": "a.b.Transformer", "path": path}]))
    encoder, tokenizer = load_encoder(tmp_path / "m")
    assert encoder.shape.vocabulary == len(tokenizer)


@pytest.mark.parametrize("rows", [15, 16 + 128])
def test_a_vocabulary_of_another_size_is_refused(tmp_path, rows):
    config = CONFIG | {"vocab_size": rows}
    folders.write_folder(tmp_path / "m", config)
    with pytest.raises(regard.CheckpointError, match=f"a vocabulary of {rows} pieces.*Received: 16"):
        load_encoder(tmp_path / "m")


def test_a_table_with_room_is_not(tmp_path):
    encoder, tokenizer = load_encoder(folders.write_folder(tmp_path / "m", CONFIG | {"vocab_size": 24}))
    assert (encoder.shape.vocabulary, len(tokenizer)) == (24, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ('{"a": 3}', "is damaged"),
        ("[3]", "is damaged"),
        ("[]", "no modules"),
        ('[{"type": "x.CLIPModel", "path": ""}]', "Transformer first. Received: CLIPModel"),
    ],
)
def test_damaged_modules(tmp_path, content, message):
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    (folder / "modules.json").write_text(content)
    with pytest.raises(regard.CheckpointError, match=message):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "../x", "a b", ""])
def test_a_path_that_is_no_folder_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if not name:
        name = "file"
        (tmp_path / name).touch()
    with pytest.raises(regard.CheckpointError, match=r"is no folder\. Expected"):
        local_folder(name)


def test_without_a_network_the_hub_is_refused(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface-hub is not installed")

    def offline(name, allow_patterns):
        assert (name, allow_patterns) == ("owner/name", FILES)
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(
        regard.CheckpointError, match=r"hub did not give.*no network\).*download the model elsewhere"
    ):
        load_encoder("owner/name")


def test_with_a_network_the_hub_gives_a_folder(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface-hub is not installed")
    folder = folders.write_folder(tmp_path / "m", CONFIG)
    monkeypatch.setattr(hub, "snapshot_download", lambda name, allow_patterns: str(folder))
    assert load_encoder("owner/name")[0].shape.dim == 12


def test_without_the_package_of_the_hub_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(regard.CheckpointError, match=r"pip install 'regard\[hub\]'"):
        load_encoder("owner/name")
