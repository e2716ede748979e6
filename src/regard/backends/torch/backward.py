"""The backward pass: weights recomputed from the lse, tile by tile. Itself made of differentiable operations."""

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


def backward(
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    with_bias: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value, bias and sinks, each in its own dtype; that of the bias only where it is wanted."""
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    precision = inputs.precision
    delta = (grad_out.to(precision) * out.to(precision)).sum(-1)
    delta = delta.masked_fill(lse == -torch.inf, 0)
    total = denominator(inputs, lse)
    sums = _Sums(inputs, with_bias)
    for block in blocks(inputs.plan, inputs.query.device):
        _block(inputs, block, _Rows(inputs, block, grad_out, delta, total, lse, grad_lse), sums)
    return (
        sums.query.to(inputs.query.dtype),
        sums.key.to(inputs.key.dtype),
        sums.value.to(inputs.value.dtype),
        None if sums.bias is None or inputs.bias is None else sums.bias.to(inputs.bias.dtype),
        _sinks(inputs, total, delta),
    )


class _Sums:
    """The gradients while they are summed."""

    def __init__(self, inputs: Inputs, with_bias: bool) -> None:
        self.query, self.key, self.value = (
            array.new_zeros(array.shape, dtype=inputs.precision)
            for array in (inputs.query, inputs.key, inputs.value)
        )
        self.bias: Tensor | None = None
        if inputs.bias is not None and with_bias:
            self.bias = torch.zeros_like(inputs.bias, dtype=inputs.precision)


class _Rows:
    """What every tile of a block needs of its query rows."""

    def __init__(
        self,
        inputs: Inputs,
        block: Block,
        grad_out: Tensor,
        delta: Tensor,
        total: Tensor,
        lse: Tensor,
        grad_lse: Tensor | None,
    ) -> None:
        rows = block.rows
        self.query, self.grad_out = inputs.rows(rows, inputs.query), inputs.rows(rows, grad_out)
        self.delta, self.total = heads_first(rows.gather(delta)), heads_first(rows.gather(total))
        self.lse_part: Tensor | None = None
        if grad_lse is not None:
            # The lse leaves the sinks out: its weights are exp(score - lse), larger than those of the output.
            larger = torch.exp(self.total - heads_first(rows.gather(finite_lse(lse))))
            self.lse_part = larger * heads_first(rows.gather(grad_lse))


def _block(inputs: Inputs, block: Block, rows: _Rows, sums: _Sums) -> None:
    collected = torch.zeros_like(rows.query)
    for tile in block.tiles:
        key, value = inputs.chunk(tile, inputs.key), inputs.chunk(tile, inputs.value)
        some = len(key)
        query, grad_out = rows.query[:some], rows.grad_out[:some]
        scores = score(inputs, tile, query, key)
        weights = scores.weights(rows.total[: tile.blocks])
        kept = inputs.kept(tile)
        tile.keys.add(
            sums.value,
            inputs.over_rows(weights if kept is None else weights * kept, grad_out, scores.allowed, tile),
        )
        flow = _flow(rows, tile, scores, weights, kept, grad_out @ value.mT)
        if sums.bias is not None:
            sums.bias.index_put_(bias_places(tile, sums.bias)[0], flow, accumulate=True)
        flow = flow * inputs.plan.scale
        if scores.slope is not None:
            flow = selected(flow * scores.slope, scores.allowed)
        part = inputs.over_keys(flow, key, scores.allowed)
        collected = torch.cat([collected[:some] + part, collected[some:]])
        tile.keys.add(sums.key, inputs.over_rows(flow, query, scores.allowed, tile))
    block.rows.put(sums.query, inputs.join(block.rows, collected))


def _flow(
    rows: _Rows, tile: Tile, scores: Scores, weights: Tensor, kept: Tensor | None, reached: Tensor
) -> Tensor:
    """Gradient of the scores, soft cap and bias applied: `p * (dp - delta)`, and what the lse's gradient adds."""
    grads = reached.view_as(weights)
    if kept is not None:
        grads = grads * kept
    grads = grads - rows.delta[: tile.blocks]
    if rows.lse_part is not None:
        grads = grads + rows.lse_part[: tile.blocks]
    return selected(weights * grads, scores.allowed)


def _sinks(inputs: Inputs, total: Tensor, delta: Tensor) -> Tensor | None:
    if inputs.sinks is None:
        return None
    share = torch.exp(inputs.sinks.to(total.dtype) - total)
    return -(share * delta).sum(0).to(inputs.sinks.dtype)
