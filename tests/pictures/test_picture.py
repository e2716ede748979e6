from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from regard._errors import RegardError
from regard.pictures import AttentionPicture, attention_page
from regard.pictures._picture import PAGE_WEIGHTS, PAGE_WORDS

ENGLISH, CHINESE = ["A", "dog", "runs", "."], ["一只", "狗", "奔跑", "。"]
HOSTILE = "</script><script>document.title='broken'</script>{{script}}\u2028&<b>"


def uniform(*shape):
    return np.full(shape, 1.0 / shape[-1])


def picture(**options):
    return AttentionPicture(uniform(2, 3, 4, 4), CHINESE, ENGLISH, **options)


def page_data(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )


def test_the_page_holds_words_names_and_weights():
    data = page_data(
        picture(title="狗", query_name="target", key_name="source", layers=["low", "high"]).html(head=1)
    )
    assert (data["queries"], data["keys"], data["title"]) == (CHINESE, ENGLISH, "狗")
    assert (data["layers"], data["heads"], data["start"]) == (["low", "high"], ["1", "2", "3"], [2, 1])
    assert len(base64.b64decode(data["weights"])) == 2 * 3 * 4 * 4


def test_the_page_asks_the_network_for_nothing():
    page = picture().html()
    assert re.findall(r"https?://[^\s\"'<>]+", page) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|img|iframe|script src)|@import|url\(", page)
    assert "{{" not in page


def test_a_hostile_word_stays_a_word():
    page = attention_page([[1.0]], [HOSTILE], [HOSTILE], title=HOSTILE)
    assert page_data(page)["queries"] == [HOSTILE]
    assert page.count("</script>") == 2
    assert "<script>document" not in page
    assert "<b>" not in page.partition("</title>")[0]


def test_long_sequences_are_pooled_and_the_page_says_so():
    words = [str(i) for i in range(PAGE_WORDS + 500)]
    data = page_data(attention_page(uniform(len(words), len(words)), words, words))
    assert (data["queryGroup"], data["keyGroup"]) == (2, 2)
    assert data["keys"][0] == "0 … 1"


def test_many_heads_stay_below_the_size_of_a_page():
    words = [str(i) for i in range(300)]
    data = page_data(attention_page(uniform(8, 8, 300, 300), words, words))
    assert len(base64.b64decode(data["weights"])) <= PAGE_WEIGHTS
    assert data["queryGroup"] == 2


@pytest.mark.parametrize("ending", [".html", ".svg", ".png", ".SVG"])
def test_save_writes_one_file(tmp_path, ending):
    written = AttentionPicture(uniform(2, 2), ["a", "b"], ["c", "d"]).save(tmp_path / f"x{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"x{ending}"]
    assert written.stat().st_size > 200


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(RegardError, match=r"expected \.html, \.svg or \.png, received 'x\.pdf'"):
        picture().save(tmp_path / "x.pdf")


@pytest.mark.parametrize(
    ("view", "message"),
    [({"layer": 2}, "no such layer: expected a number from 0 to 1"), ({"head": -1}, "no such head")],
)
def test_an_unknown_view_is_refused(view, message):
    with pytest.raises(RegardError, match=message):
        picture().svg(**view)


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(
        RegardError, match="names of heads do not fit the weights: expected 3 names, received 1"
    ):
        AttentionPicture(uniform(2, 3, 4, 4), CHINESE, ENGLISH, heads=["x"])


def test_the_svg_is_xml_with_readable_words_and_hatched_cells():
    mask = np.tril(np.ones((4, 4), bool))
    weights = mask / mask.sum(-1, keepdims=True)
    drawing = AttentionPicture(weights, CHINESE, [*ENGLISH[:3], HOSTILE + "\x00"], mask=mask).svg()
    root = ET.fromstring(drawing)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:5] == CHINESE
    assert drawing.count("url(#masked)") == 6


def test_the_svg_names_the_view():
    assert "layer 1 · mean of 3 heads" in picture(title="x").svg(layer=0)
    named = AttentionPicture(uniform(2, 3, 4, 4), CHINESE, ENGLISH, title="x", layers=["1", "copying"])
    assert "x · copying · mean of 3 heads" in named.svg(layer=1)


def test_the_png_shows_the_weights(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    drawing = AttentionPicture(np.eye(2), ["a", "b"], ["c", "d"])
    with image_module.open(drawing.save(tmp_path / "x.png")) as image:
        colors = {color for _, color in image.getcolors(1 << 16)}
    assert (11, 60, 104) in colors
    assert (255, 255, 255) in colors


def test_a_word_no_font_draws_is_said(tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(RegardError, match=r"no font on this machine draws .* save as \.svg or \.html"):
        AttentionPicture([[1.0]], ["\U000e01ee\ue123"], ["a"]).save(tmp_path / "x.png")


def test_a_notebook_gets_a_frame():
    frame = picture()._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert frame.count("<") == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the chromium browser")
def test_a_browser_draws_the_page(tmp_path):
    page = AttentionPicture(uniform(2, 3, 4, 4), [*CHINESE[:3], HOSTILE], ENGLISH, title="heading").save(
        tmp_path / "x.html"
    )
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --virtual-time-budget=2000"
    browser = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    dom = subprocess.run(
        [*browser, page.as_uri()], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert dom.count('class="word"') == 8
    assert dom.count(' aria-pressed="') == 3 * 4
    assert "<title>heading</title>" in dom
