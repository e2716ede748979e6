"""CTranslate2 computes what the model computes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch

from regard._errors import ConfigError
from regard.export import export
from regard.nn import EncoderDecoder, Shape

NEEDS_PEER = "ctranslate2 is not installed: make install"
LIKE_OURS = {"min_decoding_length": 0, "return_scores": True}


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("ctranslate2", reason=NEEDS_PEER)


@pytest.fixture(scope="module")
def folder(peer, usual, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctranslate2") / "model"
    export(usual, "ctranslate2", folder)
    return folder


@pytest.fixture(scope="module")
def translator(peer, folder):
    return peer.Translator(str(folder), compute_type="float32", intra_threads=1)


def pieces(predictor, text):
    tokenizer = predictor.task.tokenizer
    return tokenizer.pieces(tokenizer.encode(text))


def limit(predictor, text):
    """How many pieces our own search writes at most, its end left out."""
    return 2 * (len(pieces(predictor, text)) + 1) + 9


def test_any_target_has_the_same_score(usual, translator, sentences, scores_of):
    rng = np.random.default_rng(0)
    targets = [rng.integers(3, len(usual.task.tokenizer), size).tolist() for size in range(len(sentences))]
    names = [usual.task.tokenizer.pieces(target) for target in targets]
    found = translator.score_batch([pieces(usual, text) for text in sentences], names)
    for text, target, result in zip(sentences, targets, found, strict=True):
        np.testing.assert_allclose(result.log_probs, scores_of(usual, text, target), atol=1e-4)


def test_greedy_translations_are_the_same(usual, translator, sentences):
    ours = usual.task.predict(usual.model, sentences, beam=1)
    for text, one in zip(sentences, ours, strict=True):
        length = limit(usual, text)
        (alone,) = translator.translate_batch(
            [pieces(usual, text)], beam_size=1, max_decoding_length=length, **LIKE_OURS
        )
        assert alone.hypotheses[0] == usual.task.tokenizer.pieces(one.pieces)
        if len(one.pieces) < length:
            assert alone.scores[0] == pytest.approx(one.score, abs=1e-4)
    longest = max(limit(usual, text) for text in sentences)
    together = translator.translate_batch(
        [pieces(usual, text) for text in sentences],
        beam_size=1,
        max_decoding_length=longest,
        **LIKE_OURS,
    )
    for text, one, result in zip(sentences, ours, together, strict=True):
        written = usual.task.tokenizer.pieces(one.pieces)
        assert result.hypotheses[0][: limit(usual, text)] == written


def test_beam_search_finds_the_same(usual, translator, records, scores_of):
    """With `patience`, because CTranslate2 stops when a beam is full and we when it can't be overtaken."""
    tokenizer = usual.task.tokenizer
    sentences = [record.fields["source"] for record in records[:20]]
    for text, one in zip(sentences, usual.task.predict(usual.model, sentences, beam=5), strict=True):
        (found,) = translator.translate_batch(
            [pieces(usual, text)],
            beam_size=5,
            patience=4,
            max_decoding_length=limit(usual, text),
            **LIKE_OURS,
        )
        assert found.hypotheses[0] == tokenizer.pieces(one.pieces)
        assert found.scores[0] == pytest.approx(one.score, abs=1e-4)
        assert found.scores[0] == pytest.approx(scores_of(usual, text, one.pieces).mean(), abs=1e-4)


def test_the_tokenizer_lies_beside_the_model(usual, folder, sentences):
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in sentences:
        assert core.encode(text).tokens == pieces(usual, text)


@pytest.mark.parametrize("sizes", [{"qk_norm": False}, {"heads": 1}])
def test_other_shapes(peer, usual, tmp_path, sizes, scores_of):
    torch.manual_seed(0)
    length = len(usual.task.tokenizer)
    shape = Shape(length, **{"dim": 16, "heads": 2, "hidden": 24, "encoder_layers": 1, **sizes})
    other = SimpleNamespace(model=EncoderDecoder(shape).eval(), task=usual.task)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(3)  # far from even
    export(other, "ctranslate2", tmp_path)
    translator = peer.Translator(str(tmp_path), compute_type="float32")
    (found,) = translator.score_batch([pieces(usual, "Who are you?")], [pieces(usual, "I.")])
    target = usual.task.tokenizer.encode("I.")
    np.testing.assert_allclose(found.log_probs, scores_of(other, "Who are you?", target), atol=1e-4)


def test_without_the_package_the_remedy_is_told(usual, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ctranslate2.specs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ConfigError, match=r"ctranslate2 is not installed.*pip install 'regard\[export\]'"):
        export(usual, "ctranslate2", tmp_path / "model")
    assert not (tmp_path / "model").exists()
