"""`AttentionPicture`: weights and words in, one file out."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from regard._errors import RegardError
from regard.pictures._drawing import draw_png, draw_svg
from regard.pictures._endings import ending
from regard.pictures._weights import Weights, check_weights

# A page of four million weights has about 5 MB and opens at once.
PAGE_WEIGHTS = 4_000_000
PAGE_WORDS = 1_000


class AttentionPicture:
    """Attention weights with their words, to be saved as a page, a vector figure or an image.

    Arguments:
        weights: (layers, heads, queries, keys), (heads, queries, keys) or (queries, keys); each row sums to one.
        queries: the readable words or pieces that look, one for each row.
        keys: the words or pieces that are looked at, one for each column.
        mask: boolean, broadcastable to `weights`; True where a query may attend. Forbidden pairs are drawn apart from zeros.
        title: the heading of the page.
        query_name: what the queries are, for instance "target".
        key_name: what the keys are, for instance "source".
        layers: names of the layers; default 1, 2, ...
        heads: names of the heads; default 1, 2, ...
        partial: rows may sum to less than one (attention sinks, or a part of the keys).

    Raises:
        ShapeError: weights, words, names and mask do not fit together.
        RegardError: weights that no softmax gives.

    >>> picture = AttentionPicture([[0.9, 0.1], [0.2, 0.8]], ["一只", "狗"], ["A", "dog"])
    >>> picture.save("dog.html").name
    'dog.html'
    """

    def __init__(
        self,
        weights: Any,
        queries: Sequence[str],
        keys: Sequence[str],
        *,
        mask: Any = None,
        title: str = "Attention",
        query_name: str = "queries",
        key_name: str = "keys",
        layers: Sequence[str] | None = None,
        heads: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        self.weights = check_weights(weights, queries, keys, mask=mask, partial=partial)
        self.title = title
        self.query_name = query_name
        self.key_name = key_name
        layer_count, head_count = self.weights.values.shape[:2]
        self.layers = _names("layers", layers, layer_count)
        self.heads = _names("heads", heads, head_count)

    def save(self, path: str | Path, *, layer: int | None = None, head: int | None = None) -> Path:
        """Write one self-contained file; its name ends in `.html`, `.svg` or `.png` (which needs Pillow).

        Arguments:
            path: where to write.
            layer: number of the layer to show, from 0; default the average. A page opens on it, and can show all.
            head: number of the head to show, from 0; default the average.

        Returns:
            The path that was written.

        Raises:
            RegardError: an unknown ending, layer or head.
        """
        path = Path(path)
        writers: dict[str, Callable[..., str | bytes]] = {
            ".html": self.html,
            ".svg": self.svg,
            ".png": self.png,
        }
        content = writers[ending(path)](layer=layer, head=head)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
        return path

    def html(self, *, layer: int | None = None, head: int | None = None) -> str:
        """The page: all layers and heads, with neither network nor libraries."""
        self._check_view(layer, head)
        shown = _pooled_for_page(self.weights)
        data = {
            "title": self.title,
            "queryName": self.query_name,
            "keyName": self.key_name,
            "layers": self.layers,
            "heads": self.heads,
            "queries": shown.queries,
            "keys": shown.keys,
            "queryGroup": shown.query_group,
            "keyGroup": shown.key_group,
            "start": [
                len(self.layers) if layer is None else layer,
                len(self.heads) if head is None else head,
            ],
            "weights": shown.encoded(),
        }
        return _fill(
            _asset("page.html"),
            title=html.escape(self.title),
            style=_asset("page.css"),
            data=_json_for_script(data),
            script=_asset("page.js"),
        )

    def svg(self, *, layer: int | None = None, head: int | None = None) -> str:
        """A vector figure of one layer and head, or of the average."""
        self._check_view(layer, head)
        return draw_svg(self.weights, layer, head, self._caption(layer, head))

    def png(self, *, layer: int | None = None, head: int | None = None) -> bytes:
        """The same figure as an image."""
        self._check_view(layer, head)
        return draw_png(self.weights, layer, head, self._caption(layer, head))

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own."""
        page = html.escape(self.html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:720px;border:0" sandbox="allow-scripts"></iframe>'

    def _caption(self, layer: int | None, head: int | None) -> str:
        parts = [self.title]
        for kind, number, names in (("layer", layer, self.layers), ("head", head, self.heads)):
            if len(names) > 1:
                parts.append(
                    f"mean of {len(names)} {kind}s" if number is None else _titled(names[number], kind)
                )
        return " · ".join(parts)

    def _check_view(self, layer: int | None, head: int | None) -> None:
        for name, number, count in (("layer", layer, len(self.layers)), ("head", head, len(self.heads))):
            if number is not None and not 0 <= number < count:
                raise RegardError(
                    f"no such {name}: expected a number from 0 to {count - 1}, received {number}"
                )


def attention_page(weights: Any, queries: Sequence[str], keys: Sequence[str], **options: Any) -> str:
    """The HTML page of `AttentionPicture(weights, queries, keys, **options)` as text."""
    return AttentionPicture(weights, queries, keys, **options).html()


def _titled(name: str, kind: str) -> str:
    """A number with what it counts; a name as it is."""
    return f"{kind} {name}" if name.isdigit() else name


def _names(kind: str, names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [str(number) for number in range(1, count + 1)]
    if len(names) != count:
        raise RegardError(
            f"names of {kind} do not fit the weights: expected {count} names, received {len(names)}"
        )
    return [str(name) for name in names]


def _pooled_for_page(weights: Weights) -> Weights:
    layers, heads, queries, keys = weights.values.shape
    side = math.isqrt(PAGE_WEIGHTS // max(1, layers * heads))
    if queries * keys <= side * side:  # a long thin picture may stay exact
        return weights.pooled(PAGE_WORDS, PAGE_WORDS)
    return weights.pooled(min(PAGE_WORDS, side), min(PAGE_WORDS, side))


def _asset(name: str) -> str:
    return files("regard.pictures").joinpath(name).read_text(encoding="utf-8")


def _fill(template: str, **parts: str) -> str:
    """The template with each `{{name}}` replaced, once and in one pass: what a part holds is never a mark."""
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _json_for_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    escapes: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    return text.translate(str.maketrans(escapes))
