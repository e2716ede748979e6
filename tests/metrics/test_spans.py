from __future__ import annotations

import os
import re
import shutil
import subprocess

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

from regard._errors import DataError
from regard.metrics.propositions import tagged_phrases
from regard.metrics.spans import Counts, arguments, column_scores, role_scores

GOLD = """
- (A0* * *
- *) * *
run (V*) (A0* *
- (A1* *) (A0*)
be * (V*) *
stay * (A1*) (V*)
- *) (AM-TMP*) (C-A0*)

- *
go (V*)
"""
FOUND = """
- (A0* * *
- *) * *
run (V*) (A0* *
- (A1*) *) (A0*)
be * (V*) *
stay * (A2*) (V*)
- * * (C-A0*)

- (A0*)
go (V*)
"""
# What srl-eval.pl prints for these two.
COUNTED = {
    "A0": Counts(3, 1, 0),
    "A1": Counts(0, 1, 2),
    "A2": Counts(0, 1, 0),
    "AM-TMP": Counts(0, 0, 1),
}

tags = st.sampled_from(
    ["O", *(f"{kind}-{role}" for kind in "BI" for role in ("A0", "C-A0", "A1", "R-A0", "V", "C-V"))]
)
rows = st.lists(st.lists(tags, max_size=8), min_size=1, max_size=6)


@st.composite
def two_systems(draw):
    gold = draw(rows)
    return gold, [draw(st.lists(tags, min_size=len(row), max_size=len(row))) for row in gold]


def test_columns_as_the_official_scorer_counts_them():
    scores = column_scores(FOUND, GOLD)
    assert scores.roles == COUNTED
    assert scores.overall == Counts(3, 3, 3)
    assert scores.predicate == Counts(4, 0, 0)
    assert (scores.precision.value, scores.recall.value, scores.f1.value, scores.perfect.value) == (
        50,
        50,
        50,
        25,
    )
    assert round(COUNTED["A0"].f1, 2) == 85.71
    assert scores.f1.statistics.tolist() == [[1, 1, 1], [1, 1, 2], [1, 0, 0], [0, 1, 0]]


def test_predicates_that_differ():
    assert column_scores("- *\nrun (A0*)", "- *\nruns (A0*)").overall == Counts(0, 0, 1)
    assert column_scores("- \n- ", "- *\nruns (A0*)").overall == Counts(0, 0, 1)
    assert column_scores("- (A0*) *\nrun * (A0*)".replace("- (", "it ("), "- *\nrun (A0*)").overall == Counts(
        1, 0, 0
    )


def plain_counts(gold, found):
    """Right, excess, missed by sets: the pieces of each argument, V left out."""
    counts = np.zeros(3, dtype=int)
    for one, other in zip(gold, found, strict=True):
        sets = [
            {(a.role, a.extent, a.pieces) for a in arguments(tagged_phrases(row)) if a.role != "V"}
            for row in (one, other)
        ]
        counts += [len(sets[0] & sets[1]), len(sets[1] - sets[0]), len(sets[0] - sets[1])]
    return Counts(*map(int, counts))


@given(two_systems())
def test_any_tags(systems):
    gold, found = systems
    scores = role_scores(found, gold)
    expected = plain_counts(gold, found)
    assert scores.overall == expected
    assert scores.f1.value == expected.f1
    assert sum(counts.correct for counts in scores.roles.values()) == expected.correct
    swapped = role_scores(gold, found)
    assert (swapped.precision.value, swapped.recall.value) == (scores.recall.value, scores.precision.value)
    assert swapped.f1.value == pytest.approx(scores.f1.value)
    backwards = role_scores(found[::-1], gold[::-1])
    assert (backwards.f1.value, backwards.roles) == (scores.f1.value, scores.roles)


@given(rows)
def test_a_perfect_system(gold):
    scores = role_scores(gold, gold)
    assert scores.perfect.value == 100
    assume(scores.overall.correct)
    assert scores.precision.value == scores.recall.value == scores.f1.value == 100


def test_a_discontinuous_argument_is_right_only_as_a_whole():
    gold = [["B-A0", "O", "B-C-A0", "O", "B-C-A0"]]
    assert role_scores([["B-A0", "O", "B-C-A0", "O", "O"]], gold).overall == Counts(0, 1, 1)
    assert role_scores([["B-A0", "O", "O", "O", "B-C-A0"]], gold).overall == Counts(0, 1, 1)
    assert role_scores([["B-C-A0", "O", "B-C-A0", "O", "B-C-A0"]], gold).overall == Counts(1, 0, 0)
    assert role_scores([["B-A0", "I-A0", "I-A0", "I-A0", "I-A0"]], gold).overall == Counts(0, 1, 1)


def test_references_are_roles_and_the_predicate_counts_apart():
    scores = role_scores([["B-R-A0", "B-V", "O"]], [["B-R-A0", "B-V", "B-C-V"]])
    assert scores.roles == {"R-A0": Counts(1, 0, 0)}
    assert scores.predicate == Counts(0, 1, 1)
    assert scores.perfect.value == 100


def test_errors():
    with pytest.raises(DataError, match="row 1 do not match"):
        role_scores([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(DataError, match="2 predictions, 1 rows of tags"):
        role_scores([["O"], ["O"]], [["O"]])
    with pytest.raises(DataError, match="no examples"):
        role_scores([], [])
    with pytest.raises(DataError, match="sentence 1 has another length"):
        column_scores("- *\ngo *", "go *")
    with pytest.raises(DataError, match="1 predictions, 2 sentences"):
        column_scores("go *", "go *\n\ngo *")


def as_columns(groups):
    lines = []
    for row in groups:
        ends = [
            i + 1 == len(row) or not row[i + 1].startswith("I-") or row[i + 1][2:] != tag[2:]
            for i, tag in enumerate(row)
        ]
        for i, (tag, end) in enumerate(zip(row, ends, strict=True)):
            begins = tag != "O" and (tag[0] == "B" or i == 0 or row[i - 1][2:] != tag[2:])
            bracket = f"({tag[2:]}" * begins + "*" + ")" * (tag != "O" and end)
            lines.append(("go" if i == 0 else "-") + " " + bracket)
        lines.append("")
    return "\n".join(lines) + "\n"


def test_against_the_official_scorer(tmp_path):
    script = os.environ.get("REGARD_SRL_EVAL", "")
    if not script or not shutil.which("perl"):
        pytest.skip("set REGARD_SRL_EVAL to the path of srl-eval.pl, and install Perl")
    random = np.random.default_rng(0)
    options = [
        "O",
        *(f"{k}-{role}" for k in "BI" for role in ("A0", "C-A0", "A1", "R-A0", "V", "C-V", "C-C-A0")),
    ]
    gold = [random.choice(options, size=random.integers(1, 9)).tolist() for _ in range(400)]
    found = [[tag if random.random() < 0.8 else str(random.choice(options)) for tag in row] for row in gold]
    for name, one in (("gold", gold), ("found", found)):
        (tmp_path / name).write_text(as_columns(one))
    command = ["perl", script, str(tmp_path / "gold"), str(tmp_path / "found")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = {
        name: (Counts(*map(int, counts.split())), scores.split())
        for name, counts, scores in re.findall(
            r"^ *(\S+) +((?:\d+ +){3})((?: *\d+\.\d\d){3})$", printed, re.MULTILINE
        )
    }
    for scores in (role_scores(found, gold), column_scores(as_columns(found), as_columns(gold))):
        ours = scores.roles | {"Overall": scores.overall, "V": scores.predicate}
        assert {name: counts for name, (counts, _) in theirs.items()} == ours
        for name, (_, printed_scores) in theirs.items():
            assert [
                f"{x:.2f}" for x in (ours[name].precision, ours[name].recall, ours[name].f1)
            ] == printed_scores
        assert f"perfect props : {scores.perfect.value:6.2f}" in printed
