"""Bad input of the tasks that read: file, line, what is expected and how to mend it, exit code 2, and nothing written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from broken_pictures import png_of_size
from regard.cli import main

PASSAGE = {"context": "Ada wrote the notes. Bob read them.", "question": "Who wrote?"}
ANSWER = {**PASSAGE, "answers": [{"text": "Ada", "start": 0}]}
WORDS = ["The", "dog", "barks", "."]
ROLES = {"words": WORDS, "predicate": 2, "roles": ["B-ARG0", "I-ARG0", "B-V", "O"]}
SMALL = (
    *(
        "--dim",
        "16",
        "--heads",
        "2",
        "--hidden",
        "16",
        "--encoder-layers",
        "1",
        "--steps",
        "1",
        "--threads",
        "1",
    ),
    *("--evaluations", "1", "--tokens", "512"),
)
ANSWERS = {
    "elsewhere": ({**PASSAGE, "answers": [{"text": "Bob", "start": 0}]}, "an answer does not stand where it says", "write start 21"),
    "nowhere": ({**PASSAGE, "answers": [{"text": "Eve", "start": 0}]}, "does not stand where it says", "copy the answer from the passage"),
    "behind the end": ({**PASSAGE, "answers": [{"text": "them.", "start": 99}]}, "does not stand where", "write start 30"),
    "before the begin": ({**PASSAGE, "answers": [{"text": "Ada", "start": -1}]}, "does not stand where", "write start 0"),
    "empty": ({**PASSAGE, "answers": [{"text": " ", "start": 3}]}, "an answer is empty", "copy the answer"),
    "no place": ({**PASSAGE, "answers": [{"text": "Ada"}]}, "an answer is not whole", "say of each answer"),
}  # fmt: skip
SENTENCES = {
    "no BIO": ({**ROLES, "roles": ["ARG0", "ARG0", "B-V", "O"]}, "the tag of word 0 is not BIO", "convert the tags to BIO"),
    "too few": ({**ROLES, "roles": ["O", "B-V", "O"]}, "Expected: a list of 4 tags", "tag words, not pieces of words"),
    "inside of nothing": ({**ROLES, "roles": ["O", "I-ARG0", "B-V", "O"]}, "the tag of word 1 continues nothing", "begin every span with B"),
    "the predicate as another role": ({**ROLES, "roles": ["O", "O", "B-ARG0", "O"]}, "word 2, is not the one with the tag B-V", "tag the predicate B-V"),
    "predicate outside": ({**ROLES, "predicate": 4}, "outside the sentence. Expected: a position from 0 to 3", "count words from 0"),
    "predicate before": ({**ROLES, "predicate": -1}, "outside the sentence", "count words from 0"),
}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(message, path, line, *parts):
    """A message has everything that a person needs."""
    for part in (f"{path}, line {line}: ", "Expected: ", "Received: ", "To mend it: ", *parts):
        assert part in message


@pytest.mark.parametrize(
    ("task", "good", "bad", "wrong", "remedy"),
    [
        *(pytest.param("answer", ANSWER, *case, id=f"answer {name}") for name, case in ANSWERS.items()),
        *(pytest.param("roles", ROLES, *case, id=f"roles {name}") for name, case in SENTENCES.items()),
    ],
)
def test_what_does_not_fit_its_text_is_named(refused, tmp_path, task, good, bad, wrong, remedy):
    path, fine = write(tmp_path / "bad.jsonl", [good, bad]), write(tmp_path / "good.jsonl", [good, good])
    run = tmp_path / "run"
    for train, dev in ((path, fine), (fine, path)):
        message = refused("train", task, "--train", train, "--dev", dev, "--out", run)
        check(message, path, 2, wrong, remedy)
    assert not run.exists()


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    """The folder of a run of a task on some records, by the task's name; not to be changed."""
    folder = tmp_path_factory.mktemp("bad")
    runs = {}

    def train(task, rows, *options):
        if task not in runs:
            data = write(folder / f"{task}.jsonl", rows)
            runs[task] = folder / task
            files = ("--train", str(data), "--dev", str(data), "--out", str(runs[task]), "--quiet")
            assert main(["train", task, *files, *SMALL, *options]) == 0
        return runs[task]

    return train


@pytest.mark.parametrize(
    ("task", "good", "bad", "wrong", "remedy"),
    [("answer", ANSWER, *ANSWERS["elsewhere"]), ("roles", ROLES, *SENTENCES["predicate outside"])],
)
def test_evaluation_and_prediction_name_it_too(
    refused, regard_command, trained_on, tmp_path, task, good, bad, wrong, remedy
):
    run, path = trained_on(task, [good] * 4), write(tmp_path / "bad.jsonl", [good, bad])
    check(refused("evaluate", run, "--data", path), path, 2, wrong, remedy)
    result = regard_command("predict", run, "--input", path)
    if task == "answer":  # which needs no answers
        assert (result.code, len(result.out.splitlines())) == (0, 2)
    else:  # records of one sentence that stand together are one
        assert (result.code, result.out) == (2, "")
        check(result.err, path, 2, wrong, remedy)


def test_columns_whose_brackets_do_not_match(refused, tmp_path):
    path = tmp_path / "bad.conll"
    path.write_text("The - (ARG0*\ndog - *\nbarks barks (V*)\n\n", encoding="utf-8")
    check(refused("train", "roles", "--train", path, "--out", tmp_path / "run"), path, 3)
    assert not (tmp_path / "run").exists()


def test_labels_that_training_never_saw(refused, regard_command, trained_on, tmp_path):
    """A class is refused; a role counts as missed and is named."""
    texts = [{"text": "a dog", "label": "animal"}, {"text": "a rose", "label": "plant"}] * 2
    path = write(tmp_path / "texts.jsonl", [texts[0], {"text": "a stone", "label": "stone"}])
    message = refused("evaluate", trained_on("classify", texts), "--data", path)
    check(message, path, 2, "the label 'stone' was never seen", "animal", "plant")
    path = write(tmp_path / "roles.jsonl", [{**ROLES, "roles": ["B-ARG9", "I-ARG9", "B-V", "O"]}])
    assert "unseen ARG9" in regard_command("evaluate", trained_on("roles", [ROLES] * 4), "--data", path).out


PICTURES = {
    "none": ("a.png", b"A dog, in words.", "is no picture that can be read", "save it again"),
    "cut short": ("a.png", None, "is no picture that can be read", "save it again"),
    "a bomb": ("a.png", png_of_size(60_000, 60_000), "the picture is too large", "scale it down"),
    "missing": ("b.png", b"", "there is no picture", "b.png"),
    "a row that is not there": (7, b"", "7", "2"),
}


@pytest.mark.parametrize(("given", "content", "wrong", "part"), PICTURES.values(), ids=PICTURES)
def test_pictures_that_are_none(refused, tmp_path, given, content, wrong, part):
    pixels = np.random.default_rng(0).integers(256, size=(2, 40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "good.png")
    (tmp_path / "a.png").write_bytes(
        (tmp_path / "good.png").read_bytes()[:2000] if content is None else content
    )
    good = [{"image": str(tmp_path / "good.png"), "label": label} for label in "xy"]
    for name in ("data", "good"):
        np.savez(tmp_path / f"{name}.npz", images=pixels)
    path = write(tmp_path / "data.jsonl", [good[0], {"image": given, "label": "x"}, good[1]])
    fine = write(tmp_path / "good.jsonl", good * 2)
    for train, dev in ((path, fine), (fine, path)):
        message = refused(
            "train", "classify", "--train", train, "--dev", dev, "--out", tmp_path / "run", *SMALL, "--quiet"
        )
        check(message, path, 2, wrong, part)
        assert not (tmp_path / "run" / "config.toml").exists()
