from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import DataError
from regard.data.checks import is_blank
from regard.data.columns import read_columns, write_columns
from regard.data.lexicon import Lexicon
from regard.data.records import Record
from regard.data.sentences import cut, read_sentences, sentence_of, sentence_record

WORDS = ["The", "dog", "chases", "the", "cat"]
ROLES = ["B-ARG0", "I-ARG0", "B-V", "B-ARG1", "I-ARG1"]
GOOD = {"words": WORDS, "predicate": 2, "roles": ROLES}
COLUMNS = """\
The     -      (ARG0*
dog     -      *)
chases  chase  (V*)
the     -      (ARG1*
cat     -      *)
"""


def write(path: Path, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def fields(source, **options):
    return [record.fields for record in read_sentences(source, 1000, **options)]


def problem(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        fields(source, **options)
    message = str(caught.value)
    for part in ("Expected: ", "Received: ", "To mend it: "):
        assert part in message
    return message


def test_a_line_a_predicate_becomes_a_record_a_sentence(tmp_path):
    other = {**GOOD, "predicate": 1, "roles": ["O", "B-V", "O", "O", "O"]}
    path = write(
        tmp_path / "a.jsonl", {**GOOD, "id": 1}, {**other, "id": 1}, {**GOOD, "id": 2}, GOOD, GOOD, other
    )
    assert [(row.get("id"), row["predicates"]) for row in fields(path)] == [
        (1, [2, 1]),
        (2, [2]),
        (None, [2]),
        (None, [2, 1]),
    ]
    first = next(read_sentences(path, 1000))
    assert first.fields == {"id": 1, "words": WORDS, "predicates": [2, 1], "roles": [ROLES, other["roles"]]}
    assert first.place == f"{path}, line 1"


def test_what_was_read_can_be_written_and_read_again(tmp_path):
    rows = fields(write(tmp_path / "a.jsonl", GOOD, {"words": ["Yes"], "predicates": [], "roles": []}))
    assert fields(write(tmp_path / "b.jsonl", *rows)) == rows


@given(st.lists(st.sampled_from([[], [1], [2], [2, 1]]), min_size=1, max_size=4))
def test_sentences_with_lists_of_predicates_stay_apart(tmp_path_factory, lists):
    tags = [["B-V" if word == predicate else "O" for word in range(5)] for predicate in range(5)]
    rows = [
        {"words": WORDS, "predicates": places, "roles": [tags[place] for place in places]} for places in lists
    ]
    path = write(tmp_path_factory.mktemp("lists") / "a.jsonl", *rows)
    assert fields(path) == rows
    assert [row["predicates"] for row in fields(path, answers=False)] == lists


def test_columns_are_read_as_brackets_and_as_bio(tmp_path):
    brackets = write(tmp_path / "a.conll", COLUMNS, "Yes  -\n\n")
    bio = [f"{word}\t{'x' if i == 2 else '-'}\t{ROLES[i]}" for i, word in enumerate(WORDS)]
    expected = [
        {"words": WORDS, "predicates": [2], "roles": [ROLES]},
        {"words": ["Yes"], "predicates": [], "roles": []},
    ]
    assert fields(brackets) == expected
    assert fields(write(tmp_path / "b.conll", *bio, "", "Yes -")) == expected


@st.composite
def sentences(draw):
    count = draw(st.integers(1, 6))
    words = draw(
        st.lists(st.sampled_from(["a", "(b", "c)", "*", "-", "#", "d"]), min_size=count, max_size=count)
    )
    predicates = draw(st.lists(st.integers(0, count - 1), unique=True, max_size=3).map(sorted))
    rows = []
    for predicate in predicates:
        tags = []
        for word in range(count):
            goes_on = [f"I-{tags[-1][2:]}"] if tags and tags[-1] != "O" else []
            tags.append(
                "B-V" if word == predicate else draw(st.sampled_from(["O", "B-A0", "B-C-A1", *goes_on]))
            )
        rows.append(tags)
    return words, predicates, rows


@given(sentences())
def test_columns_are_read_as_they_were_written(tmp_path_factory, sentence):
    words, predicates, rows = sentence
    path = write(tmp_path_factory.mktemp("columns") / "a.conll", write_columns(*sentence))
    # A predicate that is written "-" looks like none.
    if not any(words[predicate] == "-" for predicate in predicates):
        (read,) = read_columns(path, answers=True)
        assert read.fields == {"words": words, "predicates": predicates, "roles": rows}


def test_a_prediction_needs_words_alone(tmp_path):
    text = write(tmp_path / "a.txt", "The dog doesn't run.")
    assert fields(text, answers=False)[0]["words"] == ["The", "dog", "does", "n't", "run", "."]
    rows = fields(
        write(tmp_path / "a.jsonl", {"words": WORDS}, {"words": WORDS, "predicate": 2}, {"text": "Go!"}),
        answers=False,
    )
    assert [row.get("predicates") for row in rows] == [None, [2], None]
    assert rows[2]["words"] == ["Go", "!"]
    assert fields(write(tmp_path / "a.conll", "The", "dog"), answers=False) == [{"words": ["The", "dog"]}]
    assert fields(write(tmp_path / "b.conll", COLUMNS), answers=False) == [
        {"words": WORDS, "predicates": [2]}
    ]


BAD = {
    "no words": ({"predicate": 0, "roles": []}, "the field 'words' is missing"),
    "words as text": ({**GOOD, "words": "The dog"}, "the field 'words' holds no words"),
    "empty words": ({**GOOD, "words": []}, "the field 'words' holds no words"),
    "a blank word": ({**GOOD, "words": [*WORDS[:4], " "]}, "word 4 is no word"),
    "a number": ({**GOOD, "words": [*WORDS[:4], 7]}, "word 4 is no word"),
    "half a character": ({**GOOD, "words": [*WORDS[:4], "\ud83d"]}, "word 4 is no word"),
    "no predicate": ({"words": WORDS, "roles": ROLES}, "the field 'predicate' is missing"),
    "a predicate outside": (
        {**GOOD, "predicate": 5},
        "outside the sentence. Expected: a position from 0 to 4",
    ),
    "a negative predicate": ({**GOOD, "predicate": -1}, "outside the sentence"),
    "a predicate by name": ({**GOOD, "predicate": "chases"}, "outside the sentence"),
    "a truth value": ({**GOOD, "predicate": True}, "outside the sentence"),
    "predicates as a number": (
        {"words": WORDS, "predicates": 2, "roles": [ROLES]},
        "'predicates' is no list",
    ),
    "twice": ({"words": WORDS, "predicates": [2, 2], "roles": [ROLES, ROLES]}, "a predicate is named twice"),
    "no roles": ({"words": WORDS, "predicate": 2}, "the field 'roles' is missing"),
    "a row too few": ({"words": WORDS, "predicates": [2], "roles": []}, "do not match the predicates"),
    "a tag too few": (
        {**GOOD, "roles": ROLES[:4]},
        "roles and words do not match. Expected: a list of 5 tags",
    ),
    "roles as text": ({**GOOD, "roles": "OOOOO"}, "roles and words do not match"),
    "no BIO": ({**GOOD, "roles": ["ARG0", *ROLES[1:]]}, "the tag of word 0 is not BIO"),
    "an empty role": ({**GOOD, "roles": ["B-", *ROLES[1:]]}, "the tag of word 0 is not BIO"),
    "a tag that is no text": ({**GOOD, "roles": [None, *ROLES[1:]]}, "the tag of word 0 is not BIO"),
    "an I at the beginning": ({**GOOD, "roles": ["I-ARG0", *ROLES[1:]]}, "word 0 continues nothing"),
    "an I after another role": ({**GOOD, "roles": [*ROLES[:4], "I-ARG2"]}, "Received: I-ARG2 after B-ARG1"),
    "not B-V": ({**GOOD, "predicate": 1}, "Received: B-V at 2; word 1 has I-ARG0"),
    "B-V twice": ({**GOOD, "roles": ["B-ARG0", "B-V", "B-V", "O", "O"]}, "Received: B-V at 1, 2"),
    "too long": ({**GOOD, "words": ["x" * 999, *WORDS[1:]]}, "regard.load(folder, max_characters=...)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_named(tmp_path, name):
    row, message = BAD[name]
    found = problem(write(tmp_path / "a.jsonl", GOOD, row))
    assert message in found
    assert "line 2" in found


@pytest.mark.parametrize("number", [2, np.int64(2), np.uint8(2), np.array(2)])
def test_tuples_and_numbers_of_numpy_are_taken_from_python(number):
    single = {"words": tuple(WORDS), "predicate": number, "roles": tuple(ROLES)}
    several = {"words": tuple(WORDS), "predicates": (number,), "roles": (tuple(ROLES),)}
    for row in (single, several, {**several, "text": " ".join(WORDS)}):
        found = sentence_record(Record(row, "x", 1), 100, answers=True).fields
        assert (found["words"], found["predicates"], found["roles"]) == (WORDS, [2], [ROLES])
        assert type(found["predicates"][0]) is int
        assert sentence_record(Record(row, "x", 1), 100, answers=False).fields["words"] == WORDS


@pytest.mark.parametrize("number", [np.int64(5), np.float64(2), np.bool_(True), "2", None])
def test_what_is_no_position_is_named(number):
    with pytest.raises(DataError, match=r"outside the sentence\. Expected: a position from 0 to 4"):
        sentence_record(Record({**GOOD, "predicate": number}, "x", 1), 100, answers=True)


BAD_COLUMNS = {
    "a column too few": ("a  x  (V*)\nb  -\n", "line 2", "Expected: 3: a word"),
    "a column too many": ("a  x  (V*)\nb  -  *  *\n", "line 2", "Received: 4"),
    "brackets never closed": ("a  x  (V*)\nb  -  (A1*\n", "line 2", "(A1 is never closed"),
    "brackets closed twice": ("a  x  (V*)\nb  -  *)\n", "line 2", "'*)'"),
    "one inside another": ("a  x  (V*)\nb  -  (A1*\nc  -  (A0*))\n", "line 3", "none inside another"),
    "no star": ("a  x  (V*)\nb  -  A1\n", "line 2", "'A1'"),
    "the predicate has another role": ("a  x  (A1*)\n", "line 1", "B-V at word 0 and nowhere else"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_bad_columns_are_named(tmp_path, name):
    text, *parts = BAD_COLUMNS[name]
    message = problem(write(tmp_path / "a.conll", text))
    assert all(part in message for part in parts)


def test_words_with_spaces_in_them_stay_in_their_column(tmp_path):
    written = write_columns(["New York", "gives\tup"], [1], [["B-A0", "B-V"]])
    (read,) = fields(write(tmp_path / "a.conll", written))
    assert read == {"words": ["New_York", "gives_up"], "predicates": [1], "roles": [["B-A0", "B-V"]]}


def test_a_column_of_parts_of_speech_marks_no_predicates(tmp_path):
    found = problem(write(tmp_path / "a.conll", "Yes UH", "", "Dogs NNS", "bark VBP", ". ."), answers=False)
    assert f"{tmp_path}/a.conll, line 3: the second column marks every word" in found
    assert "Received: 'NNS VBP .'" in found
    one_word = write(tmp_path / "b.conll", "Run run")
    every_word = write(
        tmp_path / "c.conll", write_columns(["Let", "go"], [0, 1], [["B-V", "B-A1"], ["O", "B-V"]])
    )
    read = fields(one_word, answers=False) + fields(every_word, answers=False)
    assert [row["predicates"] for row in read] == [[0], [0, 1]]


def test_files_with_commas_between_them_are_read_in_turn(tmp_path):
    first, second = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.conll", "Yes  -")
    for source in (f"{first},{second}", f"{first}, {second}", (first, second)):
        assert [row["words"] for row in fields(source)] == [WORDS, ["Yes"]]
    odd = write(tmp_path / "a,b.jsonl", GOOD)
    assert len(fields(str(odd))) == 1
    assert "file not found" in problem(f"{first},{tmp_path}/c.jsonl")


def test_plain_text_cannot_train(tmp_path):
    assert "format of this file is not known" in problem(write(tmp_path / "a.txt", "The dog runs."))
    half = problem(write(tmp_path / "a.jsonl", {"text": "Go \ud83d."}), answers=False)
    assert "line 1: the field 'text' holds half of a character" in half
    assert "line 2: the sentence is empty" in problem(write(tmp_path / "a.txt", "Go.", ""), answers=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She can't pay $3.50...", "She|ca|n't|pay|$|3.50|..."),
        ("It's well-known: they'll go", "It|'s|well|-|known|:|they|'ll|go"),
        ("in the U.S. at 10:30, x2", "in|the|U.S.|at|10:30|,|x2"),
        ("一只狗 ein Fuß", "一|只|狗|ein|Fuß"),
        ("人々は２０００年、コーヒー", "人|々|は|２０００|年|、|コ|ー|ヒ|ー"),
        ("a\u200b \u200b\u200b b", "a|b"),
        ("हिन्दी में।", "हिन्दी|में|।"),
        ("cafe\u0301 ❤\ufe0f می\u200cخواهم", "cafe\u0301|❤\ufe0f|می\u200cخواهم"),
        ("N'T a_b", "N'T|a|_|b"),
        ("👩\u200d👩\u200d👧 👍🏽👍🏽!", "👩\u200d👩\u200d👧|👍🏽|👍🏽|!"),
        (
            "🏳️\u200d🌈🏃🏻\u200d♀️ 👩🏽\u200d❤️\u200d💋\u200d👨🏻",
            "🏳️\u200d🌈|🏃🏻\u200d♀️|👩🏽\u200d❤️\u200d💋\u200d👨🏻",
        ),
        ("🇩🇪🇫🇷 🏴\U000e0067\U000e0062\U000e007f", "🇩🇪|🇫🇷|🏴\U000e0067\U000e0062\U000e007f"),
        ("1️⃣2️⃣ #️⃣ 3", "1️⃣|2️⃣|#️⃣|3"),
        ("👍👍👍 👍👍🏽 →→ ★★☆ 😀😀", "👍👍👍|👍|👍🏽|→→|★★|☆|😀😀"),
    ],
)
def test_texts_are_cut_into_words(text, words):
    assert "|".join(cut(text).words) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("小狗在公园里追猫。", "小狗|在|公园|里|追|猫|。"),
        ("小小狗 小狗狗", "小|小狗|小狗|狗"),
        ("我在公园里面。", "我|在|公园里面|。"),  # the longest wins
        ("公园里2只dog", "公园|里|2|只|dog"),
        ("人々がコーヒーを飲む", "人々|が|コーヒー|を|飲む"),
    ],
)
def test_text_without_spaces_is_cut_into_the_longest_words_known(text, words):
    known = Lexicon(["小狗", "公园", "公园里面", "里", "人々", "コーヒー", "飲む", "dog", "2只"])
    sentence = cut(text, known)
    assert "|".join(sentence.words) == words
    assert sentence.span(0, len(sentence.words) - 1) == text


UNSPACED_TEXTS = st.text("小狗在公园，里a1 \u200b\u200d\u0301", max_size=12)


@given(st.text(max_size=20) | UNSPACED_TEXTS, st.lists(UNSPACED_TEXTS))
def test_every_visible_character_is_in_one_word(text, known):
    sentence = cut(text, Lexicon(known))
    seen = "".join(sentence.words)
    assert [one for one in seen if not is_blank(one)] == [one for one in text if not is_blank(one)]
    assert all(sentence.span(i, i) == word for i, word in enumerate(sentence.words))
    assert not any(map(is_blank, sentence.words))


def test_what_a_text_is_cut_into_can_be_given_again():
    text = "zero\u200b \u200b width, می\u200cخواهم"
    first = sentence_of(sentence_record(Record({"text": text}, "x", 1), 100, answers=False))
    assert sentence_of(sentence_record(Record(first.fields(), "x", 1), 100, answers=False)) == first


@pytest.mark.parametrize(
    "row",
    [
        {"words": WORDS, "id": 3},
        {"words": WORDS, "predicates": []},
        {"text": "It's  I.", "predicate": 1},
        {"text": "can't ", "words": ["can't"], "predicate": 0},
    ],
)
def test_a_sentence_becomes_a_record_and_itself_again(row):
    sentence = sentence_of(sentence_record(Record(row, "x", 1), 100, answers=False))
    assert sentence_of(sentence_record(Record(sentence.fields(), "x", 1), 100, answers=False)) == sentence


def test_words_that_are_given_are_those_that_predicates_count(tmp_path):
    """A contraction and a hyphen are cut otherwise where there is text alone."""
    words = ["The", "dog", "can't", "re-open", "it", "."]
    tags = ["O", "O", "O", "B-V", "O", "O"]
    row = {"text": "The dog can't re-open it.", "words": words, "predicate": 3, "roles": tags}
    path = write(tmp_path / "a.jsonl", row)
    (evaluated,), (predicted,) = fields(path), fields(path, answers=False)
    assert evaluated["words"] == predicted["words"] == words
    assert evaluated["predicates"] == predicted["predicates"] == [3]
    sentence = sentence_of(Record(predicted, "x", 1))
    assert (sentence.span(3, 3), sentence.span(4, 5)) == ("re-open", "it.")
    assert "can't re-open" in sentence.text


@pytest.mark.parametrize("text", ["The dog.", "The dog runs.", "A dog runs", "So the dog runs", "the dog"])
def test_a_text_of_other_words_is_left_aside(text):
    record = sentence_record(
        Record({"text": text, "words": ["the", "dog", "runs"]}, "x", 1), 100, answers=False
    )
    assert record.fields == {"words": ["the", "dog", "runs"]}


def test_a_span_is_what_stands_in_the_text():
    record = sentence_record(Record({"text": "I  don't know."}, "x", 1), 100, answers=False)
    assert sentence_of(record).span(0, 2) == "I  don't"
    assert sentence_of(Record({"words": ["I", "do"]}, "x", 1)).span(0, 1) == "I do"
