"""What `Aux` asks for beside the output: weights recomputed from the lse, tile by tile; no gradient is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from regard._aux import TopK
from regard.backends.torch.scores import Inputs, denominator, heads_first, score
from regard.backends.torch.tiles import Block, Tile, blocks, rows_block


def row_weights(inputs: Inputs, lse: Tensor, rows: Any) -> Tensor:
    """Weights (R, H, longest key span) of the query tokens `rows` (R,)."""
    width = int(inputs.plan.spans.k_length.max(initial=0))
    if not len(rows):
        return inputs.query.new_zeros(0, inputs.plan.heads, width, dtype=inputs.precision)
    block = rows_block(inputs.plan, rows, inputs.query.device)
    ((_, weights, _),) = _tiles(inputs, block, denominator(inputs, lse))
    return torch.nn.functional.pad(weights.squeeze(2), (0, width - weights.shape[-1]))


def key_sums(inputs: Inputs, lse: Tensor) -> Tensor:
    """What each key (S, H) receives from all queries."""
    sums = lse.new_zeros(inputs.plan.total_keys, inputs.plan.heads)
    total = denominator(inputs, lse)
    for block in blocks(inputs.plan, lse.device):
        for tile, weights, _ in _tiles(inputs, block, total):
            tile.keys.add(sums, weights.sum(2).transpose(1, 2))
    return sums


def largest(inputs: Inputs, lse: Tensor, count: int) -> TopK:
    """The `count` largest weights of each query (T, H, count) and their keys, falling, ties by the smaller key."""
    shape = (*lse.shape, count)
    top = TopK(torch.full(shape, -1, device=lse.device), lse.new_zeros(shape))
    total = denominator(inputs, lse)
    for block in blocks(inputs.plan, lse.device):
        keys, weights = _block_largest(inputs, block, total, count)
        block.rows.put(top.keys, keys.transpose(1, 2))
        block.rows.put(top.weights, weights.transpose(1, 2))
    return top


def _block_largest(inputs: Inputs, block: Block, total: Tensor, count: int) -> TopK:
    """By head: (G, H, Q, count)."""
    groups, height = block.rows.index.shape
    shape = (groups, inputs.plan.heads, height, count)
    # Weight -1 stands for no key at all: it comes last.
    keys, ranks = torch.full(shape, -1, device=total.device), total.new_full(shape, -1)
    for tile, weights, allowed in _tiles(inputs, block, total):
        some = tile.blocks
        new_ranks = weights if allowed is None else weights.masked_fill(~allowed, -1)
        new_keys = tile.at.key.expand_as(new_ranks)
        ranks_here, keys_here = (
            torch.cat([ranks[:some], new_ranks], -1),
            torch.cat([keys[:some], new_keys], -1),
        )
        # Chunks come in the order of their keys, in which a stable sort leaves ties.
        order = torch.sort(ranks_here, dim=-1, descending=True, stable=True).indices[..., :count]
        ranks = torch.cat([ranks_here.gather(-1, order), ranks[some:]])
        keys = torch.cat([keys_here.gather(-1, order), keys[some:]])
    return TopK(keys.masked_fill(ranks < 0, -1), ranks.clamp(min=0))


def _tiles(inputs: Inputs, block: Block, total: Tensor) -> Iterator[tuple[Tile, Tensor, Tensor | None]]:
    """Each tile with its weights (G, H, Q, K), 0 where not allowed, and which pairs are allowed, None for all."""
    query = inputs.rows(block.rows, inputs.query)
    block_total = heads_first(block.rows.gather(total))
    for tile in block.tiles:
        key = inputs.chunk(tile, inputs.key)
        scores = score(inputs, tile, query[: len(key)], key)
        yield tile, scores.weights(block_total[: tile.blocks]), scores.allowed
