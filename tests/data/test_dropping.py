from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import ConfigError
from regard.data import dropping
from regard.data.dropping import DroppingTokenizer
from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.data.tokenizer import Tokenizer

TEXTS = [
    "The lower tower was the lowest; the newer one was wider and newest.",
    "Die Hütten läuten, Häute und Hüte lauten: l'homme, don't!",
    "一只狗在跑，一只猫在睡觉。三只狗在睡觉。",
]
TOKENIZER = Tokenizer.train(TEXTS * 5, 420)
ANY = st.text(max_size=60) | st.lists(st.sampled_from(" ".join(TEXTS).split()), max_size=8).map(" ".join)


def by_the_paper(text, share, draw):
    """Algorithm 1 of Provilkov et al. on strings: `draw()` gives the next number."""
    merges = [tuple(pair) for pair in json.loads(TOKENIZER._core.to_str())["model"]["merges"]]
    pieces = list(text)
    while True:
        possible = [place for place in range(len(pieces) - 1) if (pieces[place], pieces[place + 1]) in merges]
        possible = [place for place in possible if draw() >= share]
        if not possible:
            return pieces
        place = min(possible, key=lambda place: (merges.index((pieces[place], pieces[place + 1])), place))
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


@given(text=ANY)
def test_without_dropping_it_is_the_tokenizer(text):
    plain = DroppingTokenizer(TOKENIZER, 0.0, 1)
    assert plain.encode(text) == TOKENIZER.encode(text)
    assert plain.encode_with_offsets(text) == TOKENIZER.encode_with_offsets(text)


@given(text=ANY, variant=st.integers(0, 3), share=st.sampled_from([0.1, 0.5, 0.99]))
def test_however_it_is_cut_it_is_the_same_text(text, variant, share):
    cut = DroppingTokenizer(TOKENIZER, share, 1)
    cut.variant = variant
    ids, spans = cut.encode_with_offsets(text)
    assert ids == cut.encode(text) == cut.encode_batch(["", text])[1]
    assert cut.decode(ids) == TOKENIZER.normalize(text)
    assert len(spans) == len(ids)
    # What the pieces stand for is what the tokenizer's own pieces stand for, cut elsewhere.
    ours, theirs = (
        {place for begin, end in some for place in range(begin, end) if not text[place].isspace()}
        for some in (spans, TOKENIZER.spans(text))
    )
    assert ours == theirs


@pytest.mark.parametrize("word", ["▁lowest", "▁newer", "睡觉", "▁Hütten", "x"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_word_is_cut_as_the_paper_says(word, share, monkeypatch):
    """With the same random numbers, taken from left to right in each round."""
    symbols = tuple(TOKENIZER._core.token_to_id(symbol) for symbol in word)
    drawn, uniform = [], dropping.uniform
    monkeypatch.setattr(
        dropping, "uniform", lambda key, numbers: drawn.append(uniform(key, numbers)) or drawn[-1]
    )
    for way in range(6):
        pieces = DroppingTokenizer(TOKENIZER, share, 7)._merged(symbols, way)
        expected = by_the_paper(word, share, iter(drawn[-1].tolist()).__next__)
        assert TOKENIZER.pieces([index for index, _ in pieces]) == expected
        assert sum(count for _, count in pieces) == len(word)


def test_words_are_cut_in_several_ways_and_always_alike():
    text = "the lowest tower"
    ways = set()
    for variant in range(8):
        one, other = (DroppingTokenizer(TOKENIZER, 0.3, 5) for _ in range(2))
        one.variant = other.variant = variant
        _ = other.encode("what came before has no influence")
        assert one.encode(text) == other.encode(text)
        ways.add(tuple(one.encode(text)))
    assert len(ways) > 4
    another = DroppingTokenizer(TOKENIZER, 0.3, 6)
    assert [another.encode(text + mark) for mark in "!?.,"] != [one.encode(text + mark) for mark in "!?.,"]


def test_about_the_share_of_merges_is_left_out():
    """Of a word with a single merge: it is made at once or never."""
    tokenizer = Tokenizer.train(["qz qz qz qz"], 256)
    cut = DroppingTokenizer(tokenizer, 0.25, 1)
    symbols = tuple(tokenizer._core.token_to_id(symbol) for symbol in "qz")
    whole = sum(len(cut._merged(symbols, way)) == 1 for way in range(4000))
    assert abs(whole / 4000 - 0.75) < 0.03


def test_a_very_long_word_takes_no_longer_than_its_length_asks():
    text = "睡" * 20_000
    cut = DroppingTokenizer(TOKENIZER, 0.1, 1)
    assert cut.decode(cut.encode(text)) == text


def test_a_vocabulary_without_merges_is_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[UNK]\n[CLS]\n[SEP]\na\n", encoding="utf8")
    with pytest.raises(ConfigError, match=r"byte-pair vocabularies alone. Received: WordPiece"):
        DroppingTokenizer(PretrainedTokenizer.load(path), 0.1, 1)


def test_merges_of_older_files_are_read():
    form = json.loads(TOKENIZER._core.to_str())
    form["model"]["merges"] = [" ".join(pair) for pair in form["model"]["merges"]]
    older = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(form)))
    assert DroppingTokenizer(older, 0.3, 1).encode(TEXTS[0]) == DroppingTokenizer(TOKENIZER, 0.3, 1).encode(
        TEXTS[0]
    )
