"""Tables in Markdown and figures in SVG of what was measured."""

from __future__ import annotations

import html
from collections.abc import Sequence
from statistics import mean

from distance.labeller import KINDS
from distance.points import Estimate, Point, difference, estimate

BUCKETS = {"roles": "words to the predicate", "translation": "words of the source", "listops": "symbols"}
COUNTED = {"roles": "arguments"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 520, 320, 52, 34, 12, 44
COLORS = {"attention": "#0b3c68", "recurrent": "#c4572a"}
INK, SOFT, LINE = "#23262b", "#747a83", "#dedad3"


def table(points: Sequence[Point]) -> str:
    """One experiment: both kinds with 95 % intervals at each bucket, and how far attention is ahead."""
    name, score = points[0].experiment, points[0].score
    rows = [
        f"| {bucket_name(name)} | {COUNTED.get(name, 'examples')} | {' | '.join(KINDS)} | attention ahead by |",
        "| --: | --: | --- | --- | --- |",
    ]
    for bucket in buckets(points):
        sides = [_chosen(points, kind, bucket) for kind in KINDS]
        cells = [_cell(estimate(side)) if side else "" for side in sides]
        ahead = difference(sides[1], sides[0]) if all(sides) else None
        count = max(_count(point) for side in sides for point in side)
        rows.append(f"| {bucket} | {count} | {' | '.join(cells)} | {_cell(ahead, '+') if ahead else ''} |")
    facts = "; ".join(filter(None, (_facts(points, kind) for kind in KINDS)))
    return "\n".join([f"### {name} ({score}, 0 to 100)", "", *rows, "", facts, ""])


def figure(points: Sequence[Point]) -> str:
    """One experiment as an SVG document: a line for each kind, bars for the 95 % intervals."""
    name, places = points[0].experiment, buckets(points)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(places))
    x_of = {bucket: LEFT + (number + 0.5) * step for number, bucket in enumerate(places)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<title>{html.escape(name)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    values = range(0, 101, 20)
    parts += [f'<path d="M{LEFT} {_y(value):g}H{WIDTH - RIGHT}" stroke="{LINE}"/>' for value in values]
    parts += [_text(LEFT - 8, _y(value) + 4, str(value), SOFT, "end") for value in values]
    parts += [_text(x, HEIGHT - BOTTOM + 18, str(bucket), SOFT) for bucket, x in x_of.items()]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, bucket_name(name), SOFT))
    for number, kind in enumerate(KINDS):
        parts += _series(points, kind, x_of, 4 * number - 2)
        parts.append(_text(LEFT + 60 + 90 * number, 20, kind, COLORS[kind]))
    parts.append(_text(WIDTH - RIGHT, 20, f"{name} ({points[0].score})", INK, "end"))
    return "\n".join([*parts, "</svg>\n"])


def buckets(points: Sequence[Point]) -> list[int]:
    """Those at which something was to be scored, in order."""
    return sorted({point.bucket for point in points if any(map(any, point.rows))})


def bucket_name(experiment: str) -> str:
    """What the buckets of an experiment are."""
    return BUCKETS.get(experiment, "gap in tokens")


def _series(points: Sequence[Point], kind: str, x_of: dict[int, float], shift: float) -> list[str]:
    found = {bucket: _chosen(points, kind, bucket) for bucket in x_of}
    estimates = {bucket: estimate(chosen) for bucket, chosen in found.items() if chosen}
    if not estimates:
        return []
    path = "L".join(f"{x_of[bucket] + shift:g} {_y(one.value):g}" for bucket, one in estimates.items())
    parts = [f'<path d="M{path}" fill="none" stroke="{COLORS[kind]}" stroke-width="1.8"/>']
    for bucket, one in estimates.items():
        x = x_of[bucket] + shift
        parts.append(
            f'<path d="M{x:g} {_y(one.low):g}V{_y(one.high):g}" stroke="{COLORS[kind]}"/>'
            f'<circle cx="{x:g}" cy="{_y(one.value):g}" r="3" fill="{COLORS[kind]}"/>'
        )
    return parts


def _y(value: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / 100), 2)


def _text(x: float, y: float, text: str, color: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _chosen(points: Sequence[Point], kind: str, bucket: int) -> list[Point]:
    return [point for point in points if point.kind == kind and point.bucket == bucket]


def _count(point: Point) -> int:
    """The arguments that there are to find, of other questions the examples: a predicate without an argument so far away is none."""
    return point.facts.get("arguments", sum(map(any, point.rows)))


def _cell(one: Estimate, sign: str = "") -> str:
    return f"{one.value:{sign}.1f} [{one.low:{sign}.1f}, {one.high:{sign}.1f}]"


def _facts(points: Sequence[Point], kind: str) -> str:
    runs = {point.seed: point.facts for point in points if point.kind == kind}
    if not runs:
        return ""
    text = f"{kind}: {len(runs)} seeds"
    if all("updates" in facts for facts in runs.values()):
        average = {
            name: mean(facts[name] for facts in runs.values())
            for name in ("updates", "seconds", "parameters")
        }
        text += f", {average['parameters']:,.0f} parameters, {average['updates']:,.0f} updates in {average['seconds']:,.0f} s"
    return text
