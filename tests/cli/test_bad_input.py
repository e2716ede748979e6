"""Whatever cannot be used: a clear message, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import pytest

GOOD = b'{"source": "A dog.", "target": "\xe4\xb8\x80\xe5\x8f\xaa\xe7\x8b\x97\xe3\x80\x82"}\n'
LONG = b'{"source": "' + b"word " * 100_000 + b'", "target": "x"}\n'
BAD_FILES = {
    "empty": ("pairs.jsonl", b"", ["the file is empty"]),
    "column": (
        "pairs.jsonl",
        GOOD + b'{"source": "A cat.", "traget": "x"}\n',
        ["line 2", "'target'", "did you mean 'traget'?"],
    ),
    "tsv": ("pairs.tsv", b"source\tother\tmore\na\tb\tc\n", ["line 1", "'target'"]),
    "utf8": ("pairs.jsonl", GOOD + b'{"source": "caf\xe9", "target": "x"}\n', ["line 2", "UTF-8", "0xE9"]),
    "json": ("pairs.jsonl", GOOD + b"A dog.\n", ["line 2", "not JSON"]),
    "blank": ("pairs.jsonl", GOOD + b"\n", ["line 2", "empty"]),
    "long": ("pairs.jsonl", GOOD + LONG, ["line 2", "too long", "--max-characters"]),
    "gzip": ("pairs.jsonl.gz", b"\x1f\x8b\x08", ["gzip"]),
    "format": ("pairs.docx", b"PK", ["format", ".jsonl"]),
}


@pytest.fixture(params=BAD_FILES.values(), ids=BAD_FILES.keys())
def bad(request, tmp_path):
    name, content, parts = request.param
    path = tmp_path / name
    path.write_bytes(content)
    return path, parts


def test_training_refuses_bad_data_before_it_begins(refused, bad, data, tmp_path):
    path, parts = bad
    message = refused(
        "train", "translate", "--train", path, "--dev", data / "dev.jsonl", "--out", tmp_path / "run"
    )
    assert all(part in message for part in [*parts, str(path), "Expected", "Received", "To mend it"])
    assert (
        refused("train", "translate", "--train", data / "dev.jsonl", "--dev", path, "--out", tmp_path / "run")
        == message
    )
    assert not (tmp_path / "run").exists()


def test_evaluation_refuses_bad_data(refused, bad, trained):
    path, parts = bad
    message = refused("evaluate", trained, "--data", path)
    assert all(part in message for part in [*parts, str(path)])


CUT = ["config.toml", "tokenizer.json", "model.safetensors"]
STATE = [
    "state/latest.json",
    "state/step-00000004.safetensors",
    "state/tokens/store.json",
    "state/tokens/source.values",
]


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", CUT)
def test_a_model_cut_short_is_refused(refused, run, name, share):
    cut(run / name, share)
    for command in (["predict", run, "A dog."], ["inspect", run], ["train", "--resume", "--out", run]):
        if name == "model.safetensors" and command[0] == "train":
            continue  # going on needs the state only
        assert str(run / name) in refused(*command)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", STATE)
def test_a_state_cut_short_is_refused_and_the_model_still_serves(refused, regard_command, run, name, share):
    cut(run / name, share)
    assert str((run / name).parent) in refused("train", "--resume", "--out", run)
    assert regard_command("predict", run, "A dog.", "--beam", "1").code == 0


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_missing_is_named(refused, run, name):
    (run / name).unlink()
    assert name in refused("predict", run, "A dog.")


def test_a_config_cut_at_any_line_is_refused(refused, run):
    lines = (run / "config.toml").read_text(encoding="utf-8").rstrip().splitlines(keepends=True)
    for count in range(len(lines)):
        (run / "config.toml").write_text("".join(lines[:count]), encoding="utf-8")
        assert "config.toml" in refused("inspect", run)


def test_a_model_of_another_shape_is_refused(refused, run):
    config = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(config.replace("dim = 16", "dim = 32"), encoding="utf-8")
    assert "belongs to another model" in refused("predict", run, "A dog.")


def test_a_bad_line_does_not_lose_what_came_before(regard_command, trained, tmp_path):
    result = regard_command("predict", trained, "--beam", "1", stdin=b"A dog.\n\n\xff\nA bird.\n")
    assert result.code == 2
    assert len(result.out.splitlines()) == 2
    assert "line 3" in result.err
    assert "The 2 before it were printed." in result.err
    path = tmp_path / "texts.jsonl"
    path.write_text('{"source": "A dog."}\n\n{"source": "A bird."}\n', encoding="utf-8")
    result = regard_command("predict", trained, "--beam", "1", "--input", path)
    assert (result.code, len(result.out.splitlines())) == (2, 1)
    assert f"{path}, line 2" in result.err


@pytest.mark.parametrize("text", ["", "  ", "\u200b", "word " * 100_000])
def test_a_text_that_cannot_be_translated_is_refused(refused, trained, text):
    assert "the given texts, line 1" in refused("predict", trained, text)


def test_standard_input_that_is_not_utf8_is_refused(refused, trained):
    assert "line 1, byte 4" in refused("predict", trained, stdin=b"caf\xe9\n")
