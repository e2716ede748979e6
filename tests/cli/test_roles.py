"""`regard train roles` on the sample, and what the run is good for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from regard.cli import main
from regard.samples import sample_path

TINY = (
    *("--dim", "16", "--heads", "2", "--hidden", "16", "--encoder-layers", "1", "--decoder-layers", "1"),
    *("--vocabulary", "400", "--tokens", "512", "--dev-examples", "2", "--evaluations", "1", "--steps", "2"),
)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    """A folder with `train.jsonl` and `dev.jsonl`, a few sentences each."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 60), ("dev", 8)):
        with gzip.open(sample_path("roles")[split], "rt", encoding="utf-8") as file:
            lines = [next(file) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def labeller(sentences, tmp_path_factory) -> Path:
    """The folder of a tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "roles"
    files = ("--train", f"{sentences}/train.jsonl", "--out", str(folder))
    assert main(["train", "roles", *files, *TINY, "--quiet"]) == 0
    return folder


def read(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_a_run_holds_out_whole_sentences_and_goes_on(regard_command, labeller, sentences):
    held_out = [json.loads(line) for line in read(labeller / "state" / "dev.jsonl")]
    train = [json.loads(line) for line in read(sentences / "train.jsonl")]
    assert held_out == train[::20]
    assert (labeller / "labels.json").exists()
    assert regard_command("train", "--resume", "--out", labeller, "--quiet").code == 0


def test_evaluation_gives_roles_by_themselves_on_request(regard_command, refused, labeller, sentences):
    entry = json.loads(regard_command("evaluate", labeller, "--data", sentences / "dev.jsonl", "--json").out)
    assert {"f1", "precision", "recall", "predicates", "count", "seconds", "signatures"} == entry.keys()
    assert entry["count"] == 8
    each = regard_command("evaluate", labeller, "--data", sentences / "dev.jsonl", "--each").out
    assert "ARG0" in each
    assert "8 examples" in each
    assert "--beam" in refused("evaluate", labeller, "--data", sentences / "dev.jsonl", "--beam", "3")
    assert "--lowercase" in refused("evaluate", labeller, "--data", sentences / "dev.jsonl", "--lowercase")


def test_sentences_and_records_are_labelled(regard_command, labeller, sentences, tmp_path):
    assert regard_command("predict", labeller, "The dog chases the cat.").code == 0
    lines = regard_command("predict", labeller, "--input", sentences / "dev.jsonl", "--json").out.splitlines()
    for line, gold in zip(lines, read(sentences / "dev.jsonl"), strict=True):
        entry, record = json.loads(line), json.loads(gold)
        assert [entry[name] for name in ("id", "words", "predicates")] == [
            record[n] for n in ("id", "words", "predicates")
        ]
    columns = tmp_path / "labelled.conll"
    columns.write_text(
        regard_command("predict", labeller, "--input", sentences / "dev.jsonl", "--columns").out,
        encoding="utf-8",
    )
    again = regard_command("predict", labeller, "--input", columns, "--columns")
    assert (again.code, again.out) == (0, columns.read_text(encoding="utf-8"))
    assert regard_command("evaluate", labeller, "--data", columns).out.startswith("f1         100.0")


def test_a_blank_line_is_a_sentence_without_words(regard_command, labeller, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("The dog runs.\n\nThe cat sleeps.\n", encoding="utf-8")
    for flags in ((), ("--columns",)):
        dog, cat = (
            regard_command("predict", labeller, text, *flags).out
            for text in ("The dog runs.", "The cat sleeps.")
        )
        result = regard_command("predict", labeller, "--input", path, *flags)
        assert (result.code, result.out) == (0, f"{dog}\n{cat}")


def test_output_has_one_form_and_only_roles_have_columns(refused, labeller, trained):
    assert "one form" in refused("predict", labeller, "A dog.", "--json", "--columns")
    assert "'translate' has none" in refused("predict", trained, "A dog.", "--columns")
    assert "--beam" in refused("predict", labeller, "A dog.", "--beam", "3")
    assert "--each" in refused("evaluate", trained, "--data", "x", "--each")


def test_the_page_shows_what_words_looked_at(regard_command, labeller, tmp_path):
    record = tmp_path / "one.jsonl"
    record.write_text('{"words": ["The", "puppy", "runs"], "predicate": 2}\n', encoding="utf-8")
    page = tmp_path / "page.html"
    assert regard_command("predict", labeller, "--input", record, "--attention", page).code == 0
    assert "puppy" in page.read_text(encoding="utf-8")


def test_a_page_of_several_predicates_says_which_it_shows(regard_command, labeller, tmp_path):
    record, page = tmp_path / "one.jsonl", tmp_path / "page.html"
    for predicates, said in (
        ([2, 4], "page.html: the predicate 'says' (word 2), not 'runs' (word 4)"),
        ([4], "page.html\n"),
    ):
        row = {"words": ["The", "girl", "says", "it", "runs"], "predicates": predicates}
        record.write_text(json.dumps(row) + "\n", encoding="utf-8")
        found = regard_command("predict", labeller, "--input", record, "--attention", page)
        assert found.code == 0
        assert said in found.err


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"words": ["a"], "predicate": 1, "roles": ["B-V"]}', ["line 1", "outside the sentence"]),
        ('{"words": ["a"], "predicate": 0, "roles": ["V"]}', ["line 1", "not BIO"]),
        (
            '{"words": ["a"], "predicate": 0, "role": ["B-V"]}',
            ["line 1", "'roles' is missing", "did you mean 'role'?"],
        ),
    ],
)
def test_bad_records_are_refused_before_anything_is_written(refused, tmp_path, line, parts):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    message = refused("train", "roles", "--train", path, "--out", tmp_path / "run")
    assert all(part in message for part in [*parts, str(path), "Expected", "Received", "To mend it"])
    assert not (tmp_path / "run").exists()


def test_sentences_without_predicates_or_arguments_are_no_failure(
    regard_command, refused, labeller, tmp_path
):
    path = tmp_path / "few.jsonl"
    silent = {"words": ["It", "rains"], "predicates": [], "roles": []}
    path.write_text(json.dumps(silent) + "\n")
    message = refused("evaluate", labeller, "--data", path)
    assert f"{path}: no sentence has a predicate" in message
    assert "none in 1 sentences" in message
    path.write_text(json.dumps({**silent, "predicates": [1], "roles": [["O", "B-V"]]}) + "\n")
    result = regard_command("evaluate", labeller, "--data", path, "--by", "length")
    assert "; there are no arguments to be found" in result.out
    assert "1 examples, 1 predicates in " in result.out
