from __future__ import annotations

import pytest

from regard._errors import DataError
from regard.metrics.propositions import read_props, tagged_phrases


def extents(phrases):
    return [(phrase.role, phrase.first, phrase.last) for phrase in phrases]


def test_tags():
    assert extents(tagged_phrases(["B-A0", "I-A0", "B-A0", "O", "B-V", "I-A1", "I-A1", "I-A2"])) == [
        ("A0", 0, 1),
        ("A0", 2, 2),
        ("V", 4, 4),
        ("A1", 5, 6),
        ("A2", 7, 7),
    ]
    assert extents(tagged_phrases(["B-C-A0", "I-C-A0", "I-A0"])) == [("C-A0", 0, 1), ("A0", 2, 2)]
    assert tagged_phrases([]) == []


@pytest.mark.parametrize("tag", ["A0", "B-", "I", "S-A0", "", "b-A0"])
def test_a_tag_that_is_none(tag):
    with pytest.raises(DataError, match="word 1 has the tag"):
        tagged_phrases(["O", tag])


def test_columns_with_brackets_inside_brackets():
    first, second = read_props(
        "- (A0(A1*A1) *\nsee *) (V*)\nhear (V*) (A2*A2)\n\n\n- \ngo\t(V*)\n".replace("- \n", "- *\n")
    )
    assert (first.words, second.words) == (3, 2)
    assert [first.propositions[i].verb for i in (1, 2)] == ["see", "hear"]
    assert extents(first.propositions[1].phrases) == [("A0", 0, 1), ("A1", 0, 0), ("V", 2, 2)]
    assert extents(first.propositions[1].phrases[0].pieces) == [("A1", 0, 0)]
    assert extents(second.propositions[1].phrases) == [("V", 1, 1)]
    # Of two with the same words, srl-eval.pl keeps the inner one.
    assert extents(read_props("go (A0(A1*))")[0].propositions[0].phrases) == [("A1", 0, 0)]
    assert read_props("-\n-")[0].propositions == {}
    assert read_props("") == read_props("\n\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("go (A0*", "line 1"),
        ("go *)", "line 1"),
        ("go (A0*A1)", "line 1"),
        ("go A0", "line 1"),
        ("go (A0*x", "line 1"),
        ("go (*)", "line 1"),
        ("- *\ngo * *", "line 2 has 3 columns"),
        ("\n-\ngo", "line 2 has 1 columns"),
    ],
)
def test_columns_that_do_not_fit(text, message):
    with pytest.raises(DataError, match=message):
        read_props(text)
