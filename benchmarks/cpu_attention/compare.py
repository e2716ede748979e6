"""One work item: prepare everybody, check that all compute the same, time them side by side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor

import regard
from cpu_attention import ceilings
from cpu_attention.clock import Pace, interleave
from cpu_attention.contenders import CONTENDERS, arguments
from cpu_attention.items import LIMITED_BY_READING, PEERS, Item
from cpu_attention.problem import Prepared, Problem, make_problem

# A narrow peer's own error is a few units in the last place.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4 * 2**-7, torch.float16: 4 * 2**-10}
Field = dict[str, Prepared]  # contenders that take part in a pass, by name


@dataclass(frozen=True)
class Row:
    """One item in one pass: seconds a call by contender, and the share of the machine's ceiling that ours reaches."""

    item: Item
    what: str  # a pass: "forward" or "f+b"
    rounds: int
    seconds: dict[str, float]  # the median over rounds
    fastest: dict[str, float]
    ceiling: float  # GFLOP/s, or GB/s where reading is the limit
    share: float
    refusals: dict[str, str] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time by ours."""
        return {name: time / self.seconds["ours"] for name, time in self.seconds.items() if name != "ours"}

    @property
    def is_wrong(self) -> bool:
        """Whether somebody computed something else than ours."""
        return any(reason.startswith("differs") for reason in self.refusals.values())


def compare(item: Item, pace: Pace, backend: str | None = None, dtype: str = "float32") -> list[Row]:
    """The rows of an item, one for each pass."""
    problem = make_problem(item, backend, dtype)
    exact = replace(problem, item=replace(item, dropout=0.0))  # random numbers cannot agree
    names = ("ours", *PEERS[item.group])
    refusals: dict[str, str] = {}
    fields = prepare(problem, names, refusals)
    checked = prepare(exact, names, refusals) if item.dropout else fields
    rows = []
    for what in item.passes:
        refused = {**refusals, **disagreements(checked, what)}
        running = {name: contender for name, contender in fields.items() if name not in refused}
        rows.append(_row(problem, what, running, refused, pace))
    return rows


def prepare(problem: Problem, names: tuple[str, ...], refusals: dict[str, str]) -> Field:
    """Those of the contenders that take the problem; `refusals` is told of the others."""
    ready = {}
    for name in names:
        try:
            contender = CONTENDERS[name](problem)
        except RuntimeError as error:
            refusals[name] = _first_line(error)
            continue
        if contender is not None:
            ready[name] = contender
    return ready


def disagreements(contenders: Field, what: str) -> dict[str, str]:
    """Who raises in a pass or does not compute what ours does, and why; run once, all are warm."""
    expected = _results(contenders["ours"], what)
    reasons = {}
    for name, contender in contenders.items():
        if name == "ours":
            continue
        try:
            received = _results(contender, what)
        except RuntimeError as error:
            reasons[name] = _first_line(error)
            continue
        worst = max(_difference(*pair) for pair in zip(received, expected, strict=True))
        if not worst <= TOLERANCE[expected[0].dtype]:
            reasons[name] = f"differs from ours by {worst:.1e}"
    return reasons


def _results(contender: Prepared, what: str) -> list[Tensor]:
    """Output or gradients, all brought to the packed form."""
    results = contender.call(what)()
    if what == "forward":
        return [contender.pack(results)]
    gradients = results
    return [*(contender.pack(gradient) for gradient in gradients[:3]), *gradients[3:]]


def _difference(received: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number where that is above 1."""
    received, expected = received.float(), expected.float()
    return float((received - expected).abs().max() / expected.abs().max().clamp(min=1))


def _row(problem: Problem, what: str, running: Field, refused: dict[str, str], pace: Pace) -> Row:
    item = problem.item
    calls = {name: contender.call(what) for name, contender in running.items()}
    reading = item.group in LIMITED_BY_READING
    probe = ceilings.reading if reading else ceilings.fused_multiply_add
    seconds, ceiling = interleave(calls, probe, pace)
    middle = {name: median(samples) for name, samples in seconds.items()}
    work = (
        problem.key.nbytes + problem.value.nbytes if reading else operations(problem, running["ours"], what)
    )
    return Row(
        item=item,
        what=what,
        rounds=len(seconds["ours"]),
        seconds=middle,
        fastest={name: min(samples) for name, samples in seconds.items()},
        ceiling=ceiling,
        share=work / middle["ours"] / 1e9 / ceiling,
        refusals=refused,
    )


def operations(problem: Problem, ours: Prepared, what: str) -> int:
    """Arithmetic of the kept pairs: two products forward, five backward, two operations a multiply-add."""
    query, key, value = ours.inputs[:3]
    forward = regard.explain(query, key, value, **arguments(problem)).flops
    return forward if what == "forward" else round(3.5 * forward)


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]
