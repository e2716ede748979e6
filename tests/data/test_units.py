from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import CheckpointError, ConfigError
from regard.data.units import Bytes, Characters, UnknownCharactersError, learn_units, load_units, save_units

TEXTS = ["ROMEO:\nAy me!\n", "JULIET:\nO Romeo, Romeo!\n\n", "Ça va? 狗 😀\n"]
KINDS = ("characters", "bytes", "subwords")


@pytest.fixture(params=KINDS)
def units(request):
    return learn_units(request.param, TEXTS * 3, 300)


def test_a_text_comes_back(units):
    for text in TEXTS:
        ids = units.encode(text)
        assert units.decode(ids) == units.normalize(text) == text
        assert units.decode([units.mark, *ids, units.mark]) == text
        assert 0 <= min(ids) <= max(ids) < len(units)
        assert units.mark not in ids
        assert len(units.names(ids)) == len(ids)


def test_texts_that_end_in_a_line_can_be_joined(units):
    ids = [index for text in TEXTS for index in units.encode(text)]
    assert ids == units.encode("".join(TEXTS))


def test_units_come_back_from_a_folder(units, tmp_path):
    save_units(units, tmp_path, {"context": 7})
    again, facts = load_units(tmp_path)
    assert (again.kind, len(again), facts) == (units.kind, len(units), {"context": 7})
    assert again.encode(TEXTS[2]) == units.encode(TEXTS[2])


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "words"}', "[1]"])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "units.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"units\.json"):
        load_units(tmp_path)


@given(st.text())
def test_bytes_know_every_text(text):
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    units = Bytes()
    ids = units.encode(text)
    assert units.decode(ids) == text
    shown = [units.partial(ids[:count]) for count in range(len(ids) + 1)]
    assert all(text.startswith(part) for part in shown)
    assert shown[-1] == text


def test_unknown_characters_are_named():
    with pytest.raises(UnknownCharactersError) as caught:
        Characters("abc").encode("abxcy")
    assert (caught.value.characters, caught.value.place) == (["x", "y"], 2)


def test_subwords_keep_lines_and_not_rows_of_spaces():
    units = learn_units("subwords", TEXTS * 3, 300)
    assert units.decode(units.encode("\n\n  Ay   me! \n")) == "\n\nAy me!\n"
    assert units.normalize("  Ay   me! \n") == "Ay me!\n"


def test_an_unknown_kind():
    with pytest.raises(ConfigError, match="characters, bytes, subwords"):
        learn_units("words", TEXTS, None)


def test_the_alphabet_is_plain_text(tmp_path):
    save_units(Characters("ba"), tmp_path, {})
    assert json.loads((tmp_path / "units.json").read_text(encoding="utf-8"))["alphabet"] == "ab"
