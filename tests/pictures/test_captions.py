from __future__ import annotations

import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from regard._errors import RegardError, ShapeError
from regard.pictures import CaptionPicture

PIXELS = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


def make(words=("a", "<dog>"), heads=2):
    weights = np.random.default_rng(0).random((len(words), heads, 2, 3))
    weights /= weights.sum(axis=(2, 3), keepdims=True)
    return CaptionPicture(weights, words, PIXELS, 4), weights


def test_a_page_shows_the_picture_once_a_word(tmp_path):
    picture, _ = make()
    page = picture.save(tmp_path / "a.html").read_text(encoding="utf8")
    assert page.count("<figure>") == page.count("data:image/png;base64") == 3
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_figure_is_sound_and_shades_as_the_weights_say(tmp_path):
    picture, weights = make()
    figure = ET.parse(picture.save(tmp_path / "a.svg", head=1)).getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in figure.iter(f"{name}text")] == ["a <dog>", "the picture", "a", "<dog>"]
    shades = [float(rect.get("opacity")) for rect in figure.iter(f"{name}rect") if rect.get("opacity")]
    expected = 0.75 * weights[:, 1] / weights[:, 1].max(axis=(1, 2), keepdims=True)
    assert shades == pytest.approx(expected[expected >= 0.004].tolist(), abs=1e-3)


def test_words_beyond_a_row_stand_in_the_next():
    picture, _ = make(tuple("abcdef"))
    assert picture.svg().count('<svg x="') == 7
    heights = {part.split('"')[0] for part in picture.svg().split(' y="')[2:]}
    assert len(heights) > 2


def test_an_image_has_a_part_for_each_word():
    picture, _ = make()
    whole = Image.open(io.BytesIO(picture.png()))
    alone = Image.open(io.BytesIO(picture.views[0].png()))
    assert whole.size == (2 * alone.width + 14, alone.height)


def test_a_caption_without_words_can_be_drawn():
    picture = CaptionPicture(np.zeros((0, 1, 2, 3)), (), PIXELS, 4)
    for content in (picture.html(), picture.svg(), picture.png()):
        assert content
    assert picture.svg().count("data:image/png") == 1


def test_what_does_not_fit_is_refused(tmp_path):
    picture, weights = make()
    with pytest.raises(ShapeError, match="for 1 words"):
        CaptionPicture(weights, ["a"], PIXELS, 4)
    with pytest.raises(ShapeError, match="do not fit the picture"):
        CaptionPicture(weights, ["a", "b"], PIXELS, 8)
    with pytest.raises(RegardError, match="unknown picture format"):
        picture.save(tmp_path / "a.jpg")
    with pytest.raises(RegardError, match="no such head"):
        picture.svg(5)
