"""Where a captioner looked for each word: the picture once a word, its patches shaded, as a page, a vector figure or an image."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ShapeError
from regard.data.words import host_weights
from regard.pictures._drawing import FONTS, INK, SOFT
from regard.pictures._endings import ending
from regard.pictures._patches import HEAD, MARGIN, PAGE, PatchPicture, encoded_png, shown_size

ACROSS = 4  # pictures in a row
SHOWN = 200  # points of a picture's longer side


class CaptionPicture:
    """Attention to the patches of a picture for each word of its caption, to be saved as a page, a vector figure or an image.

    Arguments:
        weights: (words, heads, rows, columns) or (words, rows, columns); of each word and head they sum to one.
        words: of the caption.
        pixels: (height, width, 3), uint8: the picture.
        patch: side of a patch in pixels; the last row and column may reach over the rim.
        title: the heading; by default the caption.

    Raises:
        ShapeError: weights, words and pixels do not fit together.
        RegardError: weights that no softmax gives.

    >>> picture = CaptionPicture([[[0.75, 0.25]], [[0.5, 0.5]]], ["a", "dog"], np.zeros((4, 8, 3), np.uint8), 4)
    >>> picture.save("caption.svg").name
    'caption.svg'
    """

    def __init__(
        self,
        weights: Any,
        words: Sequence[str],
        pixels: NDArray[np.uint8],
        patch: int,
        *,
        title: str | None = None,
    ) -> None:
        values = host_weights(weights)
        values = values[:, None] if values.ndim == 3 else values
        if values.ndim != 4 or len(values) != len(words):
            raise ShapeError(
                f"weights do not fit the caption: expected (words, heads, rows, columns) for {len(words)} words, "
                f"received {values.shape}"
            )
        self.words, self.pixels = tuple(words), np.asarray(pixels)
        self.title = " ".join(words) if title is None else title
        grid = tuple(-(-side // patch) for side in self.pixels.shape[:2])
        self.plain = PatchPicture(np.full(grid, 1 / max(1, grid[0] * grid[1])), pixels, patch)
        self.views = [
            PatchPicture(one, pixels, patch, title=word) for one, word in zip(values, words, strict=True)
        ]

    def save(self, path: str | Path, *, head: int | None = None) -> Path:
        """Write one self-contained file; its name ends in `.html`, `.svg` or `.png`, which shows no words.

        Arguments:
            path: where to write.
            head: number of the head to show, from 0; default the average.

        Raises:
            RegardError: an unknown ending or head.
        """
        path = Path(path)
        writers: dict[str, Any] = {".html": self.html, ".svg": self.svg, ".png": self.png}
        content = writers[ending(path)](head)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
        return path

    def html(self, head: int | None = None) -> str:
        """A page with the picture, and the picture once for every word."""
        figures = [
            f"<figure>{drawing}<figcaption>{html.escape(name)}</figcaption></figure>"
            for drawing, name in self._drawings(head)
        ]
        return PAGE.format(title=html.escape(self.title), ink=INK, soft=SOFT, figures="\n".join(figures))

    def svg(self, head: int | None = None) -> str:
        """A vector figure: the picture, and the picture once for every word, from left to right."""
        height, width = shown_size(self.pixels, SHOWN)
        drawings = self._drawings(head)
        cells = []
        for number, (drawing, name) in enumerate(drawings):
            row, column = divmod(number, ACROSS)
            x, y = MARGIN + column * (width + MARGIN), HEAD + row * (height + HEAD)
            cells.append(
                f'<svg x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}">{drawing}</svg>'
                f'<text x="{x:.0f}" y="{y + height + 18:.0f}" fill="{INK}">{html.escape(name)}</text>'
            )
        rows, across = -(-len(drawings) // ACROSS), min(len(drawings), ACROSS)
        title = html.escape(self.title)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{across * (width + MARGIN) + MARGIN:.0f}" '
            f'height="{rows * (height + HEAD) + HEAD:.0f}" font-family="{FONTS}" font-size="13"><title>{title}</title>'
            f'<rect width="100%" height="100%" fill="#fff"/><text x="{MARGIN}" y="20" fill="{SOFT}">{title}</text>'
            f"{''.join(cells)}</svg>\n"
        )

    def png(self, head: int | None = None) -> bytes:
        """The shaded pictures of all words side by side as an image."""
        from PIL import Image

        parts = [np.asarray(Image.open(io.BytesIO(view.png(head)))) for view in self.views]
        parts = parts or [self.pixels]  # a caption without words
        rim = np.full((parts[0].shape[0], MARGIN, 3), 255, np.uint8)
        return encoded_png(np.concatenate([one for part in parts for one in (part, rim)][:-1], axis=1))

    def _repr_html_(self) -> str:
        """In a notebook: the average."""
        return self.svg()

    def _drawings(self, head: int | None) -> list[tuple[str, str]]:
        """The picture, and the picture for each word, as SVG, each with what stands below it."""
        drawn = [(view.drawing(head, shown=SHOWN), view.title) for view in self.views]
        return [(self.plain.drawing(shaded=False, shown=SHOWN), "the picture"), *drawn]
