"""`regard evaluate --by`, `--predictions` and `regard compare`: where a model is weak, and which of two is better."""

from __future__ import annotations

import json

import pytest

from regard._errors import ConfigError
from regard.cli._buckets import Cutting
from regard.cli._comparison import most_changed
from regard.cli.evaluate import _table as table_of
from regard.data.frequency import WordCounts
from regard.metrics.buckets import Group
from regard.metrics.measurement import averaged
from regard.metrics.spans import role_scores
from regard.metrics.translation import Score, bleu, chrf
from regard.tasks.translate import Translate

SOURCES = ["one", "one two", "one two three", "one two three four", "a b c d e", "a b c d e f"]
TARGETS = [
    "Das ist der erste Satz von allen.",
    "Zwei Hunde laufen am Strand entlang.",
    "Ein Mann steht heute vor dem Haus.",
    "Die Frau liest gerade ein gutes Buch.",
    "Kinder spielen im Park mit einem Ball.",
    "Der Zug fährt um acht Uhr nach Bonn.",
]
FIRST = [TARGETS[0], "Zwei Hunde laufen.", *TARGETS[2:5], "nichts"]
SECOND = [TARGETS[0], TARGETS[1], "Ein Mann steht.", *TARGETS[3:]]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def predictions(path, texts, **changes):
    entries = zip(SOURCES, texts, strict=True)
    return write(
        path, [{"task": "translate", "source": one, "text": text, **changes} for one, text in entries]
    )


@pytest.fixture
def files(tmp_path):
    rows = [{"source": one, "target": other} for one, other in zip(SOURCES, TARGETS, strict=True)]
    return (
        predictions(tmp_path / "first.jsonl", FIRST),
        predictions(tmp_path / "second.jsonl", SECOND),
        write(tmp_path / "test.jsonl", rows),
    )


def compared(regard_command, first, second, data, *options):
    result = regard_command("compare", first, second, "--data", data, *options, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_two_files_are_compared(regard_command, files):
    entry = compared(regard_command, *files)
    scores = {score["name"]: score for score in entry["scores"]}
    for name, plain in (("bleu", bleu), ("chrf", chrf)):
        score = scores[name]
        assert score["first"] == plain(FIRST, TARGETS).value
        assert score["second"] == plain(SECOND, TARGETS).value
        assert score["difference"] == score["second"] - score["first"]
        assert score["low"] <= score["difference"] <= score["high"]
        assert 0 < score["p"] <= 1
        assert score["signature"] == plain(FIRST, TARGETS).signature
    assert (entry["task"], entry["count"]) == ("translate", 6)


def test_buckets_are_those_of_the_lengths(regard_command, files):
    buckets = compared(regard_command, *files)["by"]["buckets"]
    # Of six lengths 1 to 6, the shares of a quarter end after 1.5, 3 and 4.5.
    assert [(one["from"], one["to"], one["count"]) for one in buckets] == [
        (1, 1, 1),
        (2, 3, 2),
        (4, 4, 1),
        (5, 6, 2),
    ]
    assert all(bucket["few"] for bucket in buckets)
    last = buckets[-1]["scores"]["chrf"]
    assert last["first"] == chrf(FIRST[4:], TARGETS[4:]).value
    assert last["second"] == 100
    assert buckets[0]["scores"]["bleu"]["difference"] == 0


def test_the_examples_that_changed_most_are_shown(regard_command, files):
    changed = compared(regard_command, *files, "--examples", "1")["changed"]
    assert (changed["better"], changed["worse"], changed["same"]) == (2, 1, 3)
    gain, loss = changed["most"]
    assert (gain["line"], loss["line"]) == (6, 3)
    assert gain["change"] == 100 - chrf([FIRST[5]], [TARGETS[5]]).value
    assert gain["second"]["prediction"] == {"source": SOURCES[5], "text": TARGETS[5], "score": None}
    assert gain["record"]["target"] == TARGETS[5]
    assert compared(regard_command, *files, "--examples", "0")["changed"]["most"] == []


def test_the_other_way_round_is_the_opposite(regard_command, files):
    first, second, data = files
    one, other = compared(regard_command, first, second, data), compared(regard_command, second, first, data)
    for ours, theirs in zip(one["scores"], other["scores"], strict=True):
        assert ours["p"] == theirs["p"]
        assert ours["difference"] == -theirs["difference"]
        assert (ours["low"], ours["high"]) == pytest.approx((-theirs["high"], -theirs["low"]))
    for ours, theirs in zip(one["by"]["buckets"], other["by"]["buckets"], strict=True):
        for name in ("bleu", "chrf"):
            assert ours["scores"][name]["difference"] == -theirs["scores"][name]["difference"]
    assert [row["line"] for row in one["changed"]["most"]] == [6, 2, 3]
    assert [row["line"] for row in other["changed"]["most"]] == [3, 6, 2]


def test_one_run_twice_is_the_same(regard_command, trained, data):
    entry = compared(regard_command, trained, trained, data / "dev.jsonl", "--beam", "1")
    for score in entry["scores"]:
        assert (score["difference"], score["low"], score["high"], score["p"]) == (0, 0, 0, 1)
    assert entry["changed"] == {"score": "chrf", "better": 0, "worse": 0, "same": 8, "most": []}


def test_a_run_is_the_same_as_its_predictions(regard_command, trained, data, tmp_path):
    path = tmp_path / "run.jsonl"
    options = ("--data", data / "dev.jsonl", "--beam", "1", "--json")
    scores = json.loads(regard_command("evaluate", trained, *options, "--predictions", path).out)
    for first, second in ((trained, path), (path, trained), (path, path)):
        entry = json.loads(regard_command("compare", first, second, *options).out)
        assert [(one["first"], one["second"]) for one in entry["scores"]] == [
            (scores[name], scores[name]) for name in ("bleu", "chrf")
        ]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(set(line) == {"task", "source", "text", "score"} and line["score"] < 0 for line in lines)


def test_people_read_a_page(regard_command, files):
    first, second, data = files
    shown = regard_command("compare", first, second, "--data", data).out
    assert "bleu" in shown
    assert "95 % interval" in shown
    assert "p by randomization" in shown
    assert "\nfew: " in shown
    assert "2 examples better, 1 worse, 3 the same" in shown
    assert f"{data}, line 6\n  source       a b c d e f\n  target       {TARGETS[5]}\n" in shown


def test_evaluation_by_length(regard_command, trained, data):
    options = ("--data", data / "dev.jsonl", "--beam", "1", "--by", "length")
    entry = json.loads(regard_command("evaluate", trained, *options, "--json").out)
    assert entry["by"]["name"] == "length"
    buckets = entry["by"]["buckets"]
    assert sum(bucket["count"] for bucket in buckets) == entry["count"] == 8
    assert all(set(bucket["scores"]) == {"bleu", "chrf"} for bucket in buckets)
    shown = regard_command("evaluate", trained, *options).out
    assert f"length: {entry['by']['unit']}" in shown
    assert shown.count("   few\n") == len(buckets)


def test_evaluation_by_frequency_reads_what_training_counted(regard_command, refused, run, data):
    options = ("--data", data / "dev.jsonl", "--beam", "1", "--by", "frequency")
    task, counts = Translate(), WordCounts.load(run / "words.json")
    task.load(run)
    records = list(task.read(data / "dev.jsonl", 1000))
    rarest = [task.groups["frequency"].value(record) for record in records]
    assert rarest == [counts.rarest(task_words(record)) for record in records]
    buckets = json.loads(regard_command("evaluate", run, *options, "--json").out)["by"]["buckets"]
    expected = [sum(low <= one < high for one in rarest) for low, high in ((0, 1), (1, 10), (10, 100))]
    assert [bucket["count"] for bucket in buckets] == [count for count in expected if count]
    (run / "words.json").unlink()
    assert "train again" in refused("evaluate", run, *options)


def task_words(record):
    return [word.strip(".,?!\"'").lower() for word in record.fields["source"].replace("'", " ").split()]


def test_a_record_may_add_several_rows_to_a_score():
    class Task:
        name = "roles"
        groups = {"distance": Group("words", lambda record: record)}  # noqa: RUF012 -- a test's own

    cutting = Cutting(Task(), "distance", [[1, 7], [], [2, 8, 9]])
    assert [bucket.rows.tolist() for bucket in cutting.buckets] == [
        [0],
        [2],
        [1, 3],
        [4],
    ]  # shares end after 1.25, 2.5 and 3.75
    assert cutting.fits(averaged("f1", "", [1, 0, 1, 0, 1]))
    assert not cutting.fits(averaged("predicates", "", [1, 0, 1]))
    assert not cutting.fits(Score("accuracy", 50.0, ""))
    table = cutting.as_text({"f1": [0.0] * 4, "precision": [0.5] * 4}, str, 8)
    assert table.splitlines()[1].split() == ["distance", "examples", "f1", "precision"]


def test_a_part_in_which_there_is_nothing_to_score_is_no_failure():
    class Task:
        name = "roles"
        groups = {"length": Group("words", lambda record: record)}  # noqa: RUF012 -- a test's own

    cutting = Cutting(Task(), "length", [1, 5])
    f1 = role_scores([["O", "B-V"], ["B-A0", "B-V"]], [["O", "B-V"], ["B-A0", "B-V"]]).f1
    table = table_of(cutting, [f1], [])
    assert table == {"f1": [None, 100.0]}
    assert [line.split()[:3] for line in cutting.as_text(table, str, 8).splitlines()[2:4]] == [
        ["1", "1", "-"],
        ["5", "1", "100.0"],
    ]
    assert cutting.as_json(table, float)["buckets"][0]["scores"] == {"f1": None}


def test_most_changed_leaves_out_what_did_not():
    assert most_changed([0.0, 5.0, -1.0, 7.0, -2.0], 1) == [3, 4]
    assert most_changed([0.0, 0.0], 3) == []
    assert most_changed([-1.0, 1.0, 1.0], 5) == [1, 2, 0]


def test_what_cannot_be_compared_is_refused(refused, files, tmp_path):
    first, _, data = files
    other = write(tmp_path / "other.jsonl", [{"task": "roles", "source": "x", "text": "y"}])
    assert "two tasks" in refused("compare", first, other, "--data", data)
    mixed = write(
        tmp_path / "mixed.jsonl", [{"task": "translate"}, *[{"task": "roles", "text": "y"} for _ in range(5)]]
    )
    assert "line 2: the prediction is of another task" in refused("compare", first, mixed, "--data", data)
    short = write(tmp_path / "short.jsonl", [{"task": "translate", "source": "one", "text": "y"}])
    assert "of other examples" in refused("compare", first, short, "--data", data)
    moved = predictions(tmp_path / "moved.jsonl", SECOND, source="elsewhere")
    assert "no translation of the record" in refused("compare", first, moved, "--data", data)
    silent = predictions(tmp_path / "silent.jsonl", SECOND, text=None)
    assert "no translation of the record" in refused("compare", first, silent, "--data", data)


def test_options_that_do_not_fit_are_refused(refused, files, trained, data):
    first, second, test = files
    assert "--data FILE" in refused("compare", first, second)
    assert "--data FILE" in refused("compare", trained, trained)
    assert "length or frequency" in refused("compare", first, second, "--data", test, "--by", "lenght")
    assert "Expected: a run" in refused("compare", first, second, "--data", test, "--by", "frequency")
    assert "--examples -1" in refused("compare", first, second, "--data", test, "--examples", "-1")
    assert "length or frequency" in refused(
        "evaluate", trained, "--data", data / "dev.jsonl", "--by", "words"
    )
    assert ".jsonl" in refused("evaluate", trained, "--data", data / "dev.jsonl", "--predictions", "out.txt")


def test_one_run_without_case_is_not_compared_with_one_that_has_it(
    refused, regard_command, run, trained, data
):
    tokenizer = json.loads((run / "tokenizer.json").read_text(encoding="utf-8"))
    normalizer = tokenizer["normalizer"]
    parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [*parts, {"type": "Lowercase"}]}
    (run / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    options = ("--data", data / "dev.jsonl", "--beam", "1")
    assert "same options" in refused("compare", run, trained, *options)
    assert regard_command("compare", run, trained, *options, "--lowercase").code == 0


def test_a_task_that_cannot_be_cut_is_refused():
    class Task:
        name = "other"

    with pytest.raises(ConfigError, match=r"'other' has no 'groups'.*Expected.*Received: --by"):
        Cutting(Task(), "length", [])


def test_compare_refuses_a_task_without_scores_of_examples(monkeypatch, tmp_path, refused):
    path = tmp_path / "one.jsonl"
    path.write_text('{"task": "translate", "source": "a", "text": "b"}\n', encoding="utf-8")
    monkeypatch.delattr(Translate, "example_scores")
    assert "'translate' has no 'example_scores'" in refused("compare", path, path, "--data", path)
