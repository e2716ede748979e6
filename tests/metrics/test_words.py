from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from regard.metrics.words import (
    caption_words,
    characters,
    english_words,
    stemmed_words,
    treebank_words,
    words,
)

# What NLTK's word_tokenize gives with preserve_line.
TREEBANK = {
    'He said, "Don\'t go!"': ["He", "said", ",", "``", "Do", "n't", "go", "!", "''"],
    "at 3:30, it's $3.88 (or 5%).": [
        "at",
        "3:30",
        ",",
        "it",
        "'s",
        "$",
        "3.88",
        "(",
        "or",
        "5",
        "%",
        ")",
        ".",
    ],
    "Dr. Smith. I cannot... they'll": ["Dr.", "Smith.", "I", "can", "not", "...", "they", "'ll"],
    "'Tis gonna be rock 'n' roll -- d'ye": [
        "'",
        "Tis",
        "gon",
        "na",
        "be",
        "rock",
        "'n",
        "'",
        "roll",
        "--",
        "d",
        "'ye",
    ],
    "“quoted” «so»": ["“", "quoted", "”", "«", "so", "»"],
    "": [],
}


@pytest.mark.parametrize("text", TREEBANK)
def test_treebank(text):
    assert treebank_words(text) == TREEBANK[text]


@given(st.text("aAbs't \"`.,:;-()[]{}<>?!*@#$%&—“”’‘«»…1\t", max_size=14))
def test_treebank_as_nltk(text):
    nltk = pytest.importorskip("nltk.tokenize.destructive", reason="nltk is the reference")
    assert treebank_words(text) == nltk.NLTKWordTokenizer().tokenize(text)


@pytest.mark.parametrize(
    "phrase", ["cannot", "d'ye", "gimme", "lemme", "gonna", "gotta", "more'n", "wanna go", "'twas"]
)
def test_contractions_as_nltk(phrase):
    nltk = pytest.importorskip("nltk.tokenize.destructive", reason="nltk is the reference")
    for text in (phrase, phrase.upper(), f"we {phrase}, it"):
        assert treebank_words(text) == nltk.NLTKWordTokenizer().tokenize(text)


def test_words_of_rouge():
    assert english_words("It's 3.5 naïve\u00a0İs") == ["it", "s", "3", "5", "na", "ve", "i", "s"]
    assert stemmed_words("The dogs was ties") == ["the", "dog", "was", "tie"]


def test_other_scripts():
    assert words("Die Größe, don't_x") == ["die", "größe", "don", "t", "x"]
    assert characters("使用Python 3、犬がいる。ー〆ёж") == [*"使用", "python", "3", *"犬がいるー", "〆ёж"]
    assert characters("") == words(" ") == english_words("中文") == []


def test_captions_as_coco_tokenizes_them():
    assert caption_words("A dog's ball—red; it rolls.") == ["a", "dog", "'s", "ball", "red", "it", "rolls"]
    assert caption_words("A coin ($.01). A “penny”!") == [
        "a",
        "coin",
        "-lrb-",
        "$",
        ".01",
        "-rrb-",
        "a",
        "penny",
    ]
    assert caption_words("Mr. Smith waits.") == ["mr.", "smith", "waits"]
