"""What `regard compare` and `regard evaluate` say of a score: whether an interval holds, of how many rows, and what is not counted alike."""

from __future__ import annotations

import json
import math

import pytest

SENTENCE = {"words": ["he", "says", "she", "is", "here"], "predicates": [1, 3]}
ROLES = {
    **SENTENCE,
    "roles": [["B-A0", "B-V", "B-A1", "I-A1", "I-A1"], ["O", "O", "B-A1", "B-V", "B-LOC"]],
}
RAIN = {"words": ["It", "rains"], "predicates": [1], "roles": [["O", "B-V"]]}
TEXTS = ["it rains", "a dog runs", "it is late"]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def compared(regard_command, tmp_path):
    """Compare two lists of predictions of a task on some records; what is shown, or with `--json` the entry."""

    def run(task, records, first, second, *options):
        data, one, other = (
            write(tmp_path / f"{name}.jsonl", [{"task": task, **row} for row in rows])
            for name, rows in (("data", records), ("first", first), ("second", second))
        )
        result = regard_command("compare", one, other, "--data", data, "--examples", "0", *options)
        assert result.code == 0, result.err
        return json.loads(result.out) if "--json" in options else result.out

    return run


def labelled(text, sure):
    chances = {"a": sure, "b": 1 - sure}
    return {"text": text, "labels": ["a"], "probabilities": chances}


def test_a_calibration_error_has_neither_interval_nor_p_nor_parts(compared):
    records = [{"text": text, "labels": ["a"]} for text in TEXTS]
    systems = [[labelled(text, sure) for text in TEXTS] for sure in (0.6, 0.9)]
    entry = compared("classify", records, *systems, "--json")
    scores = {score["name"]: score for score in entry["scores"]}
    error = scores["calibration-error"]
    assert (error["first"], error["second"]) == (pytest.approx(40), pytest.approx(10))
    assert error["difference"] == pytest.approx(-30)
    assert [error[name] for name in ("low", "high", "p", "wins")] == [None] * 4
    assert (error["signature"], error["less_is_better"]) == ("bins:15|decisions:label", True)
    assert (scores["accuracy"]["examples"], scores["accuracy"]["less_is_better"]) == (3, False)
    assert all(set(bucket["scores"]) == {"accuracy", "macro-f1"} for bucket in entry["by"]["buckets"])
    (line,) = [
        line for line in compared("classify", records, *systems).splitlines() if line.startswith("calib")
    ]
    words = "calibration-error 40.0 -> 10.0 -30.0 no interval bins:15|decisions:label less is better"
    assert " ".join(line.split()) == words


def test_predicates_are_counted_beside_sentences(compared):
    shown = compared("roles", [ROLES, RAIN], [ROLES, RAIN], [ROLES, RAIN])
    assert "\n2 examples, 3 predicates; second - first with its 95 % interval" in shown
    assert any(line.split()[:2] == ["length", "predicates"] for line in shown.splitlines())
    assert "\nfew: fewer than 50 predicates," in shown
    entry = compared("roles", [ROLES, RAIN], [ROLES, RAIN], [ROLES, RAIN], "--json")
    assert (entry["count"], entry["scores"][0]["examples"], entry["scores"][0]["rows"]) == (
        2,
        3,
        "predicates",
    )
    assert entry["by"]["rows"] == "predicates"


def test_predicates_that_nobody_looked_for_are_not_compared(compared):
    told = [{**ROLES, "found": [1]}, {**RAIN, "found": [1]}]
    entry = compared("roles", [ROLES, RAIN], told, [ROLES, RAIN], "--json")
    assert [score["name"] for score in entry["scores"]] == ["f1", "precision", "recall"]
    assert entry["not_compared"] == {"predicates": ["f1 of the predicates that the model finds", None]}
    assert compared("roles", [ROLES, RAIN], told, told, "--json")["scores"][3]["first"] == pytest.approx(80)
    assert compared("roles", [ROLES, RAIN], [ROLES, RAIN], [ROLES, RAIN], "--json")["not_compared"] == {}
    shown = compared("roles", [ROLES, RAIN], told, [ROLES, RAIN])
    assert "\npredicates is not compared, the second has none\n" in shown


def test_predicates_without_arguments_are_in_no_part_by_distance(compared):
    entry = compared("roles", [ROLES, RAIN], [ROLES, RAIN], [ROLES, RAIN], "--by", "distance", "--json")
    (bucket,) = entry["by"]["buckets"]
    assert (bucket["from"], bucket["to"], bucket["count"]) == (1, 1, 2)
    assert bucket["scores"]["f1"]["second"] == 100


def test_one_example_has_no_interval_and_few_say_so(compared):
    alone = compared("translate", *[[{"source": "a", "target": "b", "text": "b"}]] * 3, "--json")
    assert [alone["scores"][0][name] for name in ("low", "high", "p")] == [None, None, 1]
    row = {"source": "a", "target": "b", "text": "b"}
    assert "+0.0 no interval" in compared("translate", [row], [row], [row])
    few = "\nfew: scores and intervals of fewer than 50 say little\n"
    assert few in compared("translate", *[[row] * 49] * 3)
    assert few not in compared("translate", *[[row] * 50] * 3)


def foreseen(nats, units):
    return [
        {"text": text, "nats": nats, "tokens": len(text), "characters": len(text), **units} for text in TEXTS
    ]


def test_perplexities_of_other_tokens_are_not_compared(compared):
    records = [{"text": text} for text in TEXTS]
    letters, pieces = {"units": "characters:9#1"}, {"units": "subwords:99#2"}
    entry = compared("generate", records, foreseen(8.0, letters), foreseen(9.0, pieces), "--json")
    assert [score["name"] for score in entry["scores"]] == ["nats-per-character", "bits-per-character"]
    assert entry["not_compared"] == {"perplexity": ["unit:token|characters:9#1", "unit:token|subwords:99#2"]}
    shown = compared("generate", records, foreseen(8.0, letters), foreseen(9.0, pieces))
    assert (
        "\nperplexity is not compared, counted in two ways: unit:token|characters:9#1 and unit:token|subw"
        in shown
    )
    same = compared("generate", records, foreseen(8.0, letters), foreseen(9.0, letters), "--json")
    assert same["scores"][2]["first"] == pytest.approx(math.exp(24 / sum(map(len, TEXTS))))
    assert same["scores"][2]["signature"] == "unit:token|characters:9#1"
    unknown = compared("generate", records, foreseen(8.0, {}), foreseen(9.0, {}), "--json")
    assert len(unknown["scores"]) == 2


def test_what_better_means_is_said(compared):
    records = [{"text": text} for text in TEXTS]
    texts = foreseen(8.0, {}), foreseen(9.0, {})
    shown = compared("generate", records, *texts)
    assert shown.count("unit:code-point   less is better\n") == 2
    assert "by the mean probability of a character of each, 0 examples better, 3 worse" in shown
    entry = compared("generate", records, *texts, "--json")
    assert entry["changed"]["score"] == "mean probability of a character"
    assert all(score["less_is_better"] for score in entry["scores"])
    row = {"source": "a", "target": "b", "text": "b"}
    assert "\nby the chrf of each, " in compared("translate", [row], [row], [row])


def test_likelihoods_of_another_text_are_refused(compared, refused, tmp_path):
    compared("generate", [{"text": text} for text in TEXTS], foreseen(8.0, {}), foreseen(9.0, {}))
    files = [tmp_path / f"{name}.jsonl" for name in ("first", "second")]
    other = write(tmp_path / "other.jsonl", [{"text": text[::-1]} for text in TEXTS])
    message = refused("compare", *files, "--data", other)
    assert "first.jsonl, line 1: this is no likelihood of the record" in message
    assert "sniar ti" in message
