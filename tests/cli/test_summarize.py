"""The commands for a summarizer, on the sample that ships."""

from __future__ import annotations

import gzip
import json

import pytest

import regard
from regard.samples import sample_path

TINY = (
    *("--dim", "16", "--heads", "2", "--hidden", "16", "--encoder-layers", "1", "--decoder-layers", "1"),
    *("--vocabulary", "300", "--tokens", "512", "--evaluations", "1", "--steps", "2", "--dev-examples", "5"),
    *("--threads", "1"),
)
TEXT = "This package has a tool. It reads the files of Zephyr and writes them again."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from regard.cli import main

    folder = tmp_path_factory.mktemp("summaries") / "run"
    assert main(["train", "summarize", "--out", str(folder), "--window", "8", *TINY, "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Thirty records of the test part."""
    path = tmp_path_factory.mktemp("few") / "few.jsonl"
    with gzip.open(sample_path("summarize")["test"], "rt", encoding="utf8") as lines:
        path.write_text("".join(line for _, line in zip(range(30), lines, strict=False)), encoding="utf8")
    return path


def test_scores_stand_beside_those_of_single_sentences(regard_command, run, few):
    result = regard_command("evaluate", run, "--data", few, "--json")
    entry = json.loads(result.out)
    assert {"rouge1", "rouge2", "rougeL", "beam", "seconds"} < entry.keys()
    assert entry["count"] == 30
    assert "length_penalty" not in entry  # it is the run's own
    assert "; first sentence" in entry["signatures"]["rougeL"]
    shown = regard_command("evaluate", run, "--data", few, "--by", "length", "--beam", "2").out
    assert "longest sentence" in shown
    assert "30 examples in" in shown
    assert "beam 2" in shown


def test_summaries_of_texts(regard_command, run, tmp_path):
    expected = regard.load(run)([TEXT, "It is a cat."], beam=2, penalty=0.5)
    options = ("--beam", "2", "--length-penalty", "0.5")
    result = regard_command("predict", run, TEXT, "It is a cat.", *options)
    assert result.out.splitlines() == [one.text for one in expected]
    entry = json.loads(regard_command("predict", run, TEXT, *options, "--json").out)
    assert entry["source"] == TEXT
    assert entry["text"] == expected[0].text
    page = tmp_path / "page.html"
    assert regard_command("predict", run, TEXT, "--repeats", "--attention", page).code == 0
    assert '"copying"' in page.read_text(encoding="utf8")


def test_flags_of_other_tasks_are_refused(refused, run):
    assert "'summarize' knows no such option. Received: --precision" in refused(
        "predict", run, TEXT, "--precision", "int8"
    )
    assert "only translators can be written" in refused("export", run, "--to", "onnx", "--out", run / "x")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"source": "", "target": "a"}', "the field 'source' is empty"),
        ('{"source": "a b", "target": " "}', "the field 'target' is empty"),
        ('{"source": "a b"}', "target"),
        ('{"source": "a b", "targets": []}', "'targets' holds no references"),
        ('{"source": "a b", "target": 3}', "'target' is not text"),
        ("{", "line 2"),
    ],
)
def test_a_bad_record_is_named_with_its_line(refused, tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"source": "A b.", "target": "a"}}\n{line}\n', encoding="utf8")
    error = refused("train", "summarize", "--train", path, "--out", tmp_path / "run")
    assert "line 2" in error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_an_empty_document_and_a_window_of_lstms(refused, run, tmp_path):
    assert "the given texts, line 1" in refused("predict", run, " ")
    options = ("--window", "8", "--encoder", "recurrent", "--out", tmp_path / "run")
    assert "a window is one of attention" in refused("train", "summarize", *options, *TINY, "--quiet")


def test_a_run_with_every_switch_and_a_teacher(regard_command, refused, run, few, tmp_path):
    switches = (
        "--r-drop",
        "1",
        "--coverage",
        "1",
        "--bpe-dropout",
        "0.1",
        "--variants",
        "2",
        "--pretrain",
        "0.5",
    )
    sizes = [one for one in TINY if one not in {"--vocabulary", "300"}]
    folder = tmp_path / "student"
    given = ("--train", few, "--out", folder, "--teacher", run, "--teacher-share", "0.3", *switches, *sizes)
    result = regard_command("train", "summarize", *given)
    assert result.code == 0
    assert f"taught by {run}" in result.err
    assert "the first 50% writes the sentence that says most" in result.err
    assert regard_command("predict", folder, TEXT).code == 0
    entry = regard_command("inspect", folder).out
    assert "teacher_share" in entry
    error = refused(
        "train", "summarize", "--train", few, "--out", tmp_path / "x", "--teacher", tmp_path, *TINY
    )
    assert "holds no run" in error
    error = refused("train", "translate", "--train", few, "--out", tmp_path / "x", "--teacher", run, *TINY)
    assert "name a run of 'translate' with --teacher, or leave it out" in error
    assert not (tmp_path / "x").exists()
