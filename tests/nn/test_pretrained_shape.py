"""`config.json`: what is read, and what is refused by name."""

from __future__ import annotations

import json

import pytest

import pretrained_folders as folders
from regard import CheckpointError, ConfigError
from regard.nn.pretrained_shape import PretrainedShape, read_shape

MISSING = object()


def shape_of(tmp_path, architecture, **changes):
    config = folders.CONFIGS[architecture] | changes
    config = {key: value for key, value in config.items() if value is not MISSING}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return read_shape(tmp_path)


def test_the_sizes_of_each_architecture(tmp_path):
    plain = PretrainedShape(16, 12, 3, 2, 20, positions=20)
    assert shape_of(tmp_path, "bert") == plain
    roberta = shape_of(tmp_path, "roberta")
    assert (roberta.first_position, roberta.longest, roberta.token_types, roberta.eps) == (2, 18, 1, 1e-5)
    assert shape_of(tmp_path, "distilbert").token_types == 0
    electra = shape_of(tmp_path, "electra")
    assert (electra.embedding_dim, electra.approximate, electra.longest) == (8, "tanh", 20)
    assert (
        shape_of(tmp_path, "bert", hidden_dropout_prob=0, attention_probs_dropout_prob=0.25).attention_dropout
        == 0.25
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mpnet"}, "Expected: model_type one of bert, .*Received: 'mpnet'"),
        ({"model_type": "robreta"}, "did you mean 'roberta'"),
        ({"model_type": MISSING}, "'model_type' is missing"),
        ({"hidden_size": MISSING}, "'hidden_size' is missing.*Received the keys attention"),
        (
            {"vocab_size": "16"},
            "'vocab_size' cannot be used. Expected: an integer of at least 1. Received: '16'",
        ),
        ({"vocab_size": 0}, "'vocab_size' cannot be used"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' cannot be used"),
        ({"num_attention_heads": 5}, "a divisor of hidden_size=12. Received: 5"),
        ({"hidden_act": "relu"}, "one of gelu, gelu_new.*Received: 'relu'"),
        ({"hidden_act": ["gelu"]}, "one of gelu, gelu_new"),
        ({"hidden_dropout_prob": 1.0}, r"'hidden_dropout_prob' cannot be used.*Received: 1\.0"),
        ({"layer_norm_eps": None}, "'layer_norm_eps' cannot be used"),
        ({"position_embedding_type": "relative_key"}, "Expected: 'absolute'. Received: 'relative_key'"),
        ({"is_decoder": True}, "'is_decoder' cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        shape_of(tmp_path, "bert", **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "is damaged"),
        ("[]", "a JSON object. Received: list"),
        (b"\xff", "is damaged"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        read_shape(tmp_path)
