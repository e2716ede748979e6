"""The commands for a classifier, on the sample that ships and on pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import regard
from regard.samples import sample_path

SMALL = (
    *("--dim", "16", "--heads", "2", "--hidden", "16", "--encoder-layers", "1"),
    *("--tokens", "512", "--evaluations", "1", "--steps", "2", "--threads", "1"),
)
TINY = (*SMALL, "--vocabulary", "300")


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    from regard.cli import main

    folder = tmp_path_factory.mktemp("languages") / "run"
    assert main(["train", "classify", "--out", str(folder), *TINY, "--quiet"]) == 0
    return folder


def test_a_run_on_the_sample(regard_command, languages):
    result = regard_command("evaluate", languages, "--json")
    entry = json.loads(result.out)
    assert {"accuracy", "macro-f1", "calibration-error", "seconds", "signatures"} < entry.keys()
    assert entry["count"] == 600
    shown = regard_command("evaluate", languages).out
    assert f"accuracy          {entry['accuracy']:5.1f}" in shown
    assert "beam" not in shown
    each = json.loads(regard_command("evaluate", languages, "--each", "--json").out)
    assert {"f1 English", "f1 French", "f1 German"} < each.keys()
    assert "support:200" in each["signatures"]["f1 German"]
    facts = json.loads(regard_command("inspect", languages, "--json").out)
    assert facts["labels"] == ["English", "French", "German"]
    assert facts["vocabulary"] == 300


def test_predictions_of_texts(regard_command, languages, tmp_path):
    texts = ["A dog runs.", "Un chien court."]
    expected = regard.load(languages)(texts)
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf8")
    lines = regard_command("predict", languages, stdin="\n\n".join(texts).encode()).out.splitlines()
    assert [line[:1] for line in lines] == [expected[0].label[:1], "", expected[1].label[:1]]
    for arguments in ((*texts,), ("--input", tmp_path / "texts.txt")):
        lines = regard_command("predict", languages, *arguments).out.splitlines()
        assert lines == [f"{one.label}\t{one.probability:.3f}" for one in expected]
    entries = [
        json.loads(line) for line in regard_command("predict", languages, *texts, "--json").out.splitlines()
    ]
    assert [entry["text"] for entry in entries] == texts
    assert set(entries[0]["probabilities"]) == {"English", "French", "German"}
    assert "id" not in entries[0]
    table = tmp_path / "texts.csv"
    table.write_text('id,text\n7,"A dog, it runs."\nb,Un chien court.\n', encoding="utf8")
    lines = regard_command("predict", languages, "--input", table, "--json").out.splitlines()
    assert [(json.loads(line)["id"], json.loads(line)["text"]) for line in lines] == [
        ("7", "A dog, it runs."),
        ("b", "Un chien court."),
    ]
    page = tmp_path / "page.html"
    assert regard_command("predict", languages, texts[0], "--attention", page).code == 0
    assert "runs" in page.read_text(encoding="utf8")


def test_flags_of_other_tasks_are_refused(refused, languages):
    assert "'classify' knows no such option. Received: --beam" in refused(
        "predict", languages, "A dog.", "--beam", "3"
    )
    assert "--length-penalty" in refused("predict", languages, "A dog.", "--length-penalty", "0")
    sample = sample_path("classify")["test"]
    assert "--lowercase" in refused("evaluate", languages, "--data", sample, "--lowercase")


def test_only_translators_leave(refused, languages, tmp_path):
    assert "Received: one of classify" in refused(
        "export", languages, "--to", "onnx", "--out", tmp_path / "out"
    )


def test_a_label_that_was_never_seen_is_refused(refused, languages, tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text("text\tlabel\nUn perro corre.\tSpanish\n", encoding="utf8")
    assert f"{path}, line 2: the label 'Spanish' was never seen" in refused(
        "evaluate", languages, "--data", path
    )


def test_pictures(regard_command, refused, tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(24, 16, 16, 1), dtype=np.uint8)
    pictures[::2] //= 2
    np.savez(tmp_path / "train.npz", images=pictures)
    rows = [{"image": number, "shade": "dark" if number % 2 == 0 else "light"} for number in range(24)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    run = tmp_path / "run"
    files = ("--train", tmp_path / "train.jsonl", "--out", run, "--label", "shade")
    dry = regard_command("train", "classify", *files, *SMALL, "--dry-run", "--flip")
    assert "patch = 2" in dry.out
    assert regard_command("train", "classify", *files, *SMALL, "--quiet").code == 0
    assert (
        json.loads(regard_command("evaluate", run, "--data", tmp_path / "train.jsonl", "--json").out)["count"]
        == 24
    )
    Image.fromarray(pictures[0, :, :, 0]).save(tmp_path / "a.png")
    result = json.loads(regard_command("predict", run, tmp_path / "a.png", "--json").out)
    assert result["image"] == str(tmp_path / "a.png")
    assert set(result["probabilities"]) == {"dark", "light"}
    assert regard_command("predict", run, tmp_path / "a.png", "--attention", tmp_path / "a.svg").code == 0
    waste = json.loads(regard_command("waste", tmp_path / "train.jsonl", "--run", run, "--json").out)
    assert waste["fields"]["patches"]["mean"] == 64
    assert "there is no picture" in refused("predict", run, tmp_path / "b.png")
    text = tmp_path / "mixed.jsonl"
    text.write_text('{"text": "a", "shade": "dark"}\n', encoding="utf8")
    assert "texts and pictures are mixed" in refused("evaluate", run, "--data", text)


def test_fields_of_other_names_are_evaluated(regard_command, refused, languages, tmp_path):
    rows = [{"said": "A dog runs.", "tongue": "English"}, {"said": "Un chien court.", "tongue": "French"}]
    data = tmp_path / "other.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    names = ("--text", "said", "--label", "tongue")
    result = regard_command("evaluate", languages, "--data", data, *names, "--json")
    assert json.loads(result.out)["count"] == 2, result.err
    assert "--text FIELD" in refused("evaluate", languages, "--data", data)
    shown = regard_command("compare", languages, languages, "--data", data, *names)
    assert shown.code == 0, shown.err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"label": "spam"}, "all records have the same label. Expected: at least two labels. Received: 'spam'"),
        ({"labels": []}, "no record has a label. Expected: at least one label in all lists. Received: empty lists"),
    ],
)  # fmt: skip
def test_labels_that_tell_nothing_apart_are_refused_before_training(refused, tmp_path, answer, said):
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"text": "A dog runs.", **answer}) + "\n", encoding="utf8")
    message = refused("train", "classify", "--train", train, "--dev", train, "--out", tmp_path / "run", *TINY)
    assert f"{train}: {said}" in message
    assert "To mend it" in message
    assert not (tmp_path / "run").exists()


def test_a_run_of_tables_reads_the_fields_that_it_was_trained_on(regard_command, refused, tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(
        'said,tongue\n"A dog, it runs.",English\n' + "Un chien court.,French\n" * 5, encoding="utf8"
    )
    second.write_text('tongue,said\nEnglish,"A cat\nsleeps."\n', encoding="utf8")
    run, names = tmp_path / "run", ("--text", "said", "--label", "tongue")
    files = ("--train", f"{first},{second}", "--dev", first, "--out", run)
    result = regard_command("train", "classify", *files, *names, *TINY, "--quiet")
    assert result.code == 0, result.err
    lines = regard_command("predict", run, "--input", second, "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["A cat\nsleeps."]
    entry = json.loads(regard_command("evaluate", run, "--data", f"{first},{second}", "--json").out)
    assert entry["count"] == 7
    other = tmp_path / "other.csv"
    other.write_text("text\nA dog.\n", encoding="utf8")
    message = refused("predict", run, "--input", other)
    assert f"{other}, line 1: the column 'said' is missing" in message
