"""Texts as vectors: pooled and normalized as the folder says, the same in batches of any size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pretrained_folders as folders
import regard
from regard.data.embedding import SentenceEncoder, _batches

CONFIG = folders.CONFIGS["bert"]
TEXTS = ["Who ran?", "", "A dog ran. Dogs ran.", "unable 狗", "a " * 60]


def sentence_folder(path, pooling=None, kinds=("Transformer", "Pooling", "Normalize"), **settings):
    folder = folders.write_folder(path / "m", CONFIG)
    names = [
        {"type": f"st.models.{kind}", "path": f"{number}_{kind}" if number else ""}
        for number, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(names))
    (folder / "1_Pooling").mkdir()
    pooling = (
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False} if pooling is None else pooling
    )
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if settings:
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return folder


def expected(encoder, text, longest=20, pooling="mean", normalize=True):
    """A text's vector by the formula in float64."""
    ids = encoder.tokenizer.join(encoder.tokenizer.encode(text)[: longest - 2])[0]
    states = folders.hidden_states(CONFIG, folders.random_tensors(CONFIG), ids)[-1]
    vector = states.mean(0) if pooling == "mean" else states[0]
    return vector / np.linalg.norm(vector) if normalize else vector


@pytest.mark.parametrize("tokens", [1, 30, 4096])
def test_vectors_are_those_of_the_formula_in_batches_of_any_size(tmp_path, tokens):
    encoder = SentenceEncoder.load(sentence_folder(tmp_path))
    vectors = encoder.embed(TEXTS, tokens=tokens)
    assert vectors.shape == (5, 12)
    assert not vectors.requires_grad
    for vector, text in zip(vectors, TEXTS, strict=True):
        np.testing.assert_allclose(vector, expected(encoder, text), atol=2e-6)
    torch.testing.assert_close(encoder.embed(TEXTS[0]), vectors[0], rtol=1e-5, atol=1e-6)


def test_no_texts_give_no_vectors(tmp_path):
    assert SentenceEncoder.load(sentence_folder(tmp_path)).embed([]).shape == (0, 12)


@pytest.mark.parametrize("key", ["pooling_mode_cls_token", "pooling_mode"])
def test_the_folder_decides_how_it_is_pooled(tmp_path, key):
    pooling = {key: "cls" if key == "pooling_mode" else True, "include_prompt": True}
    folder = sentence_folder(
        tmp_path, pooling, ("Transformer", "Pooling"), max_seq_length=6, do_lower_case=True
    )
    encoder = SentenceEncoder.load(folder)
    for text in TEXTS:
        np.testing.assert_allclose(encoder.embed(text), expected(encoder, text, 6, "cls", False), atol=1e-5)


def test_a_folder_of_an_encoder_alone_gives_the_mean(tmp_path):
    encoder = SentenceEncoder.load(folders.write_folder(tmp_path / "m", CONFIG))
    np.testing.assert_allclose(encoder.embed("a dog"), expected(encoder, "a dog", normalize=False), atol=1e-5)


def test_the_prompt_of_the_folder_stands_before_every_text(tmp_path):
    folder = sentence_folder(tmp_path)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": {"ask": "who "}, "default_prompt_name": "ask"}))
    encoder = SentenceEncoder.load(folder)
    np.testing.assert_allclose(encoder.embed("ran"), expected(encoder, "who ran"), atol=2e-6)
    (folder / "1_Pooling" / "config.json").write_text('{"include_prompt": false}')
    with pytest.raises(regard.ConfigError, match="prompt"):
        SentenceEncoder.load(folder)


def test_an_encoder_in_training_is_used_without_dropout_and_goes_on_training(tmp_path):
    encoder = SentenceEncoder.load(sentence_folder(tmp_path))
    before = encoder.embed(TEXTS)
    encoder.encoder.train()
    assert torch.equal(encoder.embed(TEXTS), before)
    assert encoder.encoder.training


@given(lengths=st.lists(st.integers(0, 50), max_size=30), tokens=st.integers(1, 60))
def test_batches_hold_every_sequence_once_within_the_budget(lengths, tokens):
    batches = list(_batches(lengths, tokens))
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[index] for index in batch) <= tokens for batch in batches)


@pytest.mark.parametrize(
    ("pooling", "kinds", "message"),
    [
        (
            {"pooling_mode_max_tokens": True},
            ("Transformer", "Pooling"),
            "one of mean, cls. Received: max_tokens",
        ),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            ("Transformer", "Pooling"),
            "Received: mean, cls",
        ),
        (
            None,
            ("Transformer", "Pooling", "Dense"),
            "Expected: Transformer, Pooling, Normalize. Received: Dense",
        ),
    ],
)
def test_steps_that_are_not_known_are_refused(tmp_path, pooling, kinds, message):
    with pytest.raises(regard.ConfigError, match=message):
        SentenceEncoder.load(sentence_folder(tmp_path, pooling, kinds))


def test_options_and_texts_are_checked(tmp_path):
    encoder = SentenceEncoder.load(sentence_folder(tmp_path))
    with pytest.raises(regard.DataError, match=r"not a string.*int"):
        encoder.embed(["a", 3])
    with pytest.raises(regard.ConfigError, match="Received 'max'"):
        SentenceEncoder(encoder.encoder, encoder.tokenizer, pooling="max")
    for longest in (2, 21):
        with pytest.raises(regard.ConfigError, match=f"3 to 20 tokens here. Received longest={longest}"):
            SentenceEncoder(encoder.encoder, encoder.tokenizer, longest=longest)
