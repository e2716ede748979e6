"""The experiment on distance: questions with the answers that they should have, intervals, finished runs by bucket, a report."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.metrics.translation import bleu

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
GAPS = st.integers(0, 40)
SEEDS = st.integers(0, 1000)


@pytest.fixture(autouse=True, scope="module")
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "distance"]:
        del sys.modules[name]


def part(name):
    return importlib.import_module(f"distance.{name}")


def script():
    spec = importlib.util.spec_from_file_location("distance_script", EXPERIMENTS / "distance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(gap=GAPS, seed=SEEDS)
def test_the_verb_agrees_with_the_only_noun_that_follows_no_preposition(gap, seed):
    synthetic = part("synthetic")
    tokens, asked, labels = synthetic.agreement(np.random.default_rng(seed), gap)
    subjects = [
        place
        for place, (before, token) in enumerate(itertools.pairwise(tokens), 1)
        if token in synthetic.NOUNS and before not in synthetic.PREPOSITIONS
    ]
    assert len(subjects) == 1
    assert labels == [tokens[subjects[0]] % 2]
    assert asked == [subjects[0] + gap + 1] == [len(tokens) - 1]
    assert tokens[-1] == synthetic.VERB


@given(gap=GAPS, seed=SEEDS)
def test_what_is_copied_stands_in_front_of_the_blanks(gap, seed):
    synthetic = part("synthetic")
    tokens, asked, labels = synthetic.copying(np.random.default_rng(seed), gap)
    assert tokens == [*labels, *[synthetic.BLANK] * gap, *[synthetic.AGAIN] * len(labels)]
    assert [tokens[place] for place in asked] == [synthetic.AGAIN] * len(labels)


@given(gap=GAPS, seed=SEEDS)
def test_what_is_recalled_follows_its_key(gap, seed):
    synthetic = part("synthetic")
    tokens, asked, labels = synthetic.recall(np.random.default_rng(seed), gap)
    key = tokens[asked[0]] - 2 * synthetic.KEYS
    assert tokens[tokens.index(key) + 1] == synthetic.KEYS + labels[0]
    assert tokens[2 * synthetic.PAIRS : -1] == [synthetic.FILLER] * gap


@pytest.mark.parametrize("name", ["agreement", "copying", "recall"])
def test_ids_and_labels_fit_their_question_and_tests_are_always_the_same(name):
    synthetic = part("synthetic")
    question = synthetic.QUESTIONS[name]
    examples = [*synthetic.held_out(question, 50, 3), *next(synthetic.endless(question, 50, 0, 5))]
    assert max(max(one.tokens) for one in examples) < question.vocabulary
    assert {label for one in examples for label in one.labels} == set(range(question.labels))
    assert synthetic.held_out(question, 50, 3) == examples[:50]
    assert next(synthetic.endless(question, 50, 1, 5)) != examples[50:]


def test_packing_asks_where_the_examples_ask():
    examples, labeller = part("examples"), part("labeller")
    given_ = [examples.Example([5, 6, 7], [0, 2], [1, 0]), examples.Example([8], [0], [1])]
    batch = examples.pack(given_)
    assert batch.tokens.values[batch.rows].tolist() == [5, 7, 8]
    model = labeller.Labeller(9, 2, {"dim": 8, "heads": 2, "hidden": 8, "layers": 1}, "attention").eval()
    best = model(batch).argmax(-1)
    expected = [[int(best[0] == 1) + int(best[1] == 0), 2], [int(best[2] == 1), 1]]
    assert labeller.answers(model, given_) == expected
    assert labeller.answers(model, given_, together=1) == expected


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_either_kind_learns_and_keeps_to_its_budget(kind):
    examples, labeller = part("examples"), part("labeller")
    torch.manual_seed(0)
    model = labeller.Labeller(8, 2, {"dim": 16, "heads": 2, "hidden": 16, "layers": 1}, kind)
    everything = [examples.Example([key, 6, 7], [2], [key % 2]) for key in range(6)]
    facts = labeller.train(model, itertools.repeat(everything), labeller.Budget(updates=100))
    assert facts["updates"] == 100
    assert labeller.answers(model, everything) == [[1, 1]] * 6
    facts = labeller.train(model, itertools.repeat(everything), labeller.Budget(minutes=1e-4))
    assert facts["updates"] >= 1
    assert facts["seconds"] < 5


def test_listops_is_read_with_a_question_at_the_end_and_cut_by_length(tmp_path):
    listops = part("listops")
    for split in listops.SPLITS:
        records = [
            {"source": "[MAX 2 9 ]", "target": "9"},
            {"source": "[MIN " + "3 " * 104 + "]", "target": "3"},
        ]
        with gzip.open(tmp_path / f"{split}.jsonl.gz", "wt", encoding="utf8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    splits, vocabulary = listops.read(tmp_path)
    assert vocabulary == len({"[MAX", "[MIN", "2", "3", "9", "]"}) + 1
    first, second = splits["train"]
    assert (len(first.tokens), first.tokens[-1], first.asked, first.labels) == (5, vocabulary - 1, [4], [9])
    assert {bucket: len(found) for bucket, found in listops.by_length(splits["test"]).items()} == {
        0: 1,
        100: 1,
    }
    assert {len(one.tokens) for batch in itertools.islice(listops.batches([first, second], 50, 0), 2) for one in batch} == {5, 107}  # fmt: skip


def points_of(kind, rows_of_seeds, **options):
    Point = part("points").Point
    return [
        Point("agreement", kind, seed, 4, rows, **options)
        for seed, rows in enumerate(np.asarray(rows_of_seeds, float).tolist())
    ]


def drawn_rows(shares, examples, seed):
    """Whether examples are right, which each seed gets with a share of its own, (S, N, 2)."""
    right = np.random.default_rng(seed).random((len(shares), examples)) < np.asarray(shares)[:, None]
    return np.stack([right, np.ones_like(right)], axis=-1)


def test_an_interval_has_the_spread_of_seeds_and_that_of_examples():
    points = part("points")
    rows = drawn_rows([0.55, 0.6, 0.65, 0.7], 300, 1)
    found = points.estimate(points_of("attention", rows))
    shares = 100 * rows[..., 0].mean(axis=1)
    assert found.value == pytest.approx(shares.mean())
    # Of four seeds Student's t strays to 3.18 standard errors; examples add what a binomial does.
    alone = points.estimate(points_of("attention", rows[:1]))
    share = shares[0] / 100
    assert alone.high - alone.low == pytest.approx(392 * np.sqrt(share * (1 - share) / 300), rel=0.1)
    seeds = 2 * 3.18 * shares.std(ddof=1) / 2
    assert seeds < found.high - found.low < seeds + (alone.high - alone.low)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_hold_what_they_should_as_often_as_they_say(seeds):
    """Two kinds are equally good, and their seeds differ by 10 points around 75."""
    points, generator = part("points"), np.random.default_rng(seeds)
    means, differences, trials = 0, 0, 200
    for trial in range(trials):
        shares = generator.normal(0.75, 0.1, (2, seeds)).clip(0, 1)
        first, second = (
            points_of("x", drawn_rows(one, 100, [trial, side])) for side, one in enumerate(shares)
        )
        mean, ahead = points.estimate(first, 100), points.difference(first, second, 100)
        means += mean.low <= 75 <= mean.high
        differences += ahead.low <= 0 <= ahead.high
    # 95 % are promised; of 200 trials, 92 % seldom stay below.
    assert min(means, differences) / trials > 0.92


def test_what_cannot_be_is_in_no_interval():
    points = part("points")
    rows = drawn_rows([1.0, 1.0, 0.7], 100, 0)
    assert points.estimate(points_of("attention", rows)).high == 100
    nothing = points_of("recurrent", rows * np.array([0, 1]))
    assert points.difference(points_of("attention", rows), nothing).low == -100


def test_a_difference_is_taken_on_the_same_examples():
    points = part("points")
    right = np.random.default_rng(1).random((1, 100, 1)) < 0.5
    rows = np.concatenate([right, np.ones_like(right)], axis=-1)
    same = points.difference(points_of("attention", rows), points_of("recurrent", rows))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    nothing = rows * np.array([0, 1])
    lost = points.difference(points_of("attention", rows), points_of("recurrent", nothing))
    assert lost.value == pytest.approx(-100 * right.mean())
    assert lost.low < lost.value < lost.high < 0
    with pytest.raises(ValueError, match=r"same examples; received \[50, 100\]"):
        points.estimate(points_of("attention", rows) + points_of("attention", rows[:, :50]))


def test_points_are_kept_and_the_last_of_two_counts(tmp_path):
    points = part("points")
    old, new = (points.Point("recall", "attention", 0, 4, rows) for rows in ([[0, 1]], [[1, 1]]))
    other = points.Point("recall", "recurrent", 0, 4, [[1, 1]], facts={"updates": 3})
    assert points.read(tmp_path / "new") == []
    points.add(tmp_path / "new", [old, other])
    points.add(tmp_path / "new", [new])
    assert points.read(tmp_path / "new") == [new, other]


GOLD = [
    {"words": list("abcdefg"), "predicate": 1, "roles": ["B-ARG0", "B-V", "B-ARG1", "I-ARG1", "O", "O", "B-ARG2"]},
    {"words": list("abcdefg"), "predicate": 4, "roles": ["O", "O", "O", "O", "B-V", "O", "B-ARG1"]},
]  # fmt: skip
FOUND = [
    {
        "words": list("abcdefg"),
        "predicates": [1, 4],
        "roles": [
            ["B-ARG0", "B-V", "B-ARG1", "O", "O", "O", "B-ARG2"],
            ["B-ARG0", "O", "O", "O", "B-V", "O", "B-ARG1"],
        ],
    }
]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return path


def test_roles_are_scored_by_the_distance_of_their_nearest_word(tmp_path):
    predictions = part("predictions")
    gold, found = write(tmp_path / "gold.jsonl", GOLD), write(tmp_path / "found.jsonl", FOUND)
    measured = predictions.role_points(gold, found, "attention", 0)
    rows = {point.bucket: point.rows for point in measured}
    # 1 word: ARG0 is right, ARG1 of the first predicate has the wrong end. 2: ARG1 of the second. 3 and more: a false ARG0.
    assert rows == {
        1: [[2, 4], [0, 0]], 2: [[0, 0], [2, 2]], 3: [[0, 0], [0, 1]], 5: [[2, 2], [0, 0]], 9: [[0, 0]] * 2, 17: [[0, 0]] * 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match="lacks 1 of the 2 predicates"):
        predictions.role_points(gold, write(found, GOLD[:1]), "attention", 0)
    # Of two predicates, those that have an argument so far away; a false one is none to be found.
    table = part("report").table(measured).splitlines()
    assert [line.split(" | ")[1] for line in table if line.startswith("| ")] == [
        "arguments",
        "--:",
        "2",
        "1",
        "0",
        "1",
    ]


def test_a_sentence_that_comes_again_counts_again(tmp_path):
    predictions = part("predictions")
    other = [{**GOLD[0], "roles": ["O", "B-V", "B-ARG1", "O", "O", "O", "O"]}]
    gold = write(tmp_path / "gold.jsonl", [*GOLD, *other, *GOLD])
    found = write(tmp_path / "found.jsonl", [*FOUND, *GOLD[:1], *FOUND])
    rows = {point.bucket: point.rows for point in predictions.role_points(gold, found, "attention", 0)}
    # Of the first predicate: half right, then by ARG0 and an end too much, then half right again.
    assert rows[1] == [[2, 4], [0, 3], [2, 4], [0, 0], [0, 0]]
    with pytest.raises(ValueError, match="lacks 2 of the 5 predicates"):
        predictions.role_points(gold, write(found, [*FOUND, *GOLD[:1]]), "attention", 0)


def test_translations_are_scored_by_the_length_of_their_source(tmp_path):
    predictions, points = part("predictions"), part("points")
    texts = [(f"{'a ' * count}b", f"{'x ' * count}y") for count in (2, 4, 5, 30)]
    gold = write(tmp_path / "gold.jsonl", [{"source": a, "target": b} for a, b in texts])
    said = ["x x y", "x x x z", "x x x x x y", "X " * 30 + "z"]
    found = write(
        tmp_path / "found.jsonl",
        [{"source": a, "text": text} for (a, _), text in zip(texts, said, strict=True)],
    )
    for lowercase in (False, True):
        measured = predictions.translation_points(gold, found, "recurrent", 0, lowercase=lowercase)
        assert [(point.bucket, len(point.rows)) for point in measured] == [(1, 2), (6, 1), (31, 1)]
        for point, part_ in zip(measured, (slice(2), slice(2, 3), slice(3, 4)), strict=True):
            expected = bleu(said[part_], [b for _, b in texts[part_]], lowercase=lowercase).value
            assert points.estimate([point], samples=10).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="does not translate the sources"):
        predictions.translation_points(gold, write(found, [{"source": "?", "text": ""}] * 4), "recurrent", 0)


@pytest.mark.parametrize(
    ("number", "bucket"), [(0, 1), (1, 1), (2, 2), (4, 3), (5, 5), (8, 5), (16, 9), (17, 17), (99, 17)]
)
def test_buckets_begin_at_their_edge(number, bucket):
    predictions = part("predictions")
    assert predictions.bucket_of(number, predictions.DISTANCES) == bucket


def test_the_report_shows_both_kinds_and_what_is_missing():
    report = part("report")
    facts = {"updates": 7, "seconds": 2.0, "parameters": 1234}
    both = [
        *points_of("attention", [[[1, 1], [1, 1]]], facts=facts),
        *points_of("recurrent", [[[0, 1], [0, 1]]]),
    ]
    text = report.table(both)
    assert "| 4 | 2 | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] | +100.0 [+100.0, +100.0] |" in text.splitlines()
    assert "attention: 1 seeds, 1,234 parameters, 7 updates in 2 s; recurrent: 1 seeds" in text
    assert "| 4 | 2 | 100.0 [100.0, 100.0] |  |  |" in report.table(both[:1])
    for points in (both, both[:1]):
        drawing = ET.fromstring(report.figure(points))
        circles = drawing.findall(".//{http://www.w3.org/2000/svg}circle")
        assert len(circles) == len(points)
        assert float(circles[0].get("cy")) == report.TOP


def test_a_command_measures_reports_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    module = script()
    monkeypatch.setattr(module, "SIZES", {"dim": 8, "heads": 2, "hidden": 8, "layers": 1})
    monkeypatch.setattr(module, "GAPS", (0, 3))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["distance.py", *words, "--out", str(tmp_path)])
        assert module.main() == 0
        return capsys.readouterr()

    few = ("synthetic", "--quick", "--only", "agreement", "--seeds", "0", "--updates")
    first = run(*few, "2")
    assert "### agreement, gaps to 16 (accuracy, 0 to 100)" in first.out
    assert first.err.count("'updates': 2") == 2
    assert (tmp_path / "agreement-gaps-to-16.svg").read_text(encoding="utf8").startswith("<svg")
    assert len((tmp_path / "points.jsonl").read_text(encoding="utf8").splitlines()) == 2 * len(module.GAPS)
    again = run(*few, "2")
    assert (again.out, again.err) == (first.out, "")
    assert run("report").out == first.out
    with pytest.raises(SystemExit, match="with another budget; name another --out"):
        run(*few, "3")
    gold, found = write(tmp_path / "gold.jsonl", GOLD), write(tmp_path / "found.jsonl", FOUND)
    shown = run("roles", "--gold", str(gold), "--attention", str(found), "--recurrent", str(found))
    assert "### roles (f1, 0 to 100)" in shown.out
