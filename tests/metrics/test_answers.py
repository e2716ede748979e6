from __future__ import annotations

import itertools
import string

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from regard._errors import ConfigError, DataError
from regard.metrics.answers import STYLES, answer_scores, best_threshold

# Exact match and F1 that the official scripts give.
SQUAD = [
    ("the Dog!", ["dog"], (1.0, 1.0)),
    ("Hong Kong", ["Hong Kong Island", "Kowloon"], (0.0, 0.8)),
    ("", ["x"], (0.0, 0.0)),
    ("U.S. dollars", ["US dollar", "dollars, US"], (0.0, 1.0)),
    ("it's a-b", ["its ab"], (1.0, 1.0)),
    ("Größe  an", ["größe an"], (1.0, 1.0)),
    ("one two two", ["two one one"], (0.0, 0.6666666666666666)),
]
CMRC2018 = [
    ("北京市", ["北京"], (0.0, 0.8)),
    ("《红楼梦》。", ["红楼梦", "红楼"], (1.0, 1.0)),
    ("1998年3.5亿Windows XP", ["3.5亿windows XP系统"], (0.0, 0.6666666666666666)),
    ("they can't", ["can't"], (0.0, 0.8)),
    ("", ["北京"], (0.0, 0.0)),
    ("。", ["，"], (1.0, 0.0)),
    ("…好", ["好"], (0.0, 0.6666666666666666)),
    ("ｱ-b C", ["bc"], (0.0, 0.0)),
]
JAQUAD = [
    ("東京都", ["東京"], (0.0, 0.8)),
    ("都 東京", ["東京都"], (1.0, 1.0)),
    ("", ["東京"], (0.0, 0.0)),
    ("ab\u3000c", ["abc"], (1.0, 1.0)),
]
CASES = [
    (style, *case)
    for style, cases in (("squad", SQUAD), ("squad2", SQUAD), ("cmrc2018", CMRC2018), ("jaquad", JAQUAD))
    for case in cases
]

answer = st.text("ab c中文。", min_size=1, max_size=8)


@pytest.mark.parametrize(("style", "prediction", "answers", "expected"), CASES)
def test_each_style_as_its_script(style, prediction, answers, expected):
    scores = answer_scores([prediction], [answers], style)
    assert (scores.exact.statistics[0, 0], scores.f1.statistics[0, 0]) == expected
    assert (scores.exact.value, scores.f1.value) == (100 * expected[0], 100 * expected[1])


def official_tokens(text):
    """What is left of an answer: lower case, then no ASCII punctuation, then no articles, then cut at spaces."""
    kept = [one for one in text.lower() if one not in string.punctuation]
    runs = ("".join(run) for _, run in itertools.groupby(kept, key=lambda one: one.isalnum() or one == "_"))
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def official_pair(prediction, gold, version):
    """Exact match and F1 of one answer against one other, by the definition."""
    ours, theirs = official_tokens(prediction), official_tokens(gold)
    exact = float(ours == theirs)
    if version == 2 and not (ours and theirs):
        return exact, exact
    left, same = list(theirs), 0
    for token in ours:
        if token in left:
            left.remove(token)
            same += 1
    if not same:
        return exact, 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return exact, 2 * precision * recall / (precision + recall)


def official(prediction, golds, version):
    """The best over the answers of a question, each score by itself; version 2 leaves out answers that are nothing but articles."""
    if version == 2:
        golds = [gold for gold in golds if official_tokens(gold)] or [""]
    pairs = [official_pair(prediction, gold, version) for gold in golds]
    return tuple(max(column) for column in zip(*pairs, strict=True))


# What the definition turns on: articles by themselves and inside of words, signs between and within words, spaces, scripts.
PARTS = [
    "a",
    "an",
    "The",
    "the",
    "dog",
    "Dogs",
    "U.S",
    "it's",
    "x-y",
    "_",
    "the_",
    "—",
    "-",
    "“",
    ".",
    "é",
    "İ",
    "ẞ",
    "１",
    "狗",
    "\u00a0",
    "\n",
]
TEXT = st.lists(st.sampled_from([*PARTS, *PARTS[:6], " ", " ", " "]), max_size=9).map("".join) | st.text(
    max_size=6
)
QUESTION = st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3))


@given(st.lists(QUESTION, min_size=1, max_size=4), st.sampled_from([1, 2]))
def test_squad_is_its_definition(questions, version):
    predictions, golds = map(list, zip(*questions, strict=True))
    scores = answer_scores(predictions, golds, "squad" if version == 1 else "squad2")
    expected = [official(*question, version) for question in questions]
    exact, f1 = (np.array(column) for column in zip(*expected, strict=True))
    assert scores.exact.statistics[:, 0].tolist() == exact.tolist()
    np.testing.assert_allclose(scores.f1.statistics[:, 0], f1, rtol=1e-15)
    assert (scores.exact.value, scores.f1.value) == pytest.approx(
        (100 * exact.mean(), 100 * f1.mean()), rel=1e-12
    )


def test_where_squad_1_and_2_differ():
    one, two = (answer_scores(["The"], [["a"]], style) for style in ("squad", "squad2"))
    assert (one.exact.value, one.f1.value) == (100, 0)
    assert (two.exact.value, two.f1.value) == (100, 100)
    # An answer that is nothing but articles does not count beside another.
    assert answer_scores([""], [["the", "dog"]], "squad2").exact.value == 0


@pytest.mark.parametrize("style", ["squad2", "jaquad"])
def test_no_answer(style):
    scores = answer_scores(["", "x", ""], [[], [], ["y"]], style)
    assert scores.exact.statistics[:, 0].tolist() == scores.f1.statistics[:, 0].tolist() == [1, 0, 0]


def test_a_threshold():
    predictions, answers, no_answer = ["x", "x", "y"], [[], ["x"], ["y"]], [0.9, 0.7, 0.1]
    scores = [answer_scores(predictions, answers, "squad2", no_answer, t).f1 for t in (0.0, 0.5, 0.7, 0.9)]
    assert [score.statistics[:, 0].tolist() for score in scores] == [
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, 1],
        [0, 1, 1],
    ]
    assert scores[1].signature == "style:squad2|no-answer:0.5"
    raw = answer_scores(predictions, answers).f1.statistics[:, 0]
    assert best_threshold(raw, predictions, [False, True, True], no_answer) == (100.0, 0.7)


@given(
    st.lists(
        st.tuples(st.sampled_from(["x", "y z", ""]), st.sampled_from([[], ["x"], ["y"]])),
        min_size=1,
        max_size=8,
    ),
    st.randoms(),
)
def test_no_threshold_is_better_than_the_best(examples, random):
    predictions, answers = map(list, zip(*examples, strict=True))
    no_answer = random.sample(range(1, 100), len(examples))
    raw = answer_scores(predictions, answers).f1.statistics[:, 0]
    best, threshold = best_threshold(raw, predictions, [bool(one) for one in answers], no_answer)
    tried = [answer_scores(predictions, answers, "squad2", no_answer, t).f1.value for t in [0, *no_answer]]
    assert best == pytest.approx(max(tried))
    assert answer_scores(predictions, answers, "squad2", no_answer, threshold).f1.value == pytest.approx(best)


@given(st.sampled_from(["squad2", "jaquad"]), st.lists(answer, min_size=1, max_size=5))
def test_right_answers_score_100(style, texts):
    scores = answer_scores(texts, [[text] for text in texts], style)
    assert scores.exact.value == scores.f1.value == 100


@given(st.sampled_from(sorted(STYLES)), st.lists(st.tuples(answer, answer), min_size=1, max_size=5))
def test_symmetric_and_without_order(style, pairs):
    ours, theirs = map(list, zip(*pairs, strict=True))
    scores, swapped = answer_scores(ours, theirs, style), answer_scores(theirs, ours, style)
    assert np.allclose(scores.f1.statistics, swapped.f1.statistics)
    assert scores.exact.value == swapped.exact.value
    assert scores.f1.value == pytest.approx(answer_scores(ours[::-1], theirs[::-1], style).f1.value)
    if style == "squad2":  # an answer of articles alone counts only where there is no other
        return
    more = answer_scores(ours, [[text, "b"] for text in theirs], style)
    assert (more.f1.statistics[:, 0] >= scores.f1.statistics[:, 0]).all()


def test_a_question_without_an_answer_leaves_the_others_to_the_script_of_chinese():
    ours, theirs = ["首都中国的", "", "有人"], [["中国的首都"], [], []]
    alone = answer_scores(ours[:1], theirs[:1], "cmrc2018")
    scores = answer_scores(ours, theirs, "cmrc2018")
    assert scores.f1.statistics[:, 0].tolist() == [alone.f1.statistics[0, 0], 1, 0] == [0.6, 1, 0]
    assert scores.exact.statistics[:, 0].tolist() == [0, 1, 0]
    assert scores.f1.signature == "style:cmrc2018|unanswered:empty"


def test_errors():
    with pytest.raises(ConfigError, match="did you mean 'squad2'"):
        answer_scores(["a"], ["a"], "sqad2")
    with pytest.raises(DataError, match="question 1 has no answer"):
        answer_scores(["a", "b"], [["a"], []], "squad")
    with pytest.raises(DataError, match="no examples"):
        answer_scores([], [])
    with pytest.raises(DataError, match="1 predictions, 2 lists of answers"):
        answer_scores(["a"], ["a", "b"])
    with pytest.raises(DataError, match="1 predictions, 2 lists of answers"):
        answer_scores(["a", "b"], ["a", "b"], no_answer=[0.5])
    with pytest.raises(DataError, match="2 predictions, 1 entries"):
        best_threshold([1.0, 1.0], ["a", "b"], [True], [0.1, 0.2])
    with pytest.raises(DataError, match="no questions"):
        best_threshold([], [], [], [])
