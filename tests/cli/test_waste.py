from __future__ import annotations

import json

import numpy as np
import pytest

from regard.data.records import read_records
from regard.data.tokenizer import Tokenizer
from regard.data.waste import ORDERS, waste


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo words\na b c d\n", encoding="utf-8")
    return path


def told(result):
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def test_words_or_characters_of_one_field(regard_command, lines):
    words = told(regard_command("waste", lines, "--field", "text", "--sentences", "3", "--json"))
    assert words["fields"] == {"text": {"mean": pytest.approx(7 / 3), "longest": 4}}
    assert (words["examples"], words["unit"]) == (3, "words")
    assert [batch["order"] for batch in words["batches"]] == list(ORDERS)
    assert {batch["order"]: batch["padding"] for batch in words["batches"]} == pytest.approx(
        dict.fromkeys(("random", "pools", "sorted"), 5 / 12) | {"packed": 0}
    )
    options = ("--field", "text", "--unit", "characters", "--json")
    assert told(regard_command("waste", lines, *options))["fields"]["text"]["longest"] == 9


def test_text_without_spaces_has_a_word_a_character(regard_command, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("我用 Windows 10。\nテレビ\n", encoding="utf-8")
    found = told(regard_command("waste", path, "--field", "text", "--sentences", "2", "--json"))
    assert found["fields"]["text"] == {"mean": 3.5, "longest": 4}


def test_pieces_of_a_run_with_their_ends(regard_command, trained, data):
    found = told(
        regard_command("waste", data / "train.jsonl", "--run", trained, "--tokens", "64", "128", "--json")
    )
    tokenizer = Tokenizer.load(trained / "tokenizer.json")
    fields = ("source", "target")
    lengths = np.array(
        [
            [len(tokenizer.encode(record.fields[name])) + 1 for name in fields]
            for record in read_records(data / "train.jsonl", fields)
        ]
    )
    assert found["unit"] == "pieces"
    assert found["fields"]["target"]["longest"] == lengths[:, 1].max()
    assert found["batches"] == [
        {"tokens": size, **vars(waste(lengths, order, tokens=size))} for size in (64, 128) for order in ORDERS
    ]


def test_a_table_for_people(regard_command, data):
    result = regard_command("waste", data / "train.jsonl", "--tokens", "256", "--sentences", "8", "16")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].startswith("200 examples in words: source ")
    rows = [line for line in lines[3:] if line.startswith(("256 ", "8 ", "16 "))]
    assert len(rows) == 12
    assert rows[3].split()[:5:2] == ["256", "packed", "0.0%"]
    assert len({len(line) for line in rows}) == 1


def test_the_defaults_are_three_sizes(regard_command, data):
    found = told(regard_command("waste", data / "train.jsonl", "--json"))
    sizes = [(batch.get("tokens"), batch.get("sentences")) for batch in found["batches"]]
    assert sizes == [size for size in ((1024, None), (4096, None), (None, 64)) for _ in ORDERS]


def test_what_cannot_be_counted_is_refused(refused, lines, trained, tmp_path):
    assert "the format of this file is not known" in refused("waste", lines)
    assert "did you mean 'lines.txt'" in refused("waste", tmp_path / "line.txt", "--field", "text")
    assert "--run or --field" in refused("waste", lines, "--field", "text", "--run", trained)
    assert "at least 1" in refused("waste", lines, "--field", "text", "--tokens", "0")
    assert "holds no run" in refused("waste", lines, "--run", tmp_path)
