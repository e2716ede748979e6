"""The forward pass: a running softmax over the key chunks of every block of queries (Dao et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.backends.torch.scores import Inputs, score
from regard.backends.torch.tiles import Block, Tile, blocks


def forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output (T, H, Dv) in the query's dtype and the lse (T, H) in the sums' precision."""
    plan, query = inputs.plan, inputs.query
    out = query.new_zeros(plan.total_queries, plan.heads, inputs.value.shape[-1])
    lse = query.new_full((plan.total_queries, plan.heads), -torch.inf, dtype=inputs.precision)
    for block in blocks(plan, query.device):
        context, block_lse = _attend(inputs, block)
        block.rows.put(out, inputs.join(block.rows, context).to(out.dtype))
        block.rows.put(lse, block_lse.squeeze(-1).transpose(1, 2))
    return out, lse


def _attend(inputs: Inputs, block: Block) -> tuple[Tensor, Tensor]:
    """One block's output by head and its lse (G, H, Q, 1)."""
    query = inputs.rows(block.rows, inputs.query)
    first, *rest = block.tiles
    running = _tile(inputs, first, query, None)
    for tile in rest:
        running = running.joined(_tile(inputs, tile, query, running), inputs)
    lse = running.peak + torch.log(running.mass)
    share = 1 / running.mass.masked_fill(running.mass == 0, 1)
    if inputs.sinks is not None:
        kept = torch.sigmoid(lse - inputs.sinks.to(lse.dtype)[:, None, None])
        share = share * kept.masked_fill(lse == -torch.inf, 0)
    return running.context * inputs.flat(share), lse


class _Running:
    """Of the first blocks of a group: a bound of the scores, the sum of `exp(score - peak)`, and of that times value."""

    def __init__(self, peak: Tensor, mass: Tensor, context: Tensor) -> None:
        self.peak, self.mass, self.context = peak, mass, context

    def joined(self, part: _Running, inputs: Inputs) -> _Running:
        """With a chunk more, which has the higher peaks; blocks behind its last one stay as they are."""
        some = len(part.peak)
        fade = torch.exp(self.peak[:some] - part.peak)
        rows = len(part.context)
        context = self.context[:rows] * inputs.flat(fade) + part.context
        return _Running(
            torch.cat([part.peak, self.peak[some:]]),
            torch.cat([self.mass[:some] * fade + part.mass, self.mass[some:]]),
            torch.cat([context, self.context[rows:]]),
        )


def _tile(inputs: Inputs, tile: Tile, query: Tensor, running: _Running | None) -> _Running:
    key, value = inputs.chunk(tile, inputs.key), inputs.chunk(tile, inputs.value)
    scores = score(inputs, tile, query[: len(key)], key)
    values = scores.values
    if scores.allowed is not None:
        values = values.masked_fill(~scores.allowed, -torch.inf)
    peak = values.amax(-1, keepdim=True)
    # The peak of a row that sees nothing is finite, so that differences of peaks are numbers.
    peak = peak.clamp(min=torch.finfo(peak.dtype).min)
    if running is not None:
        peak = torch.maximum(peak, running.peak[: tile.blocks])
    weights = torch.exp(values - peak)
    mass = weights.sum(-1, keepdim=True)
    kept = inputs.kept(tile)
    return _Running(
        peak, mass, inputs.over_keys(weights if kept is None else weights * kept, value, scores.allowed)
    )
