"""The arrays of a call, and the scores and weights of one tile: what forward, backward and forward-mode share.

Flat arrays: query (T, H, D), key (S, J, D), value (S, J, Dv), sinks (H,), bias as `Plan.bias_places` says. Tiles: scores and
weights (G, H, Q, K); products run on (G * J, H / J * Q, ...), the query heads of one key head together. Sums run in
float32, or float64 for float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regard._plan import Plan
from regard.backends.torch.tiles import Rows, Tile, by_head, by_row, product


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
        """Look once whether the arrays and `others` are finite: a sum is NaN or infinite where an entry is."""
        arrays = (query, key, value, *others)
        finite = all(math.isfinite(array.detach().sum()) for array in arrays if array is not None)
        return cls(plan, query, key, value, bias, sinks, seed, finite)

    @property
    def precision(self) -> torch.dtype:
        """In which numbers sums run."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32

    def rows(self, rows: Rows, flat: Tensor) -> Tensor:
        """Query rows of a flat array (T, H, D) by head: (G * J, H / J * Q, D)."""
        return by_head(rows.gather(flat).to(self.precision), self.plan.kv_heads)

    def chunk(self, tile: Tile, flat: Tensor) -> Tensor:
        """Key rows of a flat array (S, J, D) by head: (G * J, K, D)."""
        return by_head(tile.keys.gather(flat).to(self.precision), self.plan.kv_heads)

    def join(self, rows: Rows, values: Tensor) -> Tensor:
        """The inverse of `rows`: (G, Q, H, D)."""
        count, height = rows.index.shape
        return by_row(values, count, self.plan.kv_heads, height)

    def flat(self, values: Tensor) -> Tensor:
        """(G, H, Q, M) -> (G * J, H / J * Q, M)."""
        count, heads, height, width = values.shape
        return values.reshape(count * self.plan.kv_heads, heads // self.plan.kv_heads * height, width)

    def kept(self, tile: Tile) -> Tensor | None:
        """Dropout's factors, 0 or 1 / (1 - p), or None without dropout."""
        return None if self.seed is None or not self.plan.dropout_p else tile.kept(self.seed, self.precision)

    def over_keys(self, weights: Tensor, values: Tensor, allowed: Tensor | None) -> Tensor:
        """Weights (G, H, Q, K) with values (G * J, K, D) -> (G * J, H / J * Q, D)."""
        return product(self.flat(weights), values, self._pairs(weights, allowed), self.finite)

    def over_rows(self, weights: Tensor, rows: Tensor, allowed: Tensor | None, tile: Tile) -> Tensor:
        """Weights (G, H, Q, K) with rows (G * J, H / J * Q, D) -> (G, K, J, D)."""
        pairs = self._pairs(weights, allowed)
        summed = product(self.flat(weights).mT, rows, None if pairs is None else pairs.mT, self.finite)
        return by_row(summed, tile.blocks, self.plan.kv_heads, summed.shape[1])

    def _pairs(self, weights: Tensor, allowed: Tensor | None) -> Tensor | None:
        return None if allowed is None or self.finite else self.flat(allowed.expand_as(weights))


@dataclass(eq=False)
class Scores:
    """Scores (G, H, Q, K) of one tile with soft cap and bias, the pairs that take part, and the soft cap's slope."""

    values: Tensor
    allowed: Tensor | None
    slope: Tensor | None

    def weights(self, total: Tensor) -> Tensor:
        """`exp(scores - total)` where allowed, 0 elsewhere, whatever stood there."""
        return selected(torch.exp(self.values - total), self.allowed)


def score(inputs: Inputs, tile: Tile, query: Tensor, key: Tensor) -> Scores:
    """Scores of the tile's pairs, from query and key by head."""
    plan = inputs.plan
    values = torch.bmm(query * plan.scale, key.mT)
    values = values.view(tile.blocks, plan.heads, tile.at.row.shape[2], key.shape[1])
    slope, allowed = None, tile.allowed
    if plan.softcap is not None:
        bent = torch.tanh(values / plan.softcap)
        values, slope = plan.softcap * bent, 1 - bent * bent
    if inputs.bias is not None:
        index, found = bias_places(tile, inputs.bias)
        bias = inputs.bias.to(values.dtype)[index]
        open_pairs = (bias != -torch.inf) & found
        values, allowed = values + bias, open_pairs if allowed is None else allowed & open_pairs
    return Scores(values, allowed, slope)


def selected(values: Tensor, allowed: Tensor | None) -> Tensor:
    """Values where allowed, 0 elsewhere."""
    return values if allowed is None else values.masked_fill(~allowed, 0)


def bias_places(tile: Tile, bias: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where the tile's pairs stand in a bias, and which of them do."""
    return tile.plan.bias_places(tuple(bias.shape), tile.at)


def heads_first(rows: Tensor) -> Tensor:
    """(G, Q, H) -> (G, H, Q, 1)."""
    return rows.transpose(1, 2).unsqueeze(-1)


def finite_lse(lse: Tensor) -> Tensor:
    """The lse, 0 where a query sees nothing."""
    return lse.masked_fill(lse == -torch.inf, 0)


def denominator(inputs: Inputs, lse: Tensor) -> Tensor:
    """Logarithm of what the weights (T, H) are divided by, sinks included; 0 where there is nothing to divide."""
    if inputs.sinks is None:
        return finite_lse(lse)
    return finite_lse(torch.logaddexp(lse, inputs.sinks.to(lse.dtype).expand_as(lse)))
