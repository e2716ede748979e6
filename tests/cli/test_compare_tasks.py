"""`regard compare` and `regard evaluate --by` for tasks other than translation, from files of predictions."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from regard._errors import DataError
from regard.cli._buckets import Cutting
from regard.cli._comparison import Report, Results
from regard.data.records import Record
from regard.metrics.measurement import averaged
from regard.tasks import make_task

ROLES = [
    {
        "words": ["the", "dog", "sees", "a", "cat", "today"],
        "predicates": [2],
        "roles": [["B-A0", "I-A0", "B-V", "B-A1", "I-A1", "O"]],
    },
    {"words": ["rain"], "predicates": [], "roles": []},
    {
        "words": ["he", "says", "she", "is", "there"],
        "predicates": [1, 3],
        "roles": [["B-A0", "B-V", "B-A1", "I-A1", "I-A1"], ["O", "O", "B-A1", "B-V", "O"]],
    },
]
ANSWERS = [
    {"question": "Who?", "context": "Ada wrote it.", "answers": [{"text": "Ada", "start": 0}]},
    {
        "question": "When?",
        "context": "It was long ago, in May.",
        "answers": [{"text": "in May", "start": 17}],
    },
    {"question": "Where?", "context": "Nobody knows.", "answers": []},
]
TEXTS = [{"text": "it rains", "label": "en"}, {"text": "il pleut ici", "label": "fr"}]


def answer(row, text):
    return {"task": "answer", "question": row["question"], "text": text, "no_answer": 0.25}


def labelled(row, label):
    return {"task": "classify", "text": row["text"], "label": label, "probabilities": {"en": 0.6, "fr": 0.4}}


WORSE = [{**ROLES[0], "roles": [["B-A0", "I-A0", "B-V", "B-A1", "O", "O"]]}, ROLES[1], ROLES[2]]
CASES = {
    "roles": (
        ROLES,
        [{"task": "roles", **row} for row in WORSE],
        [{"task": "roles", **row} for row in ROLES],
    ),
    "answer": (
        ANSWERS,
        [answer(row, text) for row, text in zip(ANSWERS, ("it", "in May", ""), strict=True)],
        [answer(row, text) for row, text in zip(ANSWERS, ("Ada", "in May", ""), strict=True)],
    ),
    "classify": (
        TEXTS,
        [labelled(row, "en") for row in TEXTS],
        [labelled(row, row["label"]) for row in TEXTS],
    ),
}
FIRST = {"roles": ("f1", 80.0), "answer": ("f1", 200 / 3), "classify": ("accuracy", 50.0)}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(params=list(CASES))
def case(request, tmp_path):
    data, first, second = CASES[request.param]
    names = (("data", data), ("first", first), ("second", second))
    return SimpleNamespace(
        task=request.param, **{name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in names}
    )


def test_two_files_of_every_task_are_compared(regard_command, case):
    result = regard_command("compare", case.first, case.second, "--data", case.data, "--json")
    assert result.code == 0, result.err
    entry = json.loads(result.out)
    name, value = FIRST[case.task]
    score = next(one for one in entry["scores"] if one["name"] == name)
    assert (score["first"], score["second"]) == (pytest.approx(value), 100.0)
    assert (entry["changed"]["better"], entry["changed"]["worse"]) == (1, 0)
    assert entry["by"]["name"] == "length"
    buckets = entry["by"]["buckets"]
    assert sum(bucket["count"] for bucket in buckets) == (2 if case.task == "classify" else 3)
    assert any(bucket["scores"][name]["difference"] > 0 for bucket in buckets)


EXPECTED = {
    "roles": "  roles        [A0 the dog] [V sees] [A1 a cat] today",
    "answer": "  answers      Ada",
    "classify": "  label        fr",
}


def test_what_is_expected_is_shown_and_columns_stand_apart(regard_command, case):
    result = regard_command("compare", case.first, case.second, "--data", case.data)
    assert result.code == 0, result.err
    assert EXPECTED[case.task] in result.out.splitlines()
    table = [line for line in result.out.splitlines() if line.endswith("few")]
    assert table
    assert all(line.count("] ") == line.count("]") for line in table)
    assert all(f" {cell}" in line for line in table for cell in re.findall(r"[+-][\d.]+ \[", line))


def test_predictions_of_other_records_are_refused(refused, case):
    rows = [json.loads(line) for line in case.first.read_text(encoding="utf-8").splitlines()]
    write(case.first, rows[::-1])
    message = refused("compare", case.first, case.second, "--data", case.data)
    assert "first.jsonl, line 1" in message
    assert "this is no" in message


def test_a_task_is_cut_by_what_it_has(refused, case):
    message = refused("compare", case.first, case.second, "--data", case.data, "--by", "words")
    assert f"{case.task} cannot be cut by 'words'" in message
    assert "--by length" in message


def test_distance_is_from_a_predicate_to_its_farthest_argument():
    records = [Record(dict(row), "test", line) for line, row in enumerate(ROLES, 1)]
    task = make_task("roles")
    # A0 ends a word before "sees", A1 begins one after; "he" is one before "says"; "she" is one before "is".
    assert [task.groups["distance"].value(record) for record in records] == [[1], [], [1, 1]]
    far = Record({**ROLES[0], "roles": [["B-A0", "O", "B-V", "O", "O", "B-A1"]]}, "test", 1)
    assert task.groups["distance"].value(far) == [3]
    silent = Record({**ROLES[0], "roles": [["O", "O", "B-V", "O", "O", "O"]]}, "test", 1)
    assert np.isnan(task.groups["distance"].value(silent)).all()
    assert task.groups["length"].value(records[2]) == [5, 5]
    assert Cutting(task, "distance", records).rows == 3


def test_predicates_found_are_not_cut_by_what_is_one_for_each_predicate():
    """Three sentences with one, no and two predicates: the rows of all scores are three, and of another kind."""
    records = [Record(dict(row), "test", line) for line, row in enumerate(ROLES, 1)]
    task = make_task("roles")
    found = [
        task.restored(Record({**row, "found": []}, "file", 1), record)
        for row, record in zip(ROLES, records, strict=True)
    ]
    scores = {score.name: score for score in task.score(found, records)}
    assert {len(score.statistics) for score in scores.values()} == {3}
    for name in ("length", "distance"):
        cutting = Cutting(task, name, records)
        assert [name for name, score in scores.items() if cutting.fits(score)] == [
            "f1",
            "precision",
            "recall",
        ]


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_written_is_read_again(name):
    data, first, _ = CASES[name]
    task = make_task(name)
    if name == "classify":
        task.reader.input, task.reader.several = "text", False
    for row, entry in zip(data, first, strict=True):
        record = Record(dict(row), "test", 1)
        found = task.restored(Record(dict(entry), "file", 1), record)
        again = task.restored(Record({"task": name, **found.as_json()}, "file", 1), record)
        assert json.dumps(again.as_json(), allow_nan=False) == json.dumps(found.as_json())


def test_arguments_where_none_are_expected_make_an_example_worse():
    task = make_task("roles")
    tags = ["O", "B-V", "O"]
    rows = [
        {"words": ["It", "rains", "."], "predicates": [1], "roles": [tags]},
        {"words": ["It", "rains", "."], "predicates": [1], "roles": [tags]},
        {"words": ["Yes"], "predicates": [], "roles": []},
    ]
    records = [Record(row, "test", line) for line, row in enumerate(rows, 1)]
    entries = [rows[0], {**rows[1], "roles": [["B-A1", "B-V", "O"]]}, rows[2]]
    found = [
        task.restored(Record(entry, "file", 1), record)
        for entry, record in zip(entries, records, strict=True)
    ]
    assert task.example_scores(found, records) == [100, 0, 100]


def spans_of(spans):
    """The probabilities of the spans that come back from an entry with `spans`."""
    record = Record(dict(ROLES[0]), "test", 1)
    (one,) = make_task("roles").restored(Record({**ROLES[0], "spans": spans}, "file", 7), record).propositions
    return [span.as_json()["probability"] for span in one.spans]


def test_a_probability_of_0_is_one_and_null_is_none():
    span = {"first": 0, "last": 1}
    assert spans_of([[{**span, "probability": 0.0}]]) == [0, None, None]
    assert spans_of([[{**span, "probability": 1}, {"first": 2, "last": 2, "probability": 0.5}]]) == [
        1,
        0.5,
        None,
    ]
    for nothing in (None, [[]], [[span]], [[{**span, "probability": None}]]):
        assert spans_of(nothing) == [None, None, None]


@pytest.mark.parametrize(
    "spans",
    [
        7,
        [],
        [[], []],
        [7],
        [["x"]],
        [[["ARG0", 0, 1]]],
        [[{"last": 1}]],
        [[{"first": "0", "last": 1}]],
        [[{"first": 0, "last": 1, "probability": "high"}]],
        [[{"first": 0, "last": 1, "probability": 1.5}]],
        [[{"first": 0, "last": 1, "probability": True}]],
    ],
    ids=str,
)
def test_spans_of_another_form_are_refused(spans):
    with pytest.raises(
        DataError, match=r"file, line 7: the field 'spans' holds no spans.*for each of 1 predi"
    ):
        spans_of(spans)


def test_labels_without_their_probabilities_are_refused():
    task = make_task("classify")
    task.reader.input, task.reader.several = "text", False
    with pytest.raises(DataError, match="this is no classification"):
        task.restored(Record({"text": "it rains", "label": "en"}, "file", 1), Record(TEXTS[0], "test", 1))


def test_classifiers_of_different_labels_are_compared_over_all_of_them(regard_command, refused, tmp_path):
    def guess(row, label, other):
        chances = {label: 0.75, other: 0.25}
        return {"task": "classify", "text": row["text"], "label": label, "probabilities": chances}

    data = write(tmp_path / "data.jsonl", TEXTS)
    first = write(tmp_path / "first.jsonl", [guess(row, "en", "de") for row in TEXTS])
    second = write(tmp_path / "second.jsonl", [guess(row, row["label"], "fr") for row in TEXTS])
    result = regard_command("compare", first, second, "--data", data, "--json")
    assert result.code == 0, result.err
    scores = {score["name"]: score for score in json.loads(result.out)["scores"]}
    assert (scores["accuracy"]["first"], scores["accuracy"]["second"]) == (50.0, 100.0)
    # English is found in two of two and one is wrong, French in none.
    assert scores["macro-f1"]["first"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert scores["macro-f1"]["second"] == 100.0
    assert scores["macro-f1"]["signature"].startswith("classes:3#")
    assert scores["calibration-error"]["first"] == pytest.approx(25.0)
    write(data, [TEXTS[0], {**TEXTS[1], "label": "it"}])
    message = refused("compare", first, second, "--data", data)
    assert (
        "line 2: the label 'it' was never seen in training. Expected: one of 3: 'de', 'en', 'fr'" in message
    )


def test_notes_on_one_system_do_not_keep_two_from_being_compared():
    task = make_task("answer")
    records = [Record(dict(row), "test", line) for line, row in enumerate(ANSWERS, 1)]
    results = [
        Results([None] * 3, [averaged("f1", f"style:squad2; best {note}", [1, 0, 1])], [100.0, 0.0, 100.0])
        for note in "ab"
    ]
    report = Report(records, Cutting(task, "length", records), *results, examples=1)
    assert [score.signature for score in report.scores] == ["style:squad2"]
    assert report.found[0].difference == 0


def test_fields_go_by_the_names_given(regard_command, refused, tmp_path):
    rows = [{"said": row["text"], "language": row["label"]} for row in TEXTS]
    data, first, second = (
        write(tmp_path / f"{name}.jsonl", part)
        for name, part in zip(("data", "first", "second"), (rows, *CASES["classify"][1:]), strict=True)
    )
    names = ("--text", "said", "--label", "language")
    result = regard_command("compare", first, second, "--data", data, *names, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["scores"][0]["second"] == 100.0
    assert "--text FIELD" in refused("compare", first, second, "--data", data)
    for name, part in (("data", ANSWERS), ("first", CASES["answer"][1]), ("second", CASES["answer"][2])):
        write(tmp_path / f"{name}.jsonl", part)
    message = refused("compare", first, second, "--data", data, *names)
    assert "the task 'answer' knows no such option. Received: --text, --label" in message
    assert regard_command("compare", first, second, "--data", data, "--no-answer", "0.5").code == 0
