"""Forward-mode differentiation: how the output moves when the inputs move."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.backends.torch.scores import (
    Inputs,
    Scores,
    bias_places,
    denominator,
    finite_lse,
    heads_first,
    score,
    selected,
)
from regard.backends.torch.tiles import Block, Tile, blocks

Tangents = tuple[Tensor | None, ...]


def tangent(inputs: Inputs, out: Tensor, lse: Tensor, tangents: Tangents) -> tuple[Tensor, Tensor]:
    """Derivatives of (out, lse) along tangents of query, key, value, bias and sinks, any of them None."""
    *along, along_sinks = tangents
    moved_out = torch.zeros_like(out, dtype=inputs.precision)
    shift = torch.zeros_like(lse)
    total = denominator(inputs, lse)
    for block in blocks(inputs.plan, inputs.query.device):
        _block(inputs, block, total, tuple(along), moved_out, shift)
    moved_lse = shift * torch.exp(total - finite_lse(lse))
    if along_sinks is not None and inputs.sinks is not None:
        share = torch.exp(inputs.sinks.to(total.dtype) - total)
        shift = shift + share * along_sinks.to(inputs.precision)
    return (moved_out - out.to(inputs.precision) * shift.unsqueeze(-1)).to(out.dtype), moved_lse


def _block(
    inputs: Inputs, block: Block, total: Tensor, along: Tangents, moved_out: Tensor, shift: Tensor
) -> None:
    """Write `sum p ds v + p dv` and `sum p ds` of the block's rows, where ds is how its scores move."""
    rows = block.rows
    query = inputs.rows(rows, inputs.query)
    along_query = None if along[0] is None else inputs.rows(rows, along[0])
    block_total = heads_first(rows.gather(total))
    change = query.new_zeros(*query.shape[:-1], moved_out.shape[-1])
    weight = torch.zeros_like(block_total)
    for tile in block.tiles:
        key, value = inputs.chunk(tile, inputs.key), inputs.chunk(tile, inputs.value)
        some = len(key)
        scores = score(inputs, tile, query[:some], key)
        weights = scores.weights(block_total[: tile.blocks])
        moving = _moving(inputs, tile, scores, (query[:some], key), along_query, along)
        flow = selected(weights * moving, scores.allowed)
        weight = torch.cat([weight[: tile.blocks] + flow.sum(-1, keepdim=True), weight[tile.blocks :]])
        kept = inputs.kept(tile)
        if kept is not None:
            flow, weights = flow * kept, weights * kept
        part = inputs.over_keys(flow, value, scores.allowed)
        if along[2] is not None:
            part = part + inputs.over_keys(weights, inputs.chunk(tile, along[2]), scores.allowed)
        change = torch.cat([change[:some] + part, change[some:]])
    rows.put(moved_out, inputs.join(rows, change))
    rows.put(shift, weight.squeeze(-1).transpose(1, 2))


def _moving(
    inputs: Inputs,
    tile: Tile,
    scores: Scores,
    arrays: tuple[Tensor, Tensor],
    along_query: Tensor | None,
    along: Tangents,
) -> Tensor:
    query, key = arrays
    moving = torch.zeros_like(scores.values)
    if along_query is not None:
        moving = moving + (along_query[: len(key)] @ key.mT).view_as(moving)
    if along[1] is not None:
        moving = moving + (query @ inputs.chunk(tile, along[1]).mT).view_as(moving)
    moving = moving * inputs.plan.scale
    if scores.slope is not None:
        moving = moving * scores.slope
    if along[3] is not None:
        moving = moving + along[3].to(moving.dtype)[bias_places(tile, along[3])[0]]
    return moving
