"""The commands for a captioner, on the sample that ships."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from regard.samples import sample_path

TINY = (
    *("--dim", "16", "--heads", "2", "--hidden", "16", "--encoder-layers", "1", "--decoder-layers", "1"),
    *("--vocabulary", "300", "--tokens", "512", "--evaluations", "1", "--dev-examples", "8", "--steps", "2"),
    *("--threads", "1"),
)


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    from regard.cli import main

    folder = tmp_path_factory.mktemp("emoji") / "run"
    given = ("--languages", "en,zh", "--quiet")
    assert main(["train", "caption", "--out", str(folder), *TINY, *given]) == 0
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A file with some pictures of the sample, of two kinds."""
    from regard.data.records import read_records

    folder = tmp_path_factory.mktemp("few")
    pictures = np.load(sample_path("caption")["test"].with_name("test.npz"))["images"][:12]
    np.savez(folder / "few.npz", images=pictures)
    records = [
        record.fields
        for record in read_records(sample_path("caption")["test"], ("image",), check=lambda one: one)
    ]
    lines = [json.dumps({**fields, "kind": "ab"[number % 2]}) for number, fields in enumerate(records[:12])]
    (folder / "few.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    Image.fromarray(pictures[0]).save(folder / "one.png")
    return folder


def test_scores_on_the_sample(regard_command, emoji):
    entry = json.loads(regard_command("evaluate", emoji, "--beam", "1", "--json").out)
    assert {"cider", "bleu4", "exact", "seconds", "signatures"} < entry.keys()
    assert (entry["count"], entry["beam"]) == (139, 1)
    assert entry["signatures"]["cider"] == "tok:coco"
    facts = json.loads(regard_command("inspect", emoji, "--json").out)
    assert facts["languages"] == ["en", "zh"]


def test_scores_of_kinds_and_in_a_language(regard_command, refused, emoji, few):
    data = ("--data", few / "few.jsonl", "--beam", "1")
    shown = regard_command("evaluate", emoji, *data, "--by", "kind").out
    assert "kind: the field 'kind' of each record" in shown
    table = json.loads(regard_command("evaluate", emoji, *data, "--by", "kind", "--json").out)["by"]
    assert [(bucket["name"], bucket["count"], bucket["few"]) for bucket in table["buckets"]] == [
        ("a", 6, True), ("b", 6, True),
    ]  # fmt: skip
    assert "from" not in table["buckets"][0]
    entry = json.loads(regard_command("evaluate", emoji, *data, "--language", "zh", "--json").out)
    assert entry["signatures"]["cider"] == "tok:characters"
    assert "does not write 'de'" in refused("evaluate", emoji, *data, "--language", "de")
    assert "has no kind" in refused("evaluate", emoji, "--by", "kind")


def test_captions_of_pictures(regard_command, refused, emoji, few, tmp_path):
    path = few / "one.png"
    lines = {regard_command("predict", emoji, *given).out for given in ((path,), ("--image", path))}
    assert len(lines) == 1
    entry = json.loads(regard_command("predict", emoji, path, "--json", "--language", "zh").out)
    assert (entry["image"], entry["language"]) == (str(path), "zh")
    assert len(regard_command("predict", emoji, "--input", few / "few.jsonl").out.splitlines()) == 12
    page = tmp_path / "page.svg"
    assert regard_command("predict", emoji, "--image", path, "--attention", page).code == 0
    assert page.read_text(encoding="utf8").startswith("<svg")
    assert "there is no picture" in refused("predict", emoji, "--image", tmp_path / "b.png")
    assert "Received: --input too" in refused("predict", emoji, "--image", path, "--input", few / "few.jsonl")
    assert "Received: --no-answer" in refused("predict", emoji, path, "--no-answer", "0.5")


def test_pictures_are_for_tasks_that_read_them(refused, trained, few):
    assert "Received: the task 'translate'" in refused("predict", trained, "--image", few / "one.png")
    assert "Received: --language" in refused("predict", trained, "A dog.", "--language", "de")


def test_two_captioners_are_compared(regard_command, emoji, few, tmp_path):
    data = ("--data", few / "few.jsonl", "--beam", "1")
    regard_command("evaluate", emoji, *data, "--predictions", tmp_path / "a.jsonl")
    shown = regard_command("compare", emoji, tmp_path / "a.jsonl", *data, "--by", "kind").out
    assert "0 examples better, 0 worse, 12 the same" in shown
    assert "cider" in shown


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": 12, "captions": ["a"]}, "outside the array"),
        ({"image": 0, "captions": []}, "holds no captions"),
        ({"image": "none.png", "captions": ["a"]}, "there is no picture"),
    ],
)
def test_bad_records_end_with_file_line_and_remedy(refused, few, tmp_path, row, message):
    path = few / "bad.jsonl"
    (few / "bad.npz").write_bytes((few / "few.npz").read_bytes())
    path.write_text(
        json.dumps({"image": 0, "captions": ["a"]}) + "\n" + json.dumps(row) + "\n", encoding="utf8"
    )
    error = refused("train", "caption", "--train", path, "--out", tmp_path / "run", *TINY)
    assert f"{path}, line 2: " in error
    assert message in error
    assert "To mend it" in error
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_would_be_trained(regard_command, few):
    dry = regard_command("train", "caption", "--train", few / "few.jsonl", "--dry-run", *TINY)
    assert "patch = " in dry.out
