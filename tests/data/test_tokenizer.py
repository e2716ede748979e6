from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.records import read_records
from regard.data.tokenizer import RUNS, Tokenizer
from regard.samples import sample_path
from regard.training.recipe import CUTS

ENGLISH = [
    "A dog runs on the beach.",
    'He said: "I don\'t know (yet)..."',
    "In 1995, it cost $3.50 - 20% less!",
]
GERMAN = ["Ein Hund läuft am Strand entlang.", "Größe, Straße; z.B. »Äpfel«", "Das ist's: 3,50 €!"]
CHINESE = ["一只狗在沙滩上跑。", "他说：“我不知道（还没有）……”", "Tom在1995年去了北京。"]
ARABIC = ["كلب يركض على الشاطئ.", "هل تتكلم العربية؟ نعم، قليلًا!", "في عام ١٩٩٥ كان السعر ٣٫٥٠."]
JAPANESE = ["犬が浜辺を走っている。", "スーパーマーケットで買いました！"]
ALL = ENGLISH + GERMAN + CHINESE + ARABIC + JAPANESE
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(ALL * 2, 600)


@pytest.fixture(scope="module")
def sample() -> list[str]:
    records = read_records(sample_path("translate")["train"], ("source", "target"))
    return [record.fields[field] for record in records for field in ("source", "target")]


@pytest.fixture(scope="module")
def trained(sample: list[str]) -> Tokenizer:
    return Tokenizer.train(sample, 4000)


@pytest.mark.parametrize("text", ALL)
def test_text_comes_back_in_every_script(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text)) == small.normalize(text) == text


@given(text=TEXT)
@example("▁ ▁▁")
@example("<s>a</s> <unk> <0x41>")
@example("e\u0301 \u1100\u1161\u11a8 ﬁ ☺\u200d😀\x00\n\t 龘")
def test_any_text_comes_back_normalized(small: Tokenizer, text: str) -> None:
    ids = small.encode(text)
    assert small.decode(ids) == small.normalize(text)
    assert all(index > small.eos for index in ids)
    assert all(0 <= begin <= end <= len(text) for begin, end in small.spans(text))


def test_held_out_sentences_come_back(trained: Tokenizer) -> None:
    for record in read_records(sample_path("translate")["test"], ("source", "target")):
        for field in ("source", "target"):
            text = record.fields[field]
            assert trained.decode(trained.encode(text)) == trained.normalize(text)


def test_words_become_few_pieces(trained: Tokenizer) -> None:
    assert len(trained) == 4000
    assert trained.pieces(trained.encode("I don't know him.")) == ["▁I", "▁don't", "▁know", "▁him", "."]
    assert trained.pieces(trained.encode("我不知道他是谁。"))[-1] == "。"
    assert len(trained.encode("我不知道。")) <= 3


def test_chinese_words_are_the_same_at_the_beginning(trained: Tokenizer) -> None:
    assert trained.encode("朋友")[0] in trained.encode("他是我的朋友。")


def test_training_is_the_same_in_every_process(tmp_path: Path, sample: list[str]) -> None:
    script = (
        "import sys, json; from regard.data.tokenizer import Tokenizer; "
        "Tokenizer.train(json.load(open(sys.argv[1], encoding='utf-8')), 1000).save(sys.argv[2])"
    )
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(sample[:3000]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", script, texts, tmp_path / name], check=True, env=environment)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_spans_point_into_the_original_text(small: Tokenizer) -> None:
    text = "  Cafe\u0301 \t(Strand)  一只狗 😀!"
    pieces = small.pieces(small.encode(text))
    spans = small.spans(text)
    assert small.encode_with_offsets(text) == (small.encode(text), spans)
    assert len(pieces) == len(spans)
    for piece, (begin, end) in zip(pieces, spans, strict=True):
        covered = unicodedata.normalize("NFC", text[begin:end])
        assert covered == piece.removeprefix("▁") or piece.startswith("<0x")
        assert text[begin:end] == text[begin:end].strip()
    covered = {position for begin, end in spans for position in range(begin, end)}
    assert covered == {position for position, character in enumerate(text) if not character.isspace()}


def test_byte_pieces_all_have_the_character(small: Tokenizer) -> None:
    assert [small.spans("龘")[i] for i in range(3)] == [(0, 1)] * 3
    assert small.pieces(small.encode("龘")) == ["<0xE9>", "<0xBE>", "<0x98>"]


def test_bytes_that_form_no_character_do_not_break_decoding(small: Tokenizer) -> None:
    assert "\ufffd" in small.decode(small.encode("龘")[:2])


def test_specials(small: Tokenizer) -> None:
    assert (small.unk, small.bos, small.eos) == (0, 1, 2)
    assert small.pieces([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
    assert small.decode([1, *small.encode("Ein Hund"), 2]) == "Ein Hund"
    assert small.encode("") == small.encode(" \n") == []
    assert small.encode_batch(ALL) == [small.encode(text) for text in ALL]


def test_lowercase() -> None:
    tokenizer = Tokenizer.train(GERMAN * 2, 300, lowercase=True)
    assert (
        tokenizer.decode(tokenizer.encode("GRÖSSE, Äpfel"))
        == tokenizer.normalize("GRÖSSE, Äpfel")
        == "grösse, äpfel"
    )


def test_save_and_load(tmp_path: Path, small: Tokenizer) -> None:
    small.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert len(again) == len(small)
    assert again.encode_batch(ALL) == small.encode_batch(ALL)
    assert again.spans(ALL[0]) == small.spans(ALL[0])


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"model": 3}', b"\xff", "foreign", "cut"])
def test_a_damaged_file_is_a_checkpoint_error(
    tmp_path: Path, small: Tokenizer, content: str | bytes | None
) -> None:
    path = tmp_path / "tokenizer.json"
    if content == "foreign":
        content = '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
    elif content == "cut":
        small.save(path)
        content = path.read_bytes()[:-100]
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match="tokenizer cannot be loaded"):
        Tokenizer.load(path)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="vocabulary_size=100"):
        Tokenizer.train(ALL, 100)
    with pytest.raises(DataError, match="no text to learn"):
        Tokenizer.train(["", " "], 300)
    tokenizer = Tokenizer.train(ALL, 300)
    with pytest.raises(DataError, match="half of a character"):
        tokenizer.encode("a\ud800")
    with pytest.raises(DataError, match="not a string"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="outside the vocabulary"):
        tokenizer.decode([len(tokenizer)])


@pytest.mark.parametrize(
    ("unspaced", "inside"),
    [("runs", "東京タワーはたかい"), ("scripts", "東京"), ("characters", "タワー")],
)
def test_text_without_spaces_is_cut_before_pieces_are_learned(unspaced, inside):
    text = "東京タワーはたかい"
    tokenizer = Tokenizer.train([text] * 4, 300, unspaced=unspaced)
    pieces = [text[begin:end] for begin, end in tokenizer.spans(text)]
    assert "".join(pieces) == text
    assert inside in pieces
    if unspaced == "characters":
        assert pieces[:2] == ["東", "京"]
    ids, spans = tokenizer.encode_with_offsets(text)
    assert (ids, spans) == (tokenizer.encode(text), tokenizer.spans(text))


def test_an_unknown_way_to_cut():
    with pytest.raises(ConfigError, match="one of three ways"):
        Tokenizer.train(["a"], 300, unspaced="words")


def test_the_recipe_knows_the_ways_to_cut():
    assert tuple(RUNS) == CUTS
