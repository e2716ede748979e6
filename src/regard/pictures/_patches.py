"""Where in a picture attention lay: its patches shaded over the picture itself, as a page, a vector figure or an image."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import RegardError, ShapeError
from regard.data.words import host_weights
from regard.pictures._drawing import FONTS, INK, SOFT
from regard.pictures._endings import ending

SHOWN = 320  # points of the longer side
HEAT = (214, 69, 20)
STRONGEST = 0.75  # opacity of the largest weight: the picture stays visible below it
MARGIN, HEAD = 14, 34

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 28px 32px; color: {ink}; background: #fdfcfa }}
figure {{ display: inline-block; margin: 0 18px 18px 0 }} figcaption, p {{ color: {soft}; font-size: 13px }}</style></head>
<body><h1 dir="auto" style="font-size: 21px">{title}</h1>
{figures}
<p>The darker a patch is shaded, the larger its share; the largest of each view is as dark as it gets. The shares of a head add up
to 1. They say where it looked, not why the model answered as it did.</p></body></html>
"""


class PatchPicture:
    """Attention to the patches of a picture, to be saved as a page, a vector figure or an image.

    Arguments:
        weights: (heads, rows, columns) or (rows, columns); of each head they sum to one.
        pixels: (height, width, 3), uint8: the picture.
        patch: side of a patch in pixels; the last row and column may reach over the rim.
        title: the heading.

    Raises:
        ShapeError: weights and pixels do not fit together.
        RegardError: weights that no softmax gives.

    >>> picture = PatchPicture([[0.75, 0.25]], np.zeros((4, 8, 3), np.uint8), 4)
    >>> picture.save("dog.svg").name
    'dog.svg'
    """

    def __init__(
        self, weights: Any, pixels: NDArray[np.uint8], patch: int, *, title: str = "Attention"
    ) -> None:
        values = host_weights(weights)
        values = values[None] if values.ndim == 2 else values
        self.pixels, self.patch, self.title = np.asarray(pixels), patch, title
        expected = tuple(-(-side // patch) for side in self.pixels.shape[:2])
        if values.ndim != 3 or values.shape[1:] != expected or self.pixels.ndim != 3 or not len(values):
            raise ShapeError(
                f"weights do not fit the picture: expected (heads, {expected[0]}, {expected[-1]}) for pixels "
                f"{self.pixels.shape} and patches of {patch}, received {values.shape}"
            )
        if not np.isfinite(values).all() or values.min() < -1e-6 or abs(values.sum((1, 2)) - 1).max() > 1e-2:
            raise RegardError(
                "weights over patches are no shares: expected numbers that sum to 1 for each head"
            )
        self.weights = values

    def save(self, path: str | Path, *, head: int | None = None) -> Path:
        """Write one self-contained file; its name ends in `.html`, `.svg` or `.png`.

        Arguments:
            path: where to write.
            head: number of the head to show, from 0; default the average. A page shows all.

        Raises:
            RegardError: an unknown ending or head.
        """
        path = Path(path)
        writers: dict[str, Any] = {".html": lambda _: self.html(), ".svg": self.svg, ".png": self.png}
        content = writers[ending(path)](head)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
        return path

    def html(self) -> str:
        """A page with the picture, the average of all heads and every head."""
        views: list[int | None] = [None, *(range(len(self.weights)) if len(self.weights) > 1 else ())]
        figures = [f"<figure>{self.drawing(shaded=False)}<figcaption>the picture</figcaption></figure>"]
        figures += [
            f"<figure>{self.drawing(head)}<figcaption>{html.escape(self._view(head))}</figcaption></figure>"
            for head in views
        ]
        return PAGE.format(title=html.escape(self.title), ink=INK, soft=SOFT, figures="\n".join(figures))

    def svg(self, head: int | None = None) -> str:
        """A vector figure: the picture, and beside it the same with one head's weights, or the average's."""
        caption = html.escape(f"{self.title} · {self._view(head)}")
        height, width = shown_size(self.pixels, SHOWN)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + 3 * MARGIN:.0f}" '
            f'height="{height + HEAD + MARGIN:.0f}" font-family="{FONTS}" font-size="13">'
            f'<title>{caption}</title><rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="{MARGIN}" y="20" fill="{SOFT}">{caption}</text>'
            f'<svg x="{MARGIN}" y="{HEAD}" width="{width:.0f}" height="{height:.0f}">{self.drawing(shaded=False)}</svg>'
            f'<svg x="{width + 2 * MARGIN:.0f}" y="{HEAD}" width="{width:.0f}" height="{height:.0f}">'
            f"{self.drawing(head)}</svg></svg>\n"
        )

    def png(self, head: int | None = None) -> bytes:
        """The shaded picture as an image."""
        shade = self._shade(head)[..., None]
        whole = np.repeat(np.repeat(shade, self.patch, 0), self.patch, 1)[
            : self.pixels.shape[0], : self.pixels.shape[1]
        ]
        mixed = np.rint(self.pixels * (1 - whole) + np.array(HEAT) * whole).astype(np.uint8)
        zoom = max(1, SHOWN // max(mixed.shape[:2]))
        return encoded_png(np.repeat(np.repeat(mixed, zoom, 0), zoom, 1))

    def _repr_html_(self) -> str:
        """In a notebook: the average."""
        return self.svg()

    def drawing(self, head: int | None = None, *, shaded: bool = True, shown: int = SHOWN) -> str:
        """The picture as SVG of its own coordinates, a point a pixel, with or without the weights.

        Arguments:
            head: number of the head, from 0; default the average.
            shaded: with the weights of its patches.
            shown: points of the longer side.
        """
        height, width = self.pixels.shape[:2]
        shown_height, shown_width = shown_size(self.pixels, shown)
        data = base64.b64encode(encoded_png(self.pixels)).decode("ascii")
        head_of_file = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{shown_width:.0f}" '
            f'height="{shown_height:.0f}"><image width="{width}" height="{height}" style="image-rendering: pixelated" '
            f'href="data:image/png;base64,{data}"/>'
        )
        parts = [head_of_file]
        shade = self._shade(head) if shaded else np.zeros((0, 0))
        for row, column in np.ndindex(shade.shape):
            if shade[row, column] >= 0.004:
                x, y = column * self.patch, row * self.patch
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{min(self.patch, width - x)}" height="{min(self.patch, height - y)}" '
                    f'fill="rgb{HEAT}" opacity="{shade[row, column]:.3f}"/>'
                )
        return "".join([*parts, "</svg>"])

    def _chosen(self, head: int | None) -> NDArray[np.float32]:
        if head is not None and not 0 <= head < len(self.weights):
            raise RegardError(
                f"no such head: expected a number from 0 to {len(self.weights) - 1}, received {head}"
            )
        chosen: NDArray[np.float32] = self.weights.mean(axis=0) if head is None else self.weights[head]
        return chosen

    def _shade(self, head: int | None) -> NDArray[np.float64]:
        chosen = self._chosen(head)
        return STRONGEST * chosen.astype(np.float64) / max(float(chosen.max()), 1e-9)

    def _view(self, head: int | None) -> str:
        largest = self._chosen(head).max()
        name = f"mean of {len(self.weights)} heads" if head is None else f"head {head + 1}"
        return f"{name}, largest share {largest:.0%}"


def shown_size(pixels: NDArray[np.uint8], shown: int) -> tuple[float, float]:
    """Height and width of a picture whose longer side has `shown` points."""
    height, width = pixels.shape[:2]
    return height * shown / max(height, width), width * shown / max(height, width)


def encoded_png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
