from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from regard.metrics.porter import FOURTH, SECOND, THIRD, stem

# What NLTK's PorterStemmer gives.
STEMS = {
    "caresses": "caress", "ponies": "poni", "ties": "tie", "cats": "cat", "feed": "feed", "agreed": "agre",
    "plastered": "plaster", "bled": "bled", "motoring": "motor", "sing": "sing", "conflated": "conflat",
    "troubled": "troubl", "sized": "size", "hopping": "hop", "falling": "fall", "hissing": "hiss", "failing": "fail",
    "filing": "file", "happy": "happi", "sky": "sky", "spied": "spi", "died": "die", "enjoy": "enjoy",
    "relational": "relat", "rational": "ration", "digitizer": "digit", "radically": "radic", "vietnamization": "vietnam",
    "sensibility": "sensibl", "triplicate": "triplic", "formative": "form", "electrical": "electr", "hopeful": "hope",
    "goodness": "good", "revival": "reviv", "adoption": "adopt", "adjustment": "adjust", "probate": "probat",
    "rate": "rate", "cease": "ceas", "controller": "control", "roll": "roll", "geology": "geolog", "theology": "theolog",
    "syzygy": "syzygi", "as": "as", "": "", "yyyy": "yyyi", "2nd": "2nd", "oed": "o",
}  # fmt: skip

SUFFIXES = (
    [rule.split(":")[0] for rule in f"{SECOND} {THIRD}".split()]
    + FOURTH.split()
    + ["ed", "ing", "s", "y", "logi"]
)
invented = st.builds(
    lambda letters, suffixes: letters + "".join(suffixes),
    st.text("aeiouylstbnz", max_size=6),
    st.lists(st.sampled_from(SUFFIXES), max_size=2),
)


@pytest.mark.parametrize("word", STEMS)
def test_known_stems(word):
    assert stem(word) == STEMS[word]


@given(invented)
def test_invented_words_as_nltk(word):
    porter = pytest.importorskip("nltk.stem.porter", reason="nltk is the reference")
    assert stem(word) == porter.PorterStemmer().stem(word)
