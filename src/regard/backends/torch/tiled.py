"""Exact attention by tiles in PyTorch's own operations: forward, backward and forward-mode, in memory O(T + S).

Every function takes flat arrays: query (T, H, D), key (S, J, D), value (S, J, Dv), bias (N, H, T, S) broadcastable,
sinks (H,). Sums run in float32, or float64 for float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard._plan import Plan
from regard.backends.torch.tiles import Block, Tile, blocks, by_head, by_row, product, rows_block


@dataclass(eq=False)
class Inputs:
    """The arrays of one call, whether all of them are finite, and what dropout needs."""

    plan: Plan
    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    sinks: Tensor | None
    seed: int | None
    finite: bool

    @classmethod
    def of(
        cls,
        plan: Plan,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        seed: int | None,
        *others: Tensor | None,
    ) -> Inputs:
        arrays = (query, key, value, *others)
        finite = all(math.isfinite(array.detach().sum()) for array in arrays if array is not None)
        return cls(plan, query, key, value, bias, sinks, seed, finite)

    @property
    def precision(self) -> torch.dtype:
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32


@dataclass(eq=False)
class Scores:
    """Scores (G, H, Q, K) of one tile, and how they came about."""

    values: Tensor
    allowed: Tensor | None
    slope: Tensor | None  # derivative of the soft cap at each pair


def forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output (T, H, Dv) in the query's dtype and the lse (T, H) in the sums' precision."""
    plan, query, value = inputs.plan, inputs.query, inputs.value
    out = query.new_zeros(plan.total_queries, plan.heads, value.shape[-1])
    lse = query.new_full((plan.total_queries, plan.heads), -torch.inf, dtype=inputs.precision)
    for block in blocks(plan, query.device):
        rows, block_lse = _attend(inputs, block)
        block.rows.put(out, rows.to(out.dtype))
        block.rows.put(lse, block_lse)
    return out, lse


def _attend(inputs: Inputs, block: Block) -> tuple[Tensor, Tensor]:
    plan = inputs.plan
    query = by_head(block.rows.gather(inputs.query).to(inputs.precision), plan.kv_heads)
    count, height = block.rows.index.shape
    top = total = context = None
    for tile in block.tiles:
        active = query[: tile.blocks * plan.kv_heads]
        key, value = _keys(inputs, tile)
        scores = _scores(inputs, tile, active, key)
        masked = scores.values if scores.allowed is None else scores.values.masked_fill(~scores.allowed, -torch.inf)
        peak = masked.amax(-1, keepdim=True)
        if top is not None:
            peak = torch.maximum(peak, top[: tile.blocks])
        floor = peak.masked_fill(peak == -torch.inf, 0)
        weights = torch.exp(masked - floor)
        mass = weights.sum(-1, keepdim=True)
        if plan.dropout_p:
            weights = weights * _kept(inputs, tile)
        part = _product(weights, value, scores.allowed, plan, inputs.finite)
        if top is None:
            top, total, context = peak, mass, part
            continue
        fade = torch.exp(top[: tile.blocks] - floor)
        joined = context[: tile.blocks * plan.kv_heads] * _flat(fade, plan) + part
        top = torch.cat([peak, top[tile.blocks :]])
        total = torch.cat([total[: tile.blocks] * fade + mass, total[tile.blocks :]])
        context = torch.cat([joined, context[tile.blocks * plan.kv_heads :]])
    lse = top.masked_fill(top == -torch.inf, 0) + torch.log(total)
    share = 1 / total.masked_fill(total == 0, 1)
    if inputs.sinks is not None:
        share = share * torch.sigmoid(lse - inputs.sinks.to(lse.dtype)[:, None, None])
    out = by_row(context * _flat(share, plan), count, plan.kv_heads, height)
    return out, lse.squeeze(-1).transpose(1, 2)


def backward(
    inputs: Inputs, out: Tensor, lse: Tensor, grad_out: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value, bias and sinks, each in its own dtype; itself differentiable."""
    plan, precision = inputs.plan, inputs.precision
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grad_query = torch.zeros_like(inputs.query, dtype=precision, memory_format=torch.contiguous_format)
    grad_key = torch.zeros_like(inputs.key, dtype=precision, memory_format=torch.contiguous_format)
    grad_value = torch.zeros_like(inputs.value, dtype=precision, memory_format=torch.contiguous_format)
    grad_bias = None if inputs.bias is None else torch.zeros_like(inputs.bias, dtype=precision)
    delta = (grad_out.to(precision) * out.to(precision)).sum(-1)
    total = _denominator(inputs, lse)
    for block in blocks(plan, inputs.query.device):
        rows = block.rows
        query = by_head(rows.gather(inputs.query).to(precision), plan.kv_heads)
        grad_rows = by_head(rows.gather(grad_out).to(precision), plan.kv_heads)
        block_delta, block_total = _heads_first(rows.gather(delta)), _heads_first(rows.gather(total))
        slopes = None if grad_lse is None else _heads_first(rows.gather(grad_lse))
        fade = None if grad_lse is None else torch.exp(block_total - _heads_first(rows.gather(_safe(lse))))
        collected = torch.zeros_like(query)
        for tile in block.tiles:
            some = tile.blocks * plan.kv_heads
            key, value = _keys(inputs, tile)
            scores = _scores(inputs, tile, query[:some], key)
            weights = _weights(scores, block_total[: tile.blocks])
            kept = _kept(inputs, tile) if plan.dropout_p else None
            reached = weights if kept is None else weights * kept
            grads = (grad_rows[:some] @ value.mT).view_as(weights)
            if kept is not None:
                grads = grads * kept
            flow = weights * (grads - block_delta[: tile.blocks])
            if slopes is not None:
                flow = flow + weights * fade[: tile.blocks] * slopes[: tile.blocks]
            flow = _selected(flow, scores.allowed)
            if grad_bias is not None:
                grad_bias.index_put_(_bias_index(tile, grad_bias), flow, accumulate=True)
            if scores.slope is not None:
                flow = _selected(flow * scores.slope, scores.allowed)
            flow = flow * plan.scale
            part = _product(flow, key, scores.allowed, plan, inputs.finite)
            collected = part + collected if some == len(collected) else torch.cat([collected[:some] + part, collected[some:]])
            tile.keys.add(grad_key, _to_keys(flow, query[:some], scores.allowed, tile, inputs))
            tile.keys.add(grad_value, _to_keys(reached, grad_rows[:some], scores.allowed, tile, inputs))
        count, height = rows.index.shape
        rows.put(grad_query, by_row(collected, count, plan.kv_heads, height))
    return (
        grad_query.to(inputs.query.dtype),
        grad_key.to(inputs.key.dtype),
        grad_value.to(inputs.value.dtype),
        None if grad_bias is None else grad_bias.to(inputs.bias.dtype),
        _grad_sinks(inputs, total, delta),
    )


def tangent(inputs: Inputs, out: Tensor, lse: Tensor, tangents: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
    """Forward-mode derivative of (out, lse) along tangents of query, key, value, bias and sinks."""
    plan, precision = inputs.plan, inputs.precision
    along_query, along_key, along_value, along_bias, along_sinks = tangents
    rising = torch.zeros_like(out, dtype=precision)
    mass = torch.zeros_like(lse)
    total = _denominator(inputs, lse)
    for block in blocks(plan, inputs.query.device):
        rows = block.rows
        query = by_head(rows.gather(inputs.query).to(precision), plan.kv_heads)
        along = None if along_query is None else by_head(rows.gather(along_query).to(precision), plan.kv_heads)
        block_total = _heads_first(rows.gather(total))
        change = query.new_zeros(*query.shape[:-1], out.shape[-1])
        weight = torch.zeros_like(block_total)
        for tile in block.tiles:
            some = tile.blocks * plan.kv_heads
            key, value = _keys(inputs, tile)
            scores = _scores(inputs, tile, query[:some], key)
            weights = _weights(scores, block_total[: tile.blocks])
            slope = torch.zeros_like(weights)
            if along is not None:
                slope = slope + (along[:some] @ key.mT).view_as(weights)
            if along_key is not None:
                slope = slope + (query[:some] @ _chunk(tile, along_key, inputs).mT).view_as(weights)
            slope = slope * plan.scale
            if scores.slope is not None:
                slope = slope * scores.slope
            if along_bias is not None:
                slope = slope + along_bias.to(precision)[_bias_index(tile, along_bias)]
            flow = _selected(weights * slope, scores.allowed)
            weight = torch.cat([weight[: tile.blocks] + flow.sum(-1, keepdim=True), weight[tile.blocks :]])
            if plan.dropout_p:
                kept = _kept(inputs, tile)
                flow, weights = flow * kept, weights * kept
            part = _product(flow, value, scores.allowed, plan, inputs.finite)
            if along_value is not None:
                moved = _chunk(tile, along_value, inputs)
                part = part + _product(weights, moved, scores.allowed, plan, inputs.finite)
            change = torch.cat([change[:some] + part, change[some:]])
        count, height = rows.index.shape
        rows.put(rising, by_row(change, count, plan.kv_heads, height))
        rows.put(mass, weight.squeeze(-1).transpose(1, 2))
    shift = mass
    if along_sinks is not None:
        shift = shift + torch.exp(inputs.sinks.to(precision) - total) * along_sinks.to(precision)
    moved_out = rising - out.to(precision) * shift.unsqueeze(-1)
    return moved_out.to(out.dtype), mass * torch.exp(total - _safe(lse))


def row_weights(inputs: Inputs, lse: Tensor, rows: Any) -> Tensor:
    """Weights (R, H, longest key span) of the query tokens `rows` (R,), before dropout."""
    plan = inputs.plan
    block = rows_block(plan, rows, inputs.query.device)
    tile = block.tiles[0]
    query = by_head(block.rows.gather(inputs.query).to(inputs.precision), plan.kv_heads)
    scores = _scores(inputs, tile, query, _chunk(tile, inputs.key, inputs))
    total = _heads_first(block.rows.gather(_denominator(inputs, lse)))
    return _weights(scores, total).squeeze(2)


def _keys(inputs: Inputs, tile: Tile) -> tuple[Tensor, Tensor]:
    return _chunk(tile, inputs.key, inputs), _chunk(tile, inputs.value, inputs)


def _chunk(tile: Tile, flat: Tensor, inputs: Inputs) -> Tensor:
    return by_head(tile.keys.gather(flat).to(inputs.precision), inputs.plan.kv_heads)


def _scores(inputs: Inputs, tile: Tile, query: Tensor, key: Tensor) -> Scores:
    plan = inputs.plan
    height = tile.at.row.shape[2]
    values = torch.bmm(query * plan.scale, key.mT).view(tile.blocks, plan.heads, height, key.shape[1])
    slope, allowed = None, tile.allowed
    if plan.softcap is not None:
        bent = torch.tanh(values / plan.softcap)
        values, slope = plan.softcap * bent, 1 - bent * bent
    if inputs.bias is not None:
        bias = inputs.bias.to(values.dtype)[_bias_index(tile, inputs.bias)]
        values, open_pairs = values + bias, bias != -torch.inf
        allowed = open_pairs if allowed is None else allowed & open_pairs
    return Scores(values, allowed, slope)


def _weights(scores: Scores, total: Tensor) -> Tensor:
    return _selected(torch.exp(scores.values - total), scores.allowed)


def _selected(values: Tensor, allowed: Tensor | None) -> Tensor:
    return values if allowed is None else values.masked_fill(~allowed, 0)


def _product(weights: Tensor, values: Tensor, allowed: Tensor | None, plan: Plan, finite: bool) -> Tensor:
    """(G, H, Q, K) weights with (G * J, K, D) values -> (G * J, H / J * Q, D)."""
    pairs = None if allowed is None or finite else _flat(allowed.expand_as(weights), plan)
    return product(_flat(weights, plan), values, pairs, finite)


def _to_keys(weights: Tensor, rows: Tensor, allowed: Tensor | None, tile: Tile, inputs: Inputs) -> Tensor:
    """Sum over queries: (G, H, Q, K) weights with (G * J, H / J * Q, D) rows -> (G, K, J, D)."""
    plan = inputs.plan
    pairs = None if allowed is None or inputs.finite else _flat(allowed.expand_as(weights), plan).mT
    summed = product(_flat(weights, plan).mT, rows, pairs, inputs.finite)
    return by_row(summed, tile.blocks, plan.kv_heads, summed.shape[1])


def _flat(values: Tensor, plan: Plan) -> Tensor:
    """(G, H, Q, M) -> (G * J, H / J * Q, M)."""
    count, heads, height, width = values.shape
    return values.reshape(count * plan.kv_heads, heads // plan.kv_heads * height, width)


def _heads_first(rows: Tensor) -> Tensor:
    """(G, Q, H) -> (G, H, Q, 1)."""
    return rows.transpose(1, 2).unsqueeze(-1)


def _safe(lse: Tensor) -> Tensor:
    return lse.masked_fill(lse == -torch.inf, 0)


def _denominator(inputs: Inputs, lse: Tensor) -> Tensor:
    """Logarithm of what the weights are divided by, (T, H); 0 where a query sees nothing."""
    if inputs.sinks is None:
        return _safe(lse)
    return torch.logaddexp(lse, inputs.sinks.to(lse.dtype).expand_as(lse))


def _grad_sinks(inputs: Inputs, total: Tensor, delta: Tensor) -> Tensor | None:
    if inputs.sinks is None:
        return None
    share = torch.exp(inputs.sinks.to(total.dtype) - total)
    return -(share * delta).sum(0).to(inputs.sinks.dtype)


def _kept(inputs: Inputs, tile: Tile) -> Tensor:
    if inputs.seed is None:
        raise ValueError("dropout needs a seed")
    return tile.kept(inputs.seed).to(inputs.precision)


def _bias_index(tile: Tile, bias: Tensor) -> tuple[Tensor, ...]:
    """Where the tile's pairs stand in a bias (N, H, T, S), whose dimensions may be 1."""
    places = (tile.at.sequence, tile.at.head, tile.at.row, tile.at.key)
    return tuple(place.clamp(max=size - 1) if size > 1 else torch.zeros_like(place) for place, size in zip(places, bias.shape))
