"""The peers of the reading tasks and of summaries: their rows and labels are right, the commands run, and they learn."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pretrained_folders

pytest.importorskip("transformers", reason="transformers is not installed")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = [
    "--vocabulary",
    "256",
    "--dim",
    "16",
    "--heads",
    "2",
    "--hidden",
    "32",
    "--encoder-layers",
    "1",
    "--decoder-layers",
    "1",
    "--threads",
    "1",
]
NUMBERS = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40)


@pytest.fixture(autouse=True, scope="module")
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("peers", "reading_peers")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("reading_peers_command", BENCHMARKS / "reading_peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(name):
    return importlib.import_module(f"reading_peers.{name}")


SENTENCES = [
    {"words": ["A", "dog", "chased", "cats"], "predicate": 2, "roles": ["B-ARG0", "I-ARG0", "B-V", "B-ARG1"]},
    {"words": ["Cats", "sleep"], "predicate": 1, "roles": ["B-ARG0", "B-V"]},
    {"words": ["She", "saw", "a", "dog"], "predicate": 1, "roles": ["B-ARG0", "B-V", "B-ARG1", "I-ARG1"]},
]
PASSAGE = "A dog ran home. " * 5 + "The cat stayed in the garden all day long."
QUESTIONS = [
    {"question": "Who ran?", "context": PASSAGE, "answers": [{"text": "A dog", "start": 0}]},
    {"question": "Where did it stay?", "context": PASSAGE, "answers": [{"text": "the garden", "start": PASSAGE.index("the garden")}]},
]  # fmt: skip
DOCUMENTS = [
    {"source": "This package holds a small game. It is played with cards.", "target": "small card game"},
    {"source": "This package holds a large library. It reads pictures.", "target": "large picture library"},
]
DATA = {"roles": SENTENCES, "answer": QUESTIONS, "summarize": DOCUMENTS}


@pytest.fixture
def folder(tmp_path):
    """One folder for each task, with the same records everywhere."""
    for task, rows in DATA.items():
        (tmp_path / task).mkdir()
        for name in ("train", "dev", "test"):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / task / f"{name}.jsonl").write_text(lines, encoding="utf8")
    return tmp_path


def files(folder, task):
    return {name: str(folder / task / f"{name}.jsonl") for name in ("train", "dev", "test")}


def found(folder, task, architecture, init=None):
    given = {"vocabulary": 256, "dim": 16, "heads": 2, "hidden": 32, "encoder_layers": 1, "decoder_layers": 1}
    return part("source").read(task, files(folder, task), architecture, init, given)


def run(command, monkeypatch, capsys, folder, task, *options):
    named = [word for name, path in files(folder, task).items() for word in (f"--{name}", path)]
    monkeypatch.setattr(sys, "argv", ["reading_peers.py", task, *named, *SMALL, *options])
    monkeypatch.setattr(command.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(command, "keep_freed_memory", lambda: True)
    command.main()
    return capsys.readouterr().out.splitlines()


@given(NUMBERS, st.data())
def test_the_best_span_is_that_of_all_that_are_no_longer_than_allowed(starts, data):
    size = len(starts)
    ends = data.draw(st.lists(st.floats(-5, 5, width=32), min_size=size, max_size=size))
    answer = part("answer")
    best = max(
        starts[first] + ends[last]
        for first in range(size)
        for last in range(first, min(size, first + answer.LONGEST))
    )
    score, first, last = answer.best_span(np.array(starts), np.array(ends))
    assert score == starts[first] + ends[last] == best
    assert first <= last < first + answer.LONGEST


@given(st.lists(st.integers(1, 30), min_size=1, max_size=50), st.integers(1, 90))
def test_parts_have_every_row_once_within_their_room(lengths, tokens):
    made = list(part("rows").parts(lengths, tokens))
    assert sorted(number for one in made for number in one) == list(range(len(lengths)))
    assert all(len(one) == 1 or len(one) * max(lengths[number] for number in one) <= tokens for one in made)


def test_rows_are_padded_behind():
    rows = [part("rows").ids([5, 6]), part("rows").ids([7])]
    assert part("rows").stacked(rows, 9).tolist() == [[5, 6], [7, 9]]
    assert part("rows").mask(rows).tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(("progress", "share"), [(0.05, 0.5), (0.1, 1), (0.55, 0.5), (1, 0)])
def test_a_pretrained_encoder_has_a_linear_schedule(progress, share):
    assert importlib.import_module("peers.budget").linear(progress, 0.1) == pytest.approx(share)


def test_a_paused_clock_stands_still(monkeypatch):
    budget = importlib.import_module("peers.budget")
    now = 100.0
    monkeypatch.setattr(budget.time, "perf_counter", lambda: now)
    clock = budget.Budget(1, None, _begin=100.0)
    with clock.paused():
        now = 150.0
    assert clock.seconds == 0
    now = 180.0
    assert clock.progress == 0.5


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_the_predicate_is_marked_and_tags_stand_on_first_pieces(folder, architecture):
    source, sizes = found(folder, "roles", architecture)
    peer = part("roles").Roles(source, sizes, architecture)
    vocabulary, record = source.vocabulary, source.records["train"][0]
    row = peer.rows[0]
    tokenizer = vocabulary.tokenizer
    spelled = [tokenizer.encode(f" {word}") for word in record.fields["words"]]
    assert [row.ids[first] for first in row.firsts] == [pieces[0] for pieces in spelled]
    marked = row.types == 1 if vocabulary.typed else np.isin(row.ids, vocabulary.marks)
    begin, end = np.flatnonzero(marked)[[0, -1]]
    inside = row.ids[begin : end + 1] if vocabulary.typed else row.ids[begin + 1 : end]
    assert inside.tolist() == spelled[2]
    assert [source.task.roles[(tag - 1) // 2] for tag in peer.labels[0]] == ["ARG0", "ARG0", "V", "ARG1"]
    assert peer.labels[0].tolist()[1] == peer.labels[0].tolist()[0] + 1


def test_windows_hold_the_passage_and_the_gold_is_the_answer(folder, monkeypatch):
    answer = part("answer")
    monkeypatch.setattr(answer, "WINDOW", 48)
    monkeypatch.setattr(answer, "SHARED", 12)
    source, sizes = found(folder, "answer", "bert")
    peer = answer.Answers(source, sizes, "bert")
    tokenizer = source.vocabulary.tokenizer
    pieces = tokenizer.encode(PASSAGE)
    rows = peer._rows(source.records["train"][1])
    assert len(rows) > 1
    assert max(len(row.ids) for row in rows) == 48
    for row in rows:
        assert row.ids[row.begin : row.begin + row.size].tolist() == pieces[row.start : row.start + row.size]
    held = {number for row in rows for number in range(row.start, row.start + row.size)}
    assert held == set(range(len(pieces)))
    golds = [peer._gold(source.records["train"][1], row) for row in rows]
    assert (0, 0) in golds
    texts = [
        tokenizer.decode(row.ids[first : last + 1].tolist())
        for row, (first, last) in zip(rows, golds, strict=True)
        if last
    ]
    assert texts
    assert set(texts) == {"the garden"}


@pytest.mark.parametrize(
    ("task", "architecture"),
    [("roles", "bert"), ("roles", "modernbert"), ("answer", "bert"), ("answer", "modernbert"), ("summarize", "mbart"),
     ("summarize", "bart"), ("summarize", "t5")],
)  # fmt: skip
def test_a_command_prints_a_row_and_writes_what_compare_reads(
    command, folder, monkeypatch, capsys, task, architecture
):
    from regard.cli._predictions import read_predictions

    out = folder / "predictions.jsonl"
    options = ["--steps", "2", "--checks", "1", "--architecture", architecture, "--predictions", str(out)]
    monkeypatch.setattr(part("summarize"), "PENALTIES", (1.0,))
    monkeypatch.setattr(part("summarize"), "longest_target", lambda length: 5)
    head, rule, row = run(command, monkeypatch, capsys, folder, task, *options)
    assert head.count("|") == rule.count("|") == row.count("|") == 9
    assert row.startswith(f"| {task}, {architecture} | ")
    source, _ = found(folder, task, architecture)
    records = source.records["test"]
    restored = read_predictions(out, source.task, records)
    scores = source.task.score(restored, records)
    assert f"{scores[0].name} {scores[0].value:.2f}" in row
    if task == "roles":  # the peer looks for no predicates, and is not said to have found them
        assert "predicates" not in {score.name for score in scores}


@pytest.mark.parametrize(
    ("task", "architecture"), [("roles", "bert"), ("answer", "modernbert"), ("summarize", "t5")]
)
def test_what_is_seen_often_is_learned(folder, task, architecture):
    source, sizes = found(folder, task, architecture)
    kind = {"roles": "Roles", "answer": "Answers", "summarize": "Summaries"}[task]
    peer = getattr(part(task), kind)(source, sizes.with_dropout(0.0), architecture)
    torch.manual_seed(0)
    training = part("training")
    settings = training.Settings(1e-2, None, updates=60, checks=1, tokens=400, decay=0.0)
    trained = training.train(peer, peer.model(), settings)
    assert trained.dev > 90
    assert (trained.updates, trained.epochs) == (60, 60)


def test_a_pretrained_encoder_reads_with_its_own_vocabulary(command, folder, monkeypatch, capsys):
    init = pretrained_folders.write_folder(folder / "tiny", pretrained_folders.CONFIGS["bert"])
    # Twenty positions: what is longer is cut.
    for task in ("roles", "answer"):
        row = run(
            command, monkeypatch, capsys, folder, task, "--steps", "1", "--checks", "1", "--init", str(init)
        )[-1]
        assert row.startswith(f"| {task}, tiny | ")


def test_an_encoder_without_types_gets_marks(folder):
    init = pretrained_folders.write_folder(
        folder / "tiny", pretrained_folders.CONFIGS["bert"] | {"type_vocab_size": 1}
    )
    source, sizes = found(folder, "roles", "bert", init)
    model = part("roles").Roles(source, sizes, "bert").model()
    assert model.get_input_embeddings().num_embeddings == len(pretrained_folders.WORDS) + 2


def test_tuning_prints_a_row_for_each_combination(command, folder, monkeypatch, capsys):
    options = ["--tune", "--steps", "1", "--checks", "1", "--rates", "1e-3", "2e-3", "--tokens", "30", "60"]
    rows = run(command, monkeypatch, capsys, folder, "roles", *options)[2:]
    firsts = [[cell.strip() for cell in row.split("|")[1:3]] for row in rows]
    assert firsts == [["0.001", "30"], ["0.001", "60"], ["0.002", "30"], ["0.002", "60"]]


def test_wrong_words_are_told(command):
    for wrong in (
        ["roles"],
        ["summarize", "--data", "x", "--init", "y"],
        ["roles", "--data", "x", "--rates", "1", "2"],
    ):
        with pytest.raises(SystemExit):
            command.parse(wrong)


def test_the_weights_of_the_best_check_are_kept():
    training = part("training")
    scores = iter([1.0, 3.0, 3.0, 2.0])
    seen = []

    def dev_score(model):
        assert not model.training
        seen.append(model.weight.item())
        return next(scores)

    model = torch.nn.Linear(1, 1)
    task = SimpleNamespace(
        lengths=[(1, 0)] * 4, loss=lambda model, numbers: model(torch.ones(1, 1)).sum(), dev_score=dev_score
    )
    trained = training.train(
        task, model, training.Settings(0.1, None, updates=4, tokens=1, checks=4, warmup=0.0)
    )
    assert len(set(seen)) == 4
    assert model.weight.item() == seen[2]
    assert (trained.dev, trained.curve, trained.useful, trained.padded) == (3.0, (1.0, 3.0, 3.0, 2.0), 4, 4)
