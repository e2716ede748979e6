from __future__ import annotations

import json

import pytest

from regard.data.shown import WIDTH, shorten_line, shown


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({"source": "a\nb", "target": "c", "targets": ["c"]}, [("source", "a b"), ("target", "c")]),
        (
            {"source": "a", "target": "c", "targets": ["c", "d"]},
            [("source", "a"), ("target", "c"), ("targets", "c | d")],
        ),
        ({"text": "a", "label": 3}, [("text", "a"), ("label", "3")]),
        ({"text": "a", "labels": []}, [("text", "a"), ("labels", "-")]),
        ({"image": "a.png", "captions": ["x", "y"]}, [("image", "a.png"), ("captions", "x | y")]),
        ({"id": None, "extra": {"ä": [1]}}, [("extra", '{"ä": [1]}')]),
        ({"words": ["rain"], "predicates": [], "roles": []}, [("words", "rain"), ("roles", "-")]),
        ({"words": ["it", "rains"], "predicates": [1]}, [("words", "it rains"), ("predicates", "[1]")]),
    ],
)
def test_every_field_is_a_readable_line(fields, lines):
    assert shown(fields) == lines


def test_roles_stand_in_brackets_a_line_for_each_predicate():
    roles = [["B-A0", "I-A0", "B-V", "O", "O"], ["B-A0", "O", "O", "B-V", "B-A1"]]
    fields = {"words": ["the", "dog", "sees", "and", "runs"], "predicates": [2, 3], "roles": roles}
    assert shown(fields)[1:] == [
        ("roles", "[A0 the dog] [V sees] and runs"),
        ("roles", "[A0 the] dog sees [V and] [A1 runs]"),
    ]


@pytest.mark.parametrize("before", [0, 30, 500, 980])
def test_a_long_passage_is_shown_around_its_answer(before):
    context = "x" * before + " in May " + "y" * (1000 - before)
    fields = {"context": context, "answers": [{"text": "in May", "start": before + 1}] * 2}
    (_, passage), (_, answers) = shown(fields)
    assert "in May" in passage
    assert passage.startswith("...") == (before > WIDTH // 2)
    assert passage.endswith("...") == (before < 900)
    assert len(passage) <= WIDTH + 6
    assert answers == "in May"


def test_a_passage_without_an_answer_is_shown_from_its_beginning():
    (_, passage), (_, answers) = shown({"context": "one " * 100, "answers": []})
    assert passage == ("one " * 100)[:WIDTH].strip() + " ..."
    assert answers == "-"


def test_short_lines_are_whole():
    assert shorten_line("a\t b\n") == "a b"
    assert json.loads(shown({"x": {"a": None}})[0][1]) == {"a": None}
