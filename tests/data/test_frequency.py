"""Counts of words: counted, written, read, refused."""

from __future__ import annotations

import json

import pytest

from regard._errors import CheckpointError
from regard.data.frequency import WordCounts


@pytest.fixture
def counts():
    found = WordCounts()
    found.add(["a", "dog", "a"])
    found.add(["a", "狗"])
    return found


def test_the_rarest_word_decides(counts):
    assert counts.rarest(["a"]) == 3
    assert counts.rarest(["a", "dog"]) == 1
    assert counts.rarest(["a", "fox", "dog"]) == 0


def test_without_words_nothing_is_rare(counts):
    assert counts.rarest([]) == 3
    assert WordCounts().rarest([]) == 0


def test_asking_counts_nothing(counts, tmp_path):
    counts.rarest(["fox"])
    counts.save(tmp_path / "words.json")
    assert list(json.loads((tmp_path / "words.json").read_text(encoding="utf-8")).items()) == [
        ("a", 3),
        ("dog", 1),
        ("狗", 1),
    ]
    again = WordCounts.load(tmp_path / "words.json")
    assert [again.rarest([word]) for word in ("a", "狗", "fox")] == [3, 1, 0]


@pytest.mark.parametrize("text", [None, "", "[1]", '{"a": "b"}', '{"a": null}', '{"a'])
def test_a_damaged_file_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "words.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="train again"):
        WordCounts.load(tmp_path / "words.json")
