"""`regard train generate`, `evaluate` and `predict` with its flags, on the sample that ships."""

from __future__ import annotations

import json
import re

import pytest

import regard
from regard.samples import sample_path

SMALL = (
    *(
        "--dim",
        "16",
        "--heads",
        "2",
        "--hidden",
        "16",
        "--decoder-layers",
        "1",
        "--context",
        "32",
        "--tokens",
        "512",
    ),
    *("--dev-examples", "2", "--evaluations", "2", "--steps", "4"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on the sample, of four updates."""
    from regard.cli import main

    folder = tmp_path_factory.mktemp("generate") / "run"
    assert main(["train", "generate", "--out", str(folder), "--quiet", *SMALL]) == 0
    return folder


def test_a_run_keeps_what_it_is(folder):
    kept = json.loads((folder / "units.json").read_text(encoding="utf-8"))
    assert (kept["kind"], kept["context"], kept["marks"]) == ("characters", 32, False)
    assert regard.load(folder).recipe.label_smoothing == 0


def test_training_says_the_score_with_three_digits(regard_command, tmp_path):
    result = regard_command("train", "generate", "--out", tmp_path / "run", *SMALL)
    assert result.code == 0
    assert "nats-per-character" in result.err
    best = min(json.loads(line)["nats-per-character"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
               if '"dev"' in line)  # fmt: skip
    assert f"best dev score {best:.3f} at step" in result.err


def test_evaluation_is_of_the_test_part_of_the_sample(regard_command, folder):
    scores = json.loads(regard_command("evaluate", folder, "--json").out)
    assert scores["count"] == 11
    assert 2.5 < scores["nats-per-character"] < 5
    by = json.loads(regard_command("evaluate", folder, "--json", "--by", "position", "--stride", "16").out)
    assert [bucket["from"] for bucket in by["by"]["buckets"]] == [1, 2, 4, 8, 16, 32]
    assert by["stride"] == 16
    assert list(by["by"]["buckets"][0]["scores"]) == ["nats-per-token"]
    shown = regard_command("evaluate", folder, "--by", "length").out
    assert f"{scores['nats-per-character']:.3f}" in shown


def test_predictions_are_compared(regard_command, folder, tmp_path):
    path = tmp_path / "p.jsonl"
    assert regard_command("evaluate", folder, "--predictions", path).code == 0
    report = json.loads(regard_command("compare", path, folder, "--json").out)
    assert [score["name"] for score in report["scores"]] == [
        "nats-per-character",
        "bits-per-character",
        "perplexity",
    ]
    assert report["scores"][0]["difference"] == pytest.approx(0, abs=1e-5)
    shown = regard_command("compare", path, path, "--data", sample_path("generate")["test"]).out
    assert re.match(r"nats-per-character \d\.\d{3} -> \d\.\d{3}   \+0\.000 \[", shown)


def test_a_prompt_is_continued_streamed_and_counted(regard_command, folder):
    options = ("--length", "20", "--seed", "3", "--temperature", "0.7", "--top-k", "5", "--top-p", "0.9")
    expected = regard.load(folder)("ROMEO:", length=20, seed=3, temperature=0.7, top_k=5, top_p=0.9, count=2)
    assert len(expected.text) == 20
    whole = "ROMEO:" + expected.text + "\n"
    assert regard_command("predict", folder, "--prompt", "ROMEO:", *options).out == whole
    assert regard_command("predict", folder, "ROMEO:", *options).out == whole
    assert regard_command("predict", folder, *options, stdin=b"ROMEO:\n").out == whole
    blank = regard_command("predict", folder, *options, "--json", stdin=b"\n \n")
    nothing, space = map(json.loads, blank.out.splitlines())
    assert (nothing, space["prompt"]) == ({"blank": True}, " ")  # one can be gone on from
    assert regard_command("predict", folder, "--prompt", "ROMEO:", "--stream", *options).out == whole
    entry = json.loads(regard_command("predict", folder, "ROMEO:", "--count", "2", "--json", *options).out)
    assert tuple(entry["texts"]) == expected.texts


def test_candidates_are_ranked(regard_command, folder, tmp_path):
    candidates = [" be", " sleep", " dream"]
    shown = regard_command("predict", folder, "--prompt", "To", *candidates)
    ranked = regard.load(folder)({"prompt": "To", "candidates": candidates})
    assert [line.split()[-1] for line in shown.out.splitlines()] == [
        candidates[n].strip() for n in ranked.order
    ]
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "To", "candidates": candidates}) + "\n")
    (line,) = regard_command("predict", folder, "--input", tmp_path / "p.jsonl", "--json").out.splitlines()
    assert json.loads(line)["log_probabilities"] == pytest.approx(ranked.log_probabilities, abs=1e-4)


def test_the_attention_is_drawn(regard_command, folder, tmp_path):
    path = tmp_path / "seen.html"
    assert regard_command("predict", folder, "ROMEO:", "--length", "5", "--attention", path).code == 0
    assert path.stat().st_size > 1000


def test_what_cannot_be_is_refused(refused, regard_command, folder, tmp_path):
    assert "line 1: the prompt is empty" in refused("predict", folder, "--prompt", "")
    long = tmp_path / "long.txt"
    long.write_text("a\n" + "a" * 33 + "\n")
    message = refused("predict", folder, "--input", long, "--length", "1")
    assert f"{long}, line 2: the prompt is longer" in message
    assert "--context" in message
    assert "U+00E9" in refused("predict", folder, "--prompt", "é")
    assert "one prompt" in refused("predict", folder, "a", "b", "--stream")
    assert "--json" in refused("predict", folder, "a", "--json", "--stream")
    assert "other input" in refused("predict", folder, "--prompt", "a", "--input", long)
    assert "top_p" in refused("predict", folder, "a", "--top-p", "1.5")
    assert "--beam" in refused("predict", folder, "a", "--beam", "2")
    recurrent = regard_command("train", "generate", "--decoder", "recurrent", "--out", tmp_path / "r")
    assert recurrent.code == 2
    assert "Received: decoder = recurrent. To mend it: leave --decoder out" in recurrent.err
    assert "units" in refused("train", "generate", "--units", "words", "--out", tmp_path / "r")


def test_other_tasks_continue_nothing(refused, trained):
    assert "--length" in refused("predict", trained, "A dog.", "--length", "3")
    assert "continues nothing" in refused("predict", trained, "--prompt", "A dog.")
    assert "piece by piece" in refused("predict", trained, "A dog.", "--stream")


def test_parts_by_position_count_tokens_and_are_of_one_system(regard_command, refused, folder, tmp_path):
    data = tmp_path / "t.txt"
    data.write_text("To be, or not to be.\n" * 20)
    shown = regard_command("evaluate", folder, "--data", data, "--by", "position").out
    entry = json.loads(regard_command("evaluate", folder, "--data", data, "--by", "position", "--json").out)
    buckets = entry["by"]["buckets"]
    # 419 tokens are foreseen, in thirteen windows of 32 and one of 3: what sees one token comes once a window.
    assert [bucket["count"] for bucket in buckets] == [14, 28, 52, 104, 208, 13]
    assert [bucket["few"] for bucket in buckets] == [True, True, False, False, False, True]
    assert any(line.split() == ["position", "tokens", "nats-per-token"] for line in shown.splitlines())
    message = refused("compare", folder, folder, "--data", data, "--by", "position")
    assert "not compared by 'position'" in message
    assert "regard evaluate RUN --by position" in message
