from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from regard.data.spelling import COUNT, FEATURES, SHAPES, Spelling, word_features
from regard.data.tokenizer import Tokenizer

ALIKE = [
    ("dog", "cats"),
    ("USA", "OK"),
    ("I", "A"),
    ("Dog", "Éa"),
    ("McCoy", "iPod"),
    ("1984", "7"),
    ("3.5", "x2"),
    ("..", "-"),
]


def test_words_of_one_shape_share_it_and_others_do_not():
    shapes = [{word_features(word)[0] for word in pair} for pair in ALIKE]
    assert all(len(shape) == 1 for shape in shapes)
    assert set.union(*shapes) == set(range(SHAPES))


def test_endings_are_those_of_the_folded_word():
    assert word_features("RUNNING")[1:] == word_features("spinning")[1:]
    assert word_features("runs")[1] != word_features("running")[1]
    assert word_features("running")[1] != word_features("running")[2]


@given(st.text(max_size=8))
def test_every_text_has_its_numbers(word):
    features = word_features(word)
    assert len(features) == COUNT
    assert 0 <= min(features) <= max(features) < FEATURES


def test_a_sentence_is_spelled_word_by_word():
    tokenizer = Tokenizer.train(["the dog runs home", "the cat runs"], 300)
    spell = Spelling(tokenizer)
    words = ["the", "DOG", "runs", "the"]
    pieces, starts, features = spell(words)
    parts = [pieces[begin:end] for begin, end in itertools.pairwise([*starts, len(pieces)])]
    assert parts == [tokenizer.encode(word) for word in words]
    assert features == [number for word in words for number in word_features(word)]
    assert spell([]) == ([], [], [])


def test_a_word_of_no_pieces_is_unknown():
    assert Spelling(Tokenizer.train(["dog"], 256))(["\t"])[0] == [Tokenizer.unk]
