"""Vocabularies of pretrained encoders: pieces, marks, pairs and offsets, and what is refused."""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

import pretrained_folders as folders
from regard import CheckpointError, DataError
from regard.data.pretrained_tokenizer import PretrainedTokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = folders.write_folder(tmp_path_factory.mktemp("words") / "m", folders.CONFIGS["bert"])
    return PretrainedTokenizer.load(folder)


@pytest.fixture(scope="module")
def roberta_file(tmp_path_factory):
    """A byte-level `tokenizer.json` with the marks of RoBERTa."""
    alphabet = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: index for index, piece in enumerate(alphabet)}
    core = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    core.add_special_tokens(["<s>", "</s>", "<pad>"])
    core.enable_truncation(4)
    core.enable_padding(length=16)
    path = tmp_path_factory.mktemp("roberta") / "tokenizer.json"
    core.save(str(path))
    return path


def test_pieces_marks_and_ids(words):
    assert (words.bos, words.eos, words.unk, len(words)) == (2, 3, 1, 16)
    ids = words.encode("Who ran? Dogs, unable 狗狗.")
    assert words.pieces(ids) == ["who", "ran", "?", "dog", "##s", "[UNK]", "un", "##able", "狗", "狗", "."]
    assert words.encode_batch(["Who", ""]) == [words.encode("Who"), []]
    assert words.join(ids) == ([2, *ids, 3], [0] * (len(ids) + 2))
    assert words.join([7], [8, 9]) == ([2, 7, 3, 8, 9, 3], [0, 0, 0, 1, 1, 1])
    assert words.join([], []) == ([2, 3, 3], [0, 0, 1])
    assert words.normalize("CAFÉ 狗") == "cafe  狗 "
    assert words.decode(words.join(words.encode("Who ran?"))[0]) == "who ran?"


def test_marks_that_somebody_types_are_text(words, roberta_file):
    assert words.eos not in words.encode("a [SEP] dog")
    other = PretrainedTokenizer.load(roberta_file)
    assert other.eos not in other.encode("a</s>")


def test_the_marks_of_roberta(roberta_file):
    tokenizer = PretrainedTokenizer.load(roberta_file)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == (0, 2, 3)
    assert tokenizer.join([9, 8]) == ([0, 9, 8, 2], [0] * 4)
    assert tokenizer.join([9], [8]) == ([0, 9, 2, 2, 8, 2], [0] * 6)
    assert len(tokenizer.encode("more than four")) == 14
    assert tokenizer.encode_with_offsets("é 狗")[1] == [(0, 1)] * 2 + [(2, 2)] + [(2, 3)] * 3
    assert tokenizer.normalize("É") == "É"


@given(text=TEXT)
@example("  Cafe\u0301 ran? \t UNABLE狗 ")
@example("\u0301a\ufffda")
def test_spans_point_into_the_text(words, roberta_file, text):
    for tokenizer in (words, PretrainedTokenizer.load(roberta_file)):
        ids, spans = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text)
        assert spans == tokenizer.spans(text)
        assert all(0 <= begin <= end <= len(text) for begin, end in spans)
        assert all(text[begin:end] == text[begin:end].strip() for begin, end in spans)


def test_spans_hold_whole_characters(words):
    text = "  Cafe\u0301 ran? UNABLE狗"
    ids, spans = words.encode_with_offsets(text)
    assert [text[begin:end] for begin, end in spans] == ["Cafe\u0301", "ran", "?", "UN", "ABLE", "狗"]
    assert words.pieces(ids) == ["cafe", "ran", "?", "un", "##able", "狗"]


def test_spans_hold_the_signs_that_a_vocabulary_without_case_drops(tmp_path):
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "\u0939",
        "##\u093f",
        "##\u0928",
        "##\u0926",
        "\u0e14",
        "\u2764",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf8")
    tokenizer = PretrainedTokenizer.load(tmp_path)
    for text in ("\u0939\u0948", "\u0939\u093f\u0928\u094d\u0926\u0942", "\u0e14\u0e35", "\u2764\ufe0f"):
        ids, spans = tokenizer.encode_with_offsets(text)
        assert tokenizer.unk not in ids, text
        assert "".join(text[begin:end] for begin, end in spans) == text


def test_pairs_know_where_their_answers_stand(words, roberta_file):
    for tokenizer in (words, PretrainedTokenizer.load(roberta_file)):
        question, passage = "Who ran?", "A dog ran."
        pair = tokenizer.encode_pair(question, passage)
        assert (pair.ids, pair.token_types) == tokenizer.join(
            tokenizer.encode(question), tokenizer.encode(passage)
        )
        assert len(pair.spans) == len(pair.ids) == len(pair.token_types)
        within = [number for number, span in enumerate(pair.spans) if span is not None]
        assert [pair.ids[number] for number in within] == tokenizer.encode(passage)
        assert [pair.spans[number] for number in within] == tokenizer.spans(passage)
        assert passage[pair.spans[within[-1]][0] :] == "."


def test_saved_and_loaded_it_is_the_same(words, tmp_path):
    words.save(tmp_path / "tokenizer.json")
    again = PretrainedTokenizer.load(tmp_path)
    text = "Who ran? [SEP] Dogs"
    assert again.encode_pair(text, text) == words.encode_pair(text, text)
    assert (again.bos, again.eos, again.unk, len(again)) == (words.bos, words.eos, words.unk, len(words))


@pytest.mark.parametrize(
    ("vocabulary", "settings", "lower"),
    [
        ("a dog", None, True),
        ("a Dog", None, False),
        ("a Dog", {"do_lower_case": True}, True),
        ("a dog", {"do_lower_case": False}, False),
    ],
)
def test_case_is_that_of_the_settings_or_of_the_vocabulary(tmp_path, vocabulary, settings, lower):
    lines = ["[UNK]", "[CLS]", "[SEP]", *vocabulary.split()]
    (tmp_path / "vocab.txt").write_text("\r\n".join(lines))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert (PretrainedTokenizer.load(tmp_path).encode("A") == [3]) == lower


@pytest.mark.parametrize(
    "settings", [{"word_tokenizer_type": "mecab"}, {"subword_tokenizer_type": "character"}]
)
def test_a_vocabulary_of_words_that_a_dictionary_cuts_is_refused(tmp_path, settings):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n日本語\n", encoding="utf-8")
    usual = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(usual | settings))
    ((name, kind),) = settings.items()
    with pytest.raises(CheckpointError, match=rf"Received: {name} '{kind}'. .*multilingual"):
        PretrainedTokenizer.load(tmp_path)
    file.write_text(json.dumps(usual))
    assert len(PretrainedTokenizer.load(tmp_path)) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "Received: neither"),
        ("vocab.txt", "a\nb\n[CLS]\n", r"3 lines without \[UNK\], \[SEP\]"),
        ("vocab.txt", b"\xff\xfe", "cannot be loaded.*codec"),
        ("tokenizer.json", "{", "cannot be loaded"),
        (
            "tokenizer.json",
            '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
            "no marks",
        ),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path, name, content, message):
    if name is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        PretrainedTokenizer.load(tmp_path)


def test_texts_are_checked(words):
    with pytest.raises(DataError, match="not a string"):
        words.encode_pair("a", 3)
    with pytest.raises(DataError, match="half of a character"):
        words.encode_with_offsets("a\ud800")
