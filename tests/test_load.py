"""`regard.load`: a run folder becomes something that is called."""

from __future__ import annotations

import numpy as np
import pytest

import regard
from regard._lowering import kernel
from regard.samples import sample_path
from regard.tasks import make_task
from regard.training import runs
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 2, "vocabulary": 600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = Recipe(steps=1, max_characters=200, **SIZES)
    dev = sample_path("translate")["dev"]
    runs.begin(make_task("translate"), recipe, dev, None, folder, Reporter(None, Silence()))
    return folder


@pytest.fixture(scope="module")
def translator(folder):
    return regard.load(folder)


def test_one_text_gives_one_translation_and_a_list_gives_a_list(translator):
    single = translator("A dog runs.", beam=1)
    both = translator(["A dog runs.", "It is cold."], beam=1)
    assert isinstance(both, list)
    assert (single.text, single.pieces) == (both[0].text, both[0].pieces)
    assert single.score == pytest.approx(both[0].score, abs=1e-5)
    assert single.source == "A dog runs."
    assert single.score < 0
    assert str(single) == single.text
    assert translator([]) == []


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
def test_a_model_is_packed_once_for_each_precision(folder):
    translator = regard.load(folder)
    first = translator("A dog runs.", precision="int8", beam=1)
    engine = translator._engines["int8"]
    assert translator("A dog runs.", precision="int8", beam=1) == first
    assert translator._engines == {"int8": engine}
    assert translator("A dog runs.", beam=1).score == pytest.approx(first.score, abs=0.2)
    with pytest.raises(regard.RegardError, match="no precision 'fp8'"):
        translator("A dog runs.", precision="fp8")


def test_attention_is_there_on_request(translator):
    assert translator("A dog runs.", beam=1).attention is None
    translation = translator("A puppy isn't cold.", beam=1, attention=True)
    seen = translation.attention
    assert seen.weights.shape == (2, 2, len(seen.target), len(seen.source))
    assert len(seen.target) == len(translation.pieces) + 1
    np.testing.assert_allclose(seen.weights.sum(-1), 1.0, rtol=1e-5)
    assert "".join(seen.source) == "Apuppyisn'tcold.</s>"


def test_words_join_the_pieces(translator):
    seen = translator("A puppy isn't cold.", beam=1, attention=True).attention
    words = seen.words()
    assert words.source == ("A", "puppy", "isn't", "cold", ".", "</s>")
    np.testing.assert_allclose(words.weights.sum(-1), 1.0, rtol=1e-5)
    pieces = [place for place, word in enumerate(seen.source_words) if word == 1]
    first = [place for place, word in enumerate(seen.target_words) if word == 0]
    expected = seen.weights[:, :, first][..., pieces].sum(-1).mean(-1)
    np.testing.assert_allclose(words.weights[:, :, 0, 1], expected, rtol=1e-5)


@pytest.mark.parametrize("text", ["", " \n", "a" * 201])
def test_a_text_that_cannot_be_translated_is_refused(translator, text):
    with pytest.raises(regard.RegardError, match="the given texts, line 2"):
        translator(["A dog.", text])


def test_a_text_that_is_too_long_names_the_remedy(folder, translator):
    with pytest.raises(regard.DataError, match=r"regard\.load\(folder, max_characters=\.\.\.\)\.$"):
        translator("a" * 201)
    regard.load(folder, max_characters=201)("a" * 201, beam=1)


def test_predicting_is_calling(translator):
    assert translator.predict("A dog runs.", beam=1) == translator("A dog runs.", beam=1)
    assert translator.predict(["A dog runs."], beam=1) == translator(["A dog runs."], beam=1)
    with pytest.raises(regard.DataError, match="the given texts, line 2: the field 'source' is empty"):
        translator.predict(["A dog.", " "])


def test_a_text_may_be_given_as_files_give_it(translator):
    assert translator({"source": "A dog runs.", "target": 5}, beam=1) == translator("A dog runs.", beam=1)
    with pytest.raises(regard.DataError, match=r"the field 'source' is missing\. .* Received: 'sauce'"):
        translator({"sauce": "A dog runs."})


def test_what_is_no_text_is_refused(translator):
    with pytest.raises(regard.RegardError, match="not text"):
        translator([5])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(regard.RegardError, match="holds no run"):
        regard.load(tmp_path / "none")


def test_it_says_what_it_is(translator, folder):
    assert repr(translator) == f"Predictor(translate, {str(folder)!r})"
