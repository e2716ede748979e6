"""What `regard.check` found, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass

Token = tuple[int, int | None]
"""A sequence and a place in it; without a place the sequence as a whole."""


@dataclass(frozen=True)
class Leak:
    """A token that sees what it must not.

    Attributes:
        kind: what it sees: "sequence" (another sequence), "future" or "padding".
        token: whose output changed.
        source: which token was changed; None where several had to change together.
        change: by how much, the largest over the output's entries; inf where it became NaN.
        by: how it was found: by another "value", by "nan", or by a "gradient", whose largest entry `change` then is.
        touched: how many tokens changed with it, this one too.
    """

    kind: str
    token: Token
    source: Token | None
    change: float
    by: str
    touched: int

    def __str__(self) -> str:
        seen = f"several tokens of the {self.kind}" if self.source is None else _named(self.source)
        seen += ", which is padding" if self.kind == "padding" and self.source is not None else ""
        how = {
            "value": f"its output changes by {self.change:.3g} with it",
            "nan": "NaN there reaches its output",
            "gradient": f"its output has a gradient of {self.change:.3g} there",
        }
        more = f"; {self.touched:,} outputs in all" if self.touched > 1 else ""
        return f"{self.kind}: {_named(self.token)} sees {seen}: {how[self.by]}{more}"


@dataclass(frozen=True)
class Leaks:
    """The report of `regard.check`; as text it is what to read.

    Attributes:
        found: the leaks, at most three of a kind.
        checked: the kinds that were looked for.
        skipped: what was not looked for, and why.
        calls: how often the model was called.
    """

    found: tuple[Leak, ...]
    checked: tuple[str, ...]
    skipped: dict[str, str]
    calls: int

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    def __str__(self) -> str:
        begin = f"{len(self.found)} leak(s)" if self.found else "no leak"
        lines = [f"{begin} in {self.calls} calls; looked for: {', '.join(self.checked)}"]
        lines += [f"  {leak}" for leak in self.found]
        return "\n".join(
            [*lines, *(f"  not looked for: {name}, {why}" for name, why in self.skipped.items())]
        )


def _named(token: Token) -> str:
    sequence, place = token
    return f"sequence {sequence}" if place is None else f"token {place} of sequence {sequence}"
