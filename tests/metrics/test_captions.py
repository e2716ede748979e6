from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from regard._errors import ConfigError, DataError
from regard.metrics.captions import caption_bleu, cider

PREDICTIONS = [
    "a dog runs on the beach",
    "two cats sleep",
    "a man a man rides",
    "",
    "the red balloon flies over the house",
]
REFERENCES = [
    ["a dog runs along the beach", "a brown dog on the sand runs"],
    ["two cats are asleep on a sofa"],
    ["a man rides a horse", "a man on a horse"],
    ["an empty street"],
    ["the red balloon flies over the house", "a balloon"],
]
# What pycocoevalcap 1.2 gives for them.
BLEU = 0.45707282289728585
CIDER = [3.138248354968103, 1.6350317737583846, 2.2685732801009273, 0.0, 5.3486812051274555]

caption = st.lists(st.sampled_from(["a", "dog", "two", "dogs", "run"]), max_size=8).map(" ".join)
examples = st.lists(st.tuples(caption, st.lists(caption, min_size=1, max_size=3)), min_size=1, max_size=5)


def test_known_values():
    assert caption_bleu(PREDICTIONS, REFERENCES).value == pytest.approx(100 * BLEU, rel=1e-13)
    score = cider(PREDICTIONS, REFERENCES)
    assert score.statistics[:, 0] == pytest.approx(CIDER, rel=1e-13)
    assert score.value == pytest.approx(100 * np.mean(CIDER), rel=1e-13)


@given(examples)
def test_as_pycocoevalcap(pairs):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is the reference")
    ciders = pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is the reference")
    predictions, references = map(list, zip(*pairs, strict=True))
    found, wanted = {i: [text] for i, text in enumerate(predictions)}, dict(enumerate(references))
    theirs = bleu.Bleu(4).compute_score(wanted, found, verbose=0)[0][3]
    assert caption_bleu(predictions, references, "none").value == pytest.approx(
        100 * theirs, rel=1e-12, abs=1e-12
    )
    if any(text for texts in references for text in texts):  # it stops where no reference has a word
        theirs = ciders.Cider().compute_score(wanted, found)[1]
        assert cider(predictions, references, "none").statistics[:, 0] == pytest.approx(
            theirs, rel=1e-12, abs=1e-12
        )


@given(examples)
def test_order_does_not_matter(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    for score in (caption_bleu, cider):
        forwards, backwards = score(predictions, references), score(predictions[::-1], references[::-1])
        assert forwards.value == pytest.approx(backwards.value)


def test_perfect_captions():
    texts = ["a brown dog runs", "two cats sleep here", "a man rides a horse"]
    assert caption_bleu(texts, texts).value == pytest.approx(100)
    assert cider(texts, texts).value == pytest.approx(1000)
    # Nothing is rare among one.
    alone = cider(texts[:1], texts[:1])
    assert (alone.value, alone.signature) == (0, "tok:coco; 0 of every picture that is alone")


def test_tokenizers():
    assert caption_bleu(["一只棕色的狗"], ["一只棕色的狗。"]).value == pytest.approx(100)
    assert caption_bleu(["A dog, wet."], ["a dog wet"], "coco").signature == "tok:coco"
    assert caption_bleu(
        ["ein großer Hund läuft!"], ["Ein großer Hund läuft"], "words"
    ).value == pytest.approx(100)
    assert caption_bleu([""], ["a dog"]).value == 0


def test_errors():
    with pytest.raises(ConfigError, match="did you mean 'coco'"):
        cider(["a"], ["a"], "cocoa")
    with pytest.raises(DataError, match="example 0 has no reference"):
        cider(["a"], [[]])
    for score in (caption_bleu, cider):
        with pytest.raises(DataError, match="no examples"):
            score([], [])
