from __future__ import annotations

import functools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from regard._errors import ConfigError, DataError
from regard.metrics.summaries import KINDS, longest_common_subsequence, rouge

# What rouge-score 0.1.2 gives, without its stemmer.
KNOWN = [
    (
        "The cats were running quickly.",
        ["A cat runs quick.", "cats running"],
        [0.5714285714285715, 0.0, 0.5714285714285715],
    ),
    ("naïve dogs, dogs", ["dogs dogs dogs barking"], [0.5, 0.3333333333333333, 0.5]),
    ("", ["x"], [0.0, 0.0, 0.0]),
    ("a b c d", ["d c b a", "a c"], [1.0, 0.0, 0.6666666666666666]),
]

text = st.lists(
    st.sampled_from(["dog", "dogs", "running", "runs", "a", "Ö", "3.5", "naïve", "."]), max_size=8
).map(" ".join)
examples = st.lists(st.tuples(text, st.lists(text, min_size=1, max_size=3)), min_size=1, max_size=4)


@pytest.mark.parametrize(("prediction", "references", "expected"), KNOWN)
def test_known_values(prediction, references, expected):
    scores = rouge([prediction], [references])
    assert [scores[kind].statistics[0, 0] for kind in KINDS] == expected


@given(examples)
def test_as_rouge_score(pairs):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is the reference")
    predictions, references = map(list, zip(*pairs, strict=True))
    for tokenizer in ("english", "stemmed"):
        theirs = scorer.RougeScorer(KINDS, use_stemmer=tokenizer == "stemmed")
        ours = rouge(predictions, references, tokenizer)
        for i, (prediction, texts) in enumerate(pairs):
            expected = theirs.score_multi(texts, prediction)
            assert [ours[kind].statistics[i, 0] for kind in KINDS] == [
                expected[kind].fmeasure for kind in KINDS
            ]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_longest_common_subsequence_by_recursion(first, second):
    @functools.cache
    def length(i, j):
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + length(i + 1, j + 1)
        return max(length(i + 1, j), length(i, j + 1))

    assert longest_common_subsequence(first, second) == length(0, 0)


@given(st.lists(st.tuples(text, text), min_size=1, max_size=4))
def test_symmetric_and_without_order(pairs):
    ours, theirs = map(list, zip(*pairs, strict=True))
    scores, swapped, backwards = rouge(ours, theirs), rouge(theirs, ours), rouge(ours[::-1], theirs[::-1])
    for kind in KINDS:
        assert scores[kind].value == pytest.approx(swapped[kind].value)
        assert scores[kind].value == pytest.approx(backwards[kind].value)


def test_perfect_and_empty():
    for texts in (["a dog runs"], ["一只狗"], ["犬が走る"]):
        assert [score.value for score in rouge(texts, texts).values()] == [100, 100, 100]
        assert [score.value for score in rouge([""], texts).values()] == [0, 0, 0]


def test_chinese_by_characters():
    scores = rouge(["我用Windows。"], ["你用 windows 吗？"], "characters")
    assert scores["rouge1"].signature == "tok:characters|refs:best"
    assert [scores[kind].value for kind in KINDS] == pytest.approx([200 * 2 / 7, 200 * 1 / 5, 200 * 2 / 7])


def test_best_or_mean_of_several():
    best, mean = (rouge(["a b"], [["a b", "c d"]], several=way)["rouge1"] for way in ("best", "mean"))
    assert (best.value, mean.value) == (100, 50)
    assert (best.signature, mean.signature) == ("tok:english|refs:best", "tok:english|refs:mean")


def test_other_tokenizers():
    assert rouge(["die Größen"], ["die Größe"], "words")["rouge1"].value == 50
    assert rouge(["dogs jumping"], ["dog jumped"], "stemmed")["rouge2"].value == 100
    assert rouge(["dogs jumping"], ["dog jumped"], "english")["rouge1"].value == 0


def test_errors():
    with pytest.raises(ConfigError, match="did you mean 'stemmed'"):
        rouge(["a"], ["a"], "stem")
    with pytest.raises(ConfigError, match="best, mean"):
        rouge(["a"], ["a"], several="worst")
    with pytest.raises(DataError, match="example 0 has no reference"):
        rouge(["a"], [[]])
    with pytest.raises(DataError, match="no examples"):
        rouge([], [])
