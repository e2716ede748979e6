from __future__ import annotations

import itertools

import pytest

from regard._errors import DataError
from regard.metrics.extracts import EXTRACTS, extracts, gap_sentence, sentences
from regard.metrics.summaries import KINDS, rouge

DOCUMENTS = [
    "A dog runs on the beach. The grey cat of Mr Smith sleeps all day long in the sun! It rains.",
    "One sentence, e.g. this",
    "Fast parser. It reads files of version 2.5 and writes them.",
]
REFERENCES = [["the grey cat sleeps", "it rains a lot"], ["another thing"], ["parser that reads files"]]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two. Three.", 3),
        ("It is v1.5 of e.g. that.", 1),
        ('He said "Go!" Then he went.', 2),
        ("狗跑。猫睡。", 2),
        ("a title\nand a text", 2),
        ("3D views. 2D views.", 2),
        ("", 1),
    ],
)
def test_sentences_are_cut_at_their_ends(text, count):
    found = sentences(text)
    assert len(found) == count
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "text", [*DOCUMENTS, "狗在跑。猫和狗在睡觉。猫是灰的。", "! ! !", "It rains. It rains. It pours."]
)
def test_the_sentence_that_is_left_out_has_the_highest_rouge_against_the_others(text):
    parts = sentences(text)
    found = gap_sentence(text)
    if len(parts) == 1:
        assert found is None
        return
    before, sentence, after = found
    assert [part for part in (before, sentence, after) if part]
    assert "".join((before + sentence + after).split()) == "".join(text.split())
    others = [" ".join(parts[:n] + parts[n + 1 :]) for n in range(len(parts))]
    tokenizer = "characters" if "。" in text else "english"
    scores = rouge(parts, others, tokenizer)["rouge1"].statistics[:, 0].tolist()
    assert sentence == parts[scores.index(max(scores))]


def test_the_best_sentence_is_the_best_of_all_of_them():
    found = extracts(DOCUMENTS, REFERENCES)
    assert tuple(found) == EXTRACTS
    best = 0.0
    for chosen in itertools.product(*map(sentences, DOCUMENTS)):
        scores = rouge(chosen, REFERENCES)
        best = max(best, sum(scores[kind].value for kind in KINDS))
    assert sum(found["best sentence"].values()) == pytest.approx(best)


def test_first_and_longest_are_scored_as_any_summary():
    found = extracts(DOCUMENTS, REFERENCES)
    longest = rouge(
        [
            "The grey cat of Mr Smith sleeps all day long in the sun!",
            DOCUMENTS[1],
            sentences(DOCUMENTS[2])[1],
        ],
        REFERENCES,
    )
    first = rouge([sentences(text)[0] for text in DOCUMENTS], REFERENCES)
    for kind in KINDS:
        assert found["first sentence"][kind] == first[kind].value
        assert found["longest sentence"][kind] == longest[kind].value


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(DataError, match="do not match"):
        extracts(["A."], [])
    with pytest.raises(DataError, match="has no reference"):
        extracts(["A."], [[]])
