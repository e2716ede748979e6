from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from regard._errors import RegardError
from regard.pictures import PatchPicture

PIXELS = np.full((10, 16, 3), 200, np.uint8)
WEIGHTS = np.array(
    [[[0.5, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.25]], np.full((3, 4), 1 / 12)]
)


def test_a_patch_is_shaded_by_its_share():
    found = np.asarray(Image.open(io.BytesIO(PatchPicture(WEIGHTS, PIXELS, 4).png(head=0))))
    zoom = found.shape[1] // 16
    assert found.shape == (10 * zoom, 16 * zoom, 3)
    blue = found[:: 4 * zoom, :: 4 * zoom, 2].astype(int)
    assert blue[0, 0] < blue[1, 0] == blue[2, 3] < blue[0, 1] == 200


def test_a_figure_has_a_square_for_each_patch_with_a_share():
    picture = PatchPicture(WEIGHTS, PIXELS, 4, title="a <dog>")
    squares = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', picture.svg(head=0))
    assert squares == [
        ("0", "0", "4", "4"),
        ("0", "4", "4", "4"),
        ("12", "8", "4", "2"),
    ]  # the last reaches over the rim
    assert "a &lt;dog&gt;" in picture.svg()
    assert "head 1, largest share 50%" in picture.svg(head=0)
    assert "mean of 2 heads, largest share 29%" in picture.svg()


def test_a_page_has_every_view_and_needs_no_network(tmp_path):
    page = PatchPicture(WEIGHTS, PIXELS, 4).save(tmp_path / "a.html").read_text(encoding="utf8")
    assert page.count("<figure>") == 4
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(RegardError, match=r"expected \(heads, 3, 4\)"):
        PatchPicture(WEIGHTS[:, :2], PIXELS, 4)
    with pytest.raises(RegardError, match="sum to 1"):
        PatchPicture(2 * WEIGHTS, PIXELS, 4)
    with pytest.raises(RegardError, match="from 0 to 1, received 2"):
        PatchPicture(WEIGHTS, PIXELS, 4).svg(head=2)
    with pytest.raises(RegardError, match="unknown picture format"):
        PatchPicture(WEIGHTS, PIXELS, 4).save(tmp_path / "a.jpg")
