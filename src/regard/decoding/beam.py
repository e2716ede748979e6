"""Greedy and beam search over packed hypotheses: finished sentences leave the batch, sources are read in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stepper(Protocol):
    """A model in the middle of writing: it knows the sources, and what each live hypothesis has so far."""

    def step(self, tokens: Tensor, sources: Tensor) -> Tensor:
        """Log-probabilities (M, vocabulary) of what follows `tokens` (M,) of the M hypotheses of `sources` (M,)."""

    def keep(self, hypotheses: Tensor) -> None:
        """Go on with these hypotheses (M',) only; one may be named several times."""


@dataclass(frozen=True)
class Hypothesis:
    """Token ids without begin and end, and the sum of their log-probabilities with the end."""

    tokens: tuple[int, ...]
    log_probability: float

    def score(self, penalty: float) -> float:
        """The log-probability divided by `length ** penalty`, the end counted."""
        return self.log_probability / (len(self.tokens) + 1) ** penalty


def search(
    stepper: Stepper,
    limits: Sequence[int],
    *,
    beam: int,
    bos: int,
    eos: int,
    penalty: float = 1.0,
    device: str = "cpu",
) -> list[list[Hypothesis]]:
    """Beam search: the likeliest ways to go on are kept at every step, by `log p / length ** penalty` in the end.

    A source is done when `beam` hypotheses are finished and its best live one, scored as if it ended now at no cost, is
    behind all of them; it leaves the batch at once. Greedy search is done with its first end. With a penalty above 0
    a live hypothesis might yet have overtaken them: the rule is a heuristic.

    Arguments:
        stepper: the model, with the sources encoded.
        limits: for each source, the most tokens to write, the end counted.
        beam: hypotheses kept for each source; 1 is greedy search.
        bos: id of the begin.
        eos: id of the end.
        penalty: exponent of the length by which scores are divided; 0 favors short outputs.
        device: where the stepper's tensors are.

    Returns:
        For each source its finished hypotheses, at most `beam`, by `Hypothesis.score(penalty)`, best first. There is at
        least one, unless the end has the probability 0 where the limit asks for it.

    Source: the stopping rule is that of `early_stopping=False` in transformers; for when it is not optimal see Huang et
    al. 2017, "When to Finish?".

    >>> class Stutter:
    ...     def step(self, tokens, sources):
    ...         return torch.tensor([0.0, 0.4, 0.6]).log().repeat(len(tokens), 1)
    ...     def keep(self, hypotheses):
    ...         pass
    >>> [one.tokens for one in search(Stutter(), [3], beam=2, bos=0, eos=1)[0]]
    [(2, 2), (2,)]
    """
    count = len(limits)
    finished: list[list[Hypothesis]] = [[] for _ in range(count)]
    live = torch.arange(count, device=device)  # sources still being written
    longest = torch.tensor(list(limits), device=device).clamp(min=1)
    tokens = torch.full((count, 1), bos, device=device)
    written = torch.empty(count, 1, 0, dtype=torch.int64, device=device)
    totals = torch.zeros(count, 1, device=device)
    while len(live):
        width = tokens.shape[1]
        log_p = stepper.step(tokens.reshape(-1), live.repeat_interleave(width)).view(len(live), width, -1)
        length = written.shape[2] + 1
        ending = length >= longest[live]
        if ending.any():
            log_p[ending] = _only(log_p[ending], eos)
        candidates = (totals.unsqueeze(-1) + log_p).flatten(1)
        best, place = candidates.topk(min(2 * beam, candidates.shape[1]), dim=1)
        parent, token = place // log_p.shape[2], place % log_p.shape[2]
        _collect(finished, live, written, parent, token, best, beam, eos)
        best = best.masked_fill(token == eos, -torch.inf)
        totals, chosen = best.topk(min(beam, best.shape[1]), dim=1)
        parent, tokens = parent.gather(1, chosen), token.gather(1, chosen)
        remaining = ~ending & _may_improve(
            finished, live, totals[:, 0] / (length + 1) ** penalty, beam, penalty
        )
        base = torch.arange(len(live), device=device)[:, None] * width
        stepper.keep((base + parent)[remaining].reshape(-1))
        written = torch.cat(
            [written.gather(1, parent[..., None].expand(-1, -1, length - 1)), tokens[..., None]], dim=2
        )
        live, tokens, totals, written = (
            live[remaining],
            tokens[remaining],
            totals[remaining],
            written[remaining],
        )
    return [sorted(found, key=lambda one: one.score(penalty), reverse=True)[:beam] for found in finished]


def _only(log_p: Tensor, token: int) -> Tensor:
    only = torch.full_like(log_p, -torch.inf)
    only[..., token] = log_p[..., token]
    return only


def _collect(
    finished: list[list[Hypothesis]],
    live: Tensor,
    written: Tensor,
    parent: Tensor,
    token: Tensor,
    best: Tensor,
    beam: int,
    eos: int,
) -> None:
    """Take the candidates that end among the best `beam` of their source."""
    ends = (token[:, :beam] == eos) & (best[:, :beam] > -torch.inf)
    for row, column in ends.nonzero().tolist():
        tokens = tuple(written[row, parent[row, column]].tolist())
        finished[live[row]].append(Hypothesis(tokens, float(best[row, column])))


def _may_improve(
    finished: list[list[Hypothesis]], live: Tensor, scores: Tensor, beam: int, penalty: float
) -> Tensor:
    """Whether the best live hypothesis of each source is not yet behind `beam` finished ones."""
    improving = []
    for source, score in zip(live.tolist(), scores.tolist(), strict=True):
        best = sorted((one.score(penalty) for one in finished[source]), reverse=True)[:beam]
        open_end = len(best) < beam or (beam > 1 and score > best[-1])
        improving.append(open_end and score > -torch.inf)
    return torch.tensor(improving, dtype=torch.bool, device=live.device)
