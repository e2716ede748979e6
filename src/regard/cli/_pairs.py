"""Which scores of two systems are counted alike, and how they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.metrics.significance import Comparison
    from regard.metrics.translation import Score

NOTE = "; "  # what a signature says behind it is of one system alone
Pair = tuple[Any, Any]


def matched(
    first: Sequence[Score], second: Sequence[Score]
) -> tuple[list[Pair], dict[str, list[str | None]]]:
    """The scores that both have with one signature, and the one that decides; of all others both signatures, None where there is none."""
    ours, theirs = (
        {one.name: replace(one, signature=one.signature.split(NOTE)[0]) for one in scores}
        for scores in (first, second)
    )
    pairs: list[Pair] = []
    apart: dict[str, list[str | None]] = {}
    for name in dict.fromkeys([*ours, *theirs]):
        pair = ours.get(name), theirs.get(name)
        signatures = [None if one is None else one.signature for one in pair]
        # Where the score that decides is counted in two ways, comparing it says what to do.
        if signatures[0] == signatures[1] or name == first[0].name:
            pairs.append(pair)
        else:
            apart[name] = signatures
    return pairs, apart


def differ(one: Any, other: Any, examples: int) -> Comparison:
    """How two systems differ in a score: with interval and p, NaN where the score is no measurement, of which none would hold."""
    from regard.metrics.significance import Comparison, compare

    if hasattr(one, "statistics"):
        return compare(one, other)
    unknown: dict[str, Any] = dict.fromkeys(("low", "high", "p", "wins"), math.nan)
    return Comparison(
        name=one.name,
        first=one.value,
        second=other.value,
        difference=other.value - one.value,
        test="none",
        examples=examples,
        less_is_better=one.less_is_better,
        **unknown,
    )


def interval(found: Comparison, digits: int) -> str:
    """A difference and the bounds of its interval, for people."""
    form = f"+.{digits}f"
    bounds = "no interval" if math.isnan(found.low) else f"[{found.low:{form}}, {found.high:{form}}]"
    return f"{found.difference:{form}} {bounds}"


def plain(found: Comparison) -> dict[str, Any]:
    """A comparison in plain values, None for what is not known."""
    values = vars(found).items()
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values}
