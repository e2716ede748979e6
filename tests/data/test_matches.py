from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data.matches import (
    CODES,
    NEAR,
    NO_UNIT,
    PARTS,
    PASSAGE_CODES,
    PREFIX,
    RARE,
    ROWS,
    RUN_LENGTHS,
    SIZES,
    SPELLINGS,
    STEPS,
    WEIGHTS,
    Matcher,
    Text,
    nearest_match,
    units_of,
)  # fmt: skip
from regard.data.tokenizer import Tokenizer

WORDS = ["the", "The", "dog", "Dogs", "running", "runner", "42", "狗", "在", "タワー", "x", ".", "—", " "]


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["The dog is running. The runner runs 42.", "一只狗在跑。", "東京タワーにいる。"] * 3
    return Tokenizer.train(texts, 400, lowercase=True, unspaced="characters")


def test_words_are_whole_in_every_script_and_form():
    assert units_of("हिन्दी हिन्दू") == ["हिन्दी", "हिन्दू"]
    assert units_of("Cafe\u0301 か\u3099き") == ["café", "が", "き"]
    assert nearest_match("Cafe\u0301?", "In one café he ate.", 3, 6) == 1


def read(codes):
    """Features (P, F) of a passage's codes."""
    return np.stack(np.unravel_index(codes, SIZES), axis=1)


def plain(question: str, passage: str, matcher: Matcher) -> list[tuple[int, ...]]:
    """The features of each unit of a passage, by their definition."""
    asked, told = units_of(question), units_of(passage)
    rows, runs = [], []
    for i in range(len(told)):
        best = 0
        for length in range(1, RUN_LENGTHS[-1] + 1):
            for begin in range(max(0, i - length + 1), i + 1):
                gram = told[begin : begin + length]
                if len(gram) == length and any(asked[k : k + length] == gram for k in range(len(asked))):
                    best = length
        stem = len(told[i]) >= PREFIX and any(
            len(u) >= PREFIX and u[:PREFIX] == told[i][:PREFIX] for u in asked
        )
        runs.append(max(best, int(stem)))
    levels = [matcher.levels.get(unit, RARE) for unit in told]
    single = [unit in "狗在" for unit in told]
    weights = [
        WEIGHTS[level] * (run > 0 and not (one and run < 2))
        for level, run, one in zip(levels, runs, single, strict=True)
    ]
    whole = max(1e-9, sum(WEIGHTS[matcher.levels.get(unit, RARE)] for unit in asked))
    for i, (level, run) in enumerate(zip(levels, runs, strict=True)):
        near = [
            int(min(STEPS - 1, sum(weights[max(0, i - r) : i + r + 1]) / whole * STEPS + 1e-9)) for r in NEAR
        ]
        rows.append((sum(run >= bound for bound in RUN_LENGTHS), level, *near))
    return rows


@given(st.lists(st.sampled_from(WORDS), max_size=8), st.lists(st.sampled_from(WORDS), max_size=25))
def test_codes_say_what_is_defined(tokenizer, asked, told):
    question, passage = " ".join(asked), " ".join(told)
    matcher = Matcher({"the": 0, "dog": 2, "在": 1})
    asking, telling = Text(question, tokenizer), Text(passage, tokenizer)
    codes_Q, codes_P = matcher.codes(asking, telling)
    assert (len(codes_Q), len(codes_P)) == (len(asking.ids), len(telling.ids))
    expected = plain(question, passage, matcher)
    for place, row in enumerate(read(codes_P)):
        if telling.is_unit[place]:
            unit = telling.unit_of[place]
            assert tuple(row[1:]) == expected[unit]
            word = telling.written[unit]
            form = (
                3
                if word in asking.written
                else 2
                if word.lower() in asking.units
                else int(expected[unit][0] > 0)
            )
            assert row[0] == form
        else:
            assert tuple(row[:3]) == (0, 0, NO_UNIT)
    assert all(PASSAGE_CODES <= code < CODES - 1 for code in codes_Q)  # the last one is that of an end


def test_without_comparing_codes_say_how_frequent_a_unit_is(tokenizer):
    question, passage = (Text(text, tokenizer) for text in ("the dog 42?", "The dog runs 42 x."))
    levels = {"the": 0, "dog": 2}
    asked, told = Matcher(levels, compares=False).codes(question, passage)
    alone = Matcher(levels).codes(question, Text("x", tokenizer))[0]
    assert asked.tolist() == alone.tolist()
    assert asked.tolist() != Matcher(levels).codes(question, passage)[0].tolist()
    known = read(Matcher(levels).codes(question, passage)[1])
    assert known[:, 0].any()
    found = read(told)
    assert (found[:, 2] == known[:, 2]).all()
    assert not found[:, [0, 1, 3, 4]].any()


@given(
    st.lists(st.sampled_from("abcd"), max_size=4),
    st.lists(st.sampled_from("abcdxyz"), min_size=1, max_size=9),
    st.data(),
)
def test_the_nearest_match_is_outside_the_answer(asked, told, data):
    first = data.draw(st.integers(0, len(told) - 1))
    last = data.draw(st.integers(first, len(told) - 1))
    passage = ", ".join(told)
    found = nearest_match(" ".join(asked), passage, 3 * first, 3 * last + 1)
    apart = [max(first - place, place - last) for place, word in enumerate(told) if word in asked]
    assert found == min((one for one in apart if one > 0), default=len(told))


def test_the_nearest_match_of_other_scripts():
    assert nearest_match("タワーは何年?", "東京タワーは1958年に。", 6, 10) == 1
    assert nearest_match("狗几岁?", "那只狗今年三岁。", 5, 6) == 1
    assert nearest_match("Who?", "...", 0, 3) == 0


def test_forms_of_a_match(tokenizer):
    told = Text("Running runner dog cat .", tokenizer)
    codes = Matcher({}).codes(Text("runnable running Dog", tokenizer), told)[1]
    by_unit = {
        told.units[unit]: read(codes)[place][0]
        for place, unit in enumerate(told.unit_of)
        if told.is_unit[place]
    }
    assert by_unit == {"running": 2, "runner": 0, "dog": 2, "cat": 0}


def test_frequencies():
    texts = [["the", "the", "dog"]] * 3 + [["a"]] * 17
    assert Matcher.frequencies(texts) == {"the": 1, "dog": 1, "a": 0}
    assert Matcher.frequencies([]) == {}


def test_pieces_know_their_units(tokenizer):
    text = Text("The 42 running 狗狗!", tokenizer)
    names = [
        text.units[unit] if inside else None for unit, inside in zip(text.unit_of, text.is_unit, strict=True)
    ]
    for (begin, end), name in zip(text.spans, names, strict=True):
        assert (name is None) == (text.text[begin:end] in ("!", ""))
        assert name is None or text.text[begin:end].lower() in name
    assert (text.spellings(True) < SPELLINGS - 1).all()
    assert (text.spellings(True) != text.spellings(False)).all()


def test_every_code_has_parts():
    assert PARTS.shape[0] == CODES
    assert (PARTS.min(), PARTS.max() + 1) == (0, ROWS)
    assert len(np.unique(PARTS, axis=0)) == CODES


def test_a_text_without_units_or_pieces(tokenizer):
    matcher = Matcher({})
    empty, mark, word = (Text(text, tokenizer) for text in ("", "?", "dog"))
    for question in (empty, mark, word):
        for passage in (empty, mark, word):
            codes_Q, codes_P = matcher.codes(question, passage)
            assert (len(codes_Q), len(codes_P)) == (len(question.ids), len(passage.ids))
