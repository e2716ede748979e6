"""A heat map of attention for paper and slides: the same layout as SVG text or, through Pillow, as an image."""

from __future__ import annotations

import html
import io
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import RegardError
from regard.pictures._weights import Weights

LOW, MIDDLE, HIGH = (255, 255, 255), (143, 193, 222), (11, 60, 104)
INK, SOFT, HATCH = "#23262b", "#747a83", "#c4beb4"
FONTS = (
    "'Noto Sans', 'Helvetica Neue', Arial, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'Noto Sans SC', "
    "'Geeza Pro', 'Noto Naskh Arabic', 'Noto Sans Arabic', sans-serif"
)
# Files that common systems carry; the first that holds every letter of a word draws it.
FONT_FILES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "PingFang.ttc",
    "msyh.ttc",
    "wqy-microhei.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoNaskhArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
)
# More cells than this are neither readable on paper nor quick to draw.
MAX_SIDE = 160
FONT_SIZE = 13


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in points."""

    weights: NDArray[np.float32]
    visible: NDArray[np.bool_]
    queries: list[str]
    keys: list[str]
    caption: str
    cell: float
    left: float
    top: float
    width: float
    height: float

    @property
    def every(self) -> int:
        """One label for so many cells, so that labels do not touch."""
        return max(1, int(np.ceil((FONT_SIZE + 1) / self.cell)))


def draw_svg(weights: Weights, layer: int | None, head: int | None, caption: str) -> str:
    """The heat map of one view as an SVG document."""
    plan = _layout(weights, layer, head, caption)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {plan.width:.0f} {plan.height:.0f}" '
            f'width="{plan.width:.0f}" height="{plan.height:.0f}" font-family="{FONTS}" font-size="{FONT_SIZE}">'
        ),
        f"<title>{_escape(plan.caption)}</title>",
        (
            '<defs><pattern id="masked" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<rect width="5" height="5" fill="#fff"/><rect width="1.4" height="5" fill="{HATCH}"/></pattern></defs>'
        ),
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="20" fill="{SOFT}">{_escape(plan.caption)}</text>',
    ]
    size = f'width="{plan.cell:g}" height="{plan.cell:g}"'
    for row, column in np.ndindex(plan.weights.shape):
        x, y = plan.left + column * plan.cell, plan.top + row * plan.cell
        if not plan.visible[row, column]:
            parts.append(f'<rect x="{x:g}" y="{y:g}" {size} fill="url(#masked)"/>')
        elif plan.weights[row, column] >= 0.002:
            color = "#{:02x}{:02x}{:02x}".format(*_color(float(plan.weights[row, column])))
            parts.append(f'<rect x="{x:g}" y="{y:g}" {size} fill="{color}"/>')
    parts += _svg_labels(plan)
    parts.append(
        f'<rect x="{plan.left:g}" y="{plan.top:g}" width="{plan.cell * len(plan.keys):g}" '
        f'height="{plan.cell * len(plan.queries):g}" fill="none" stroke="{SOFT}"/>'
    )
    return "\n".join([*parts, "</svg>\n"])


def draw_png(weights: Weights, layer: int | None, head: int | None, caption: str) -> bytes:
    """The heat map of one view as a PNG image of twice the SVG's resolution."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise RegardError(
            "a .png needs Pillow, which is not installed: expected `pip install pillow`; .svg and .html need nothing"
        ) from error
    plan, zoom = _layout(weights, layer, head, caption), 2
    image = Image.new("RGB", (int(plan.width * zoom), int(plan.height * zoom)), "white")
    draw = ImageDraw.Draw(image)
    for row, column in np.ndindex(plan.weights.shape):
        x, y = (plan.left + column * plan.cell) * zoom, (plan.top + row * plan.cell) * zoom
        corner = (x + plan.cell * zoom - 1, y + plan.cell * zoom - 1)
        if plan.visible[row, column]:
            draw.rectangle([(x, y), corner], fill=_color(float(plan.weights[row, column])))
        else:
            draw.rectangle([(x, y), corner], fill="white")
            draw.line([(x, corner[1]), (corner[0], y)], fill=HATCH, width=zoom)
    draw.rectangle(
        [
            (plan.left * zoom, plan.top * zoom),
            (
                (plan.left + plan.cell * len(plan.keys)) * zoom,
                (plan.top + plan.cell * len(plan.queries)) * zoom,
            ),
        ],
        outline=SOFT,
    )
    _png_labels(image, draw, plan, zoom)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _layout(weights: Weights, layer: int | None, head: int | None, caption: str) -> Layout:
    pooled = weights.pooled(MAX_SIDE, MAX_SIDE)
    if pooled is not weights:
        caption += f" · pooled {pooled.query_group} × {pooled.key_group}"
    values, visible = pooled.average(layer, head)
    cell = float(min(28, max(4, 900 // max(1, len(pooled.queries), len(pooled.keys)))))
    left = 14 + _widest(pooled.queries)
    top = 38 + _widest(pooled.keys)
    width = max(left + cell * len(pooled.keys) + 14, 24 + _text_width(caption))
    return Layout(
        values,
        visible,
        [_clip(word) for word in pooled.queries],
        [_clip(word) for word in pooled.keys],
        caption,
        cell,
        left,
        top,
        width,
        top + cell * len(pooled.queries) + 14,
    )


def _svg_labels(plan: Layout) -> list[str]:
    labels = []
    for row in range(0, len(plan.queries), plan.every):
        y = plan.top + (row + 0.5) * plan.cell
        labels.append(
            f'<text x="{plan.left - 8:g}" y="{y:g}" text-anchor="end" dominant-baseline="central" fill="{INK}" '
            f'unicode-bidi="isolate">{_escape(plan.queries[row])}</text>'
        )
    for column in range(0, len(plan.keys), plan.every):
        x = plan.left + (column + 0.5) * plan.cell
        labels.append(
            f'<text transform="translate({x:g} {plan.top - 8:g}) rotate(-90)" dominant-baseline="central" fill="{INK}" '
            f'unicode-bidi="isolate">{_escape(plan.keys[column])}</text>'
        )
    return labels


def _png_labels(image: Any, draw: Any, plan: Layout, zoom: int) -> None:
    from PIL import Image

    fonts = _Fonts(FONT_SIZE * zoom)
    draw.text((8 * zoom, 8 * zoom), plan.caption, fill=SOFT, font=fonts.for_text(plan.caption))
    for row in range(0, len(plan.queries), plan.every):
        spot = ((plan.left - 8) * zoom, (plan.top + (row + 0.5) * plan.cell) * zoom)
        draw.text(spot, plan.queries[row], fill=INK, font=fonts.for_text(plan.queries[row]), anchor="rm")
    for column in range(0, len(plan.keys), plan.every):
        word = plan.keys[column]
        font = fonts.for_text(word)
        _, upper, right, lower = font.getbbox(word)
        tile = Image.new("RGB", (max(1, int(right) + 1), max(1, int(lower) + 1)), "white")
        draw_tile = type(draw)(tile)
        draw_tile.text((0, 0), word, fill=INK, font=font)
        turned = tile.crop((0, int(upper), tile.width, tile.height)).rotate(90, expand=True)
        x = (plan.left + (column + 0.5) * plan.cell) * zoom - turned.width / 2
        image.paste(turned, (int(x), int((plan.top - 8) * zoom - turned.height)))


class _Fonts:
    """Finds a font on this machine that holds a word's letters."""

    def __init__(self, size: int) -> None:
        from PIL import ImageFont

        self.fonts: list[Any] = []
        for name in FONT_FILES:
            try:
                self.fonts.append(ImageFont.truetype(name, size))
            except OSError:
                continue
        self.fonts.append(ImageFont.load_default(size))

    def for_text(self, text: str) -> Any:
        for font in self.fonts:
            absent = bytes(font.getmask("\uffff"))
            if all(bytes(font.getmask(letter)) != absent for letter in set(text) if not letter.isspace()):
                return font
        raise RegardError(
            f"no font on this machine draws {text!r}: a .png draws letters itself; save as .svg or .html, "
            "which use the viewer's fonts, or install a font such as Noto Sans"
        )


def _color(weight: float) -> tuple[int, int, int]:
    position = min(1.0, max(0.0, weight)) ** 0.6
    low, high, share = (LOW, MIDDLE, position * 2) if position < 0.5 else (MIDDLE, HIGH, position * 2 - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _text_width(text: str) -> float:
    """A generous estimate: the fonts are the viewer's."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return FONT_SIZE * (wide + 0.62 * (len(text) - wide))


def _widest(words: list[str]) -> float:
    return max((_text_width(_clip(word)) for word in words), default=0.0)


def _clip(word: str) -> str:
    word = word.replace("\n", "⏎")
    return word if len(word) <= 24 else word[:23] + "…"


def _escape(text: str) -> str:
    """Text for XML, without the control characters that XML has no way to write."""
    return html.escape("".join(letter if letter.isprintable() else " " for letter in text))
