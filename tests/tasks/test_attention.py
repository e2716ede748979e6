"""Names of what a translation looked at."""

from __future__ import annotations

import numpy as np
import pytest

from regard.data.tokenizer import Tokenizer
from regard.tasks._attention import read_attention, word_numbers


@pytest.mark.parametrize(
    ("pieces", "numbers"),
    [
        (["A", " ", "dog"], (0, 1, 2)),
        (["do", "n't", "!", "!!"], (0, 0, 1, 2, 3)),
        (["1", "9", " ", "7"], (0, 0, 1, 2)),
        (["小", "狗", "跑"], (0, 1, 2, 3)),
        (["小", "dog", "狗"], (0, 1, 2, 3)),
        (["مر", "حبا", "،"], (0, 0, 1, 2)),
        ([], (0,)),
    ],
)
def test_pieces_belong_to_words(pieces, numbers):
    text = "".join(pieces)
    begins = [len("".join(pieces[:place])) for place in range(len(pieces))]
    spans = [(begin, begin + len(piece)) for begin, piece in zip(begins, pieces, strict=True) if piece != " "]
    assert word_numbers(text, spans) == numbers


TEXT = "Ein Hündchen läuft, 你好 😀!"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Ein Hund läuft.", "Ein Hund, zwei Hunde.", "你好"], 260)


def test_words_are_those_of_the_text(tokenizer):
    ids = tokenizer.encode(TEXT)
    weights = np.full((1, 1, len(ids) + 1, len(ids) + 1), 1 / (len(ids) + 1), np.float32)
    words = read_attention(weights, tokenizer, TEXT, ids).words()
    assert words.source == words.target == ("Ein", "Hündchen", "läuft", ",", "你", "好", "😀", "!", "</s>")


def test_a_target_that_the_tokenizer_would_cut_otherwise_is_named_too(tokenizer):
    ids = [tokenizer.encode("b")[0], *(tokenizer.encode(f"x{character}")[-1] for character in "Ein")]
    weights = np.full((1, 1, len(ids) + 1, 2), 0.5, np.float32)
    seen = read_attention(weights, tokenizer, "Ein", ids)
    assert seen.target == ("", "E", "i", "n", "</s>")
    assert seen.words().target == ("Ein", "</s>")
