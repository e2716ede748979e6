"""The specification: attention in plain NumPy, one sequence after the other, from dense scores.

Shapes: H query heads, J key heads; Q query rows of one sequence, K keys it reads; D, V head sizes of keys and values.
Rows are taken in blocks, so that memory stays bounded; nothing else here is for speed. A bias is the array that
`Plan.bias_places` describes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._arrays import host_array
from regard._aux import Aux, AuxOutput, TopK, checked_rows
from regard._dropout import keep_run
from regard._masks import Coordinates
from regard._plan import Plan

Array = NDArray[Any]

# Scores of one head that are held at once.
_SCORES = 1 << 20


def forward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    seed: int | None,
) -> tuple[Array, Array]:
    """The output (total_queries, H, V) in the query's dtype, and the lse (total_queries, H) in the accumulation's."""
    wide = accumulation(query.dtype)
    out = np.zeros((plan.total_queries, plan.heads, value.shape[-1]), wide)
    lse = np.full((plan.total_queries, plan.heads), -np.inf, wide)
    with np.errstate(all="ignore"):
        for block in _blocks(plan):
            q_HQD, k_HKD, v_HKV = block.gather(plan, query, key, value)
            softmax = _softmax(plan, block, q_HQD, k_HKD, bias, sinks)
            weights = softmax.weights * block.dropout(plan, seed, wide)
            out[block.queries] = _product(weights, v_HKV, softmax.allowed).swapaxes(0, 1)
            lse[block.queries] = softmax.lse[..., 0].T
        return out.astype(query.dtype), lse


def look(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    lse: Array,
    aux: Aux,
) -> AuxOutput:
    """What `aux` asks for, flat: (R, H, S), (total_queries, H, k), (total_keys, H)."""
    arrays = (plan, query, key, value, bias, sinks)
    with np.errstate(all="ignore"):
        return AuxOutput(
            lse if aux.lse else None,
            None if aux.rows is None else _row_weights(*arrays, aux.rows),
            None if aux.topk is None else _largest(*arrays, int(aux.topk)),
            _key_sums(*arrays) if aux.key_sums else None,
        )


def backward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    seed: int | None,
    out: Array,
    lse: Array,
    grad_out: Array,
    grad_lse: Array | None = None,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """The gradients of query, key, value, the bias array and the sinks, given those of `out` and perhaps of `lse`.

    `out` and `lse` are part of the signature because a faster backend needs them; here they are recomputed.
    """
    del out, lse
    wide = accumulation(query.dtype)
    grad_query, grad_key, grad_value = (np.zeros(array.shape, wide) for array in (query, key, value))
    grad_bias = None if bias is None else np.zeros(bias.shape, wide)
    grad_sinks = None if sinks is None else np.zeros(sinks.shape, wide)
    with np.errstate(all="ignore"):
        for block in _blocks(plan):
            q_HQD, k_HKD, v_HKV = block.gather(plan, query, key, value)
            softmax = _softmax(plan, block, q_HQD, k_HKD, bias, sinks)
            allowed, kept = softmax.allowed, block.dropout(plan, seed, wide)
            go_HQV = grad_out[block.queries].astype(wide).swapaxes(0, 1)

            grad_weights = np.where(allowed, go_HQV @ v_HKV.swapaxes(1, 2), 0) * kept
            mean = np.sum(softmax.weights * grad_weights, axis=-1, keepdims=True)
            grad_logits = softmax.weights * (grad_weights - mean)
            if grad_lse is not None:
                grad_logits += softmax.shares * grad_lse[block.queries].T[..., None]
            grad_logits = np.where(allowed, grad_logits, 0)
            grad_scores = np.where(allowed, grad_logits * softmax.slope, 0) * plan.scale

            grad_query[block.queries] += _product(grad_scores, k_HKD, allowed).swapaxes(0, 1)
            across, pairs = grad_scores.swapaxes(1, 2), allowed.swapaxes(1, 2)
            _add_heads(grad_key[block.keys], _product(across, q_HQD, pairs))
            across = (softmax.weights * kept).swapaxes(1, 2)
            _add_heads(grad_value[block.keys], _product(across, go_HQV, pairs))
            if grad_sinks is not None:
                sees = allowed.any(-1, keepdims=True)
                grad_sinks -= np.where(sees, softmax.sink_weights * mean, 0).sum((1, 2))
            if grad_bias is not None:
                _add_bias(grad_bias, plan, block.at, grad_logits)
        grads = grad_query.astype(query.dtype), grad_key.astype(key.dtype), grad_value.astype(value.dtype)
        return *grads, _like(grad_bias, bias), _like(grad_sinks, sinks)


def accumulation(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which sums are made: float64 for float64, float32 for all others."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@dataclass(frozen=True, eq=False)
class _Block:
    """Consecutive query rows of one sequence, and the keys that the sequence reads."""

    queries: slice
    keys: slice
    at: Coordinates

    def gather(self, plan: Plan, query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
        """The block's arrays, widened, heads first, key heads repeated: (H, Q, D), (H, K, D), (H, K, V)."""
        wide, group = accumulation(query.dtype), plan.heads // plan.kv_heads
        k_HKD, v_HKV = (
            np.repeat(array[self.keys].astype(wide).swapaxes(0, 1), group, axis=0) for array in (key, value)
        )
        return query[self.queries].astype(wide).swapaxes(0, 1), k_HKD, v_HKV

    def dropout(self, plan: Plan, seed: int | None, wide: np.dtype[Any]) -> Any:
        """What dropout multiplies the weights by, (H, Q, K): 0 or 1 / (1 - p)."""
        if not plan.dropout_p:
            return wide.type(1)
        at = self.at
        kept = keep_run(seed, at.sequence, at.head, at.position, at.key, plan.dropout_p)[0]
        return kept.astype(wide) / wide.type(1 - plan.dropout_p)


@dataclass(frozen=True, eq=False)
class _Softmax:
    """What a block's logits come to; (H, Q, K), or (H, Q, 1) for the numbers of a row."""

    allowed: Array
    weights: Array  # the softmax, sinks in the denominator; zero where not allowed
    shares: Array  # the softmax without the sinks: the lse's gradient
    lse: Array
    sink_weights: Any  # what the sinks take of each row
    slope: Any  # the softcap's derivative


def _softmax(
    plan: Plan, block: _Block, q_HQD: Array, k_HKD: Array, bias: Array | None, sinks: Array | None
) -> _Softmax:
    scores = q_HQD @ k_HKD.swapaxes(1, 2) * q_HQD.dtype.type(plan.scale)
    logits, slope = scores, scores.dtype.type(1)
    if plan.softcap is not None:
        capped = np.tanh(scores / scores.dtype.type(plan.softcap))
        logits, slope = capped * scores.dtype.type(plan.softcap), 1 - capped * capped
    allowed = np.ones(scores.shape, bool)
    if plan.mask is not None:
        allowed &= plan.mask.allows(block.at)[0]
    if bias is not None:
        index, found = plan.bias_places(bias.shape, block.at)
        added = bias[index]
        allowed &= (found & (added != -np.inf))[0]
        logits = logits + added[0].astype(logits.dtype)
    logits = np.where(allowed, logits, -np.inf)

    top = logits.max(-1, keepdims=True, initial=-np.inf)
    # A row that sees no key has no largest logit; any finite number stands in for it.
    top = np.where(top == -np.inf, 0, top).astype(logits.dtype)
    powers = np.exp(logits - top)
    total = powers.sum(-1, keepdims=True)
    lse = top + np.log(total)
    sink = 0 if sinks is None else np.exp(sinks.astype(logits.dtype)[:, None, None] - top)
    whole = np.where(total + sink == 0, 1, total + sink)
    return _Softmax(
        allowed,
        weights=np.where(allowed, powers / whole, 0),
        shares=np.where(allowed, powers / total, 0),
        lse=lse,
        sink_weights=np.where(np.isinf(sink), 1, sink / whole),
        slope=slope,
    )


def _product(weights: Array, values: Array, allowed: Array) -> Array:
    """`weights @ values`, (H, L, M) by (H, M, D), over allowed pairs alone: elsewhere 0 * NaN must not arise."""
    broken = ~np.all(np.isfinite(values), axis=-1)
    product = weights @ np.where(broken[..., None], 0, values)
    for head, row in np.argwhere((allowed & broken[:, None]).any(-1)):
        some = allowed[head, row]
        product[head, row] = weights[head, row, some] @ values[head, some]
    return product


def _row_weights(
    plan: Plan, query: Array, key: Array, value: Array, bias: Array | None, sinks: Array | None, rows: Any
) -> Array:
    """(R, H, longest key length), zero where there is no key."""
    rows = checked_rows(rows, plan.total_queries)
    longest = int(np.max(plan.spans.k_length, initial=0))
    chosen = np.zeros((len(rows), plan.heads, longest), accumulation(query.dtype))
    for place, row in enumerate(rows):
        for _, softmax in _softmaxes(plan, query, key, value, bias, sinks, int(row)):
            chosen[place, :, : softmax.weights.shape[-1]] = softmax.weights[:, 0]
    return chosen


def _key_sums(
    plan: Plan, query: Array, key: Array, value: Array, bias: Array | None, sinks: Array | None
) -> Array:
    """(total_keys, H)."""
    sums = np.zeros((plan.total_keys, plan.heads), accumulation(query.dtype))
    for block, softmax in _softmaxes(plan, query, key, value, bias, sinks):
        sums[block.keys] += softmax.weights.sum(1).T
    return sums


def _largest(
    plan: Plan, query: Array, key: Array, value: Array, bias: Array | None, sinks: Array | None, count: int
) -> TopK:
    """(total_queries, H, count); what is not allowed comes last."""
    shape = (plan.total_queries, plan.heads, count)
    top = TopK(np.full(shape, -1), np.zeros(shape, accumulation(query.dtype)))
    for block, softmax in _softmaxes(plan, query, key, value, bias, sinks):
        ranked = np.where(softmax.allowed, softmax.weights, -1)
        # A stable sort leaves ties in the order of their keys.
        keys = np.argsort(-ranked, axis=-1, kind="stable")[..., :count]
        ranked, found = np.take_along_axis(ranked, keys, -1).swapaxes(0, 1), keys.shape[-1]
        top.keys[block.queries, :, :found] = np.where(ranked < 0, -1, keys.swapaxes(0, 1))
        top.weights[block.queries, :, :found] = np.maximum(ranked, 0)
    return top


def _softmaxes(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    sinks: Array | None,
    row: int | None = None,
) -> Iterator[tuple[_Block, _Softmax]]:
    for block in _blocks(plan, row):
        q_HQD, k_HKD, _ = block.gather(plan, query, key, value)
        yield block, _softmax(plan, block, q_HQD, k_HKD, bias, sinks)


def _blocks(plan: Plan, row: int | None = None) -> Iterator[_Block]:
    """All blocks of query rows, or the one that holds the flat row `row` alone."""
    spans = plan.spans
    for n in range(len(spans.q_begin)):
        begin, end = int(spans.q_begin[n]), int(spans.q_begin[n] + spans.q_length[n])
        step = max(1, _SCORES // max(1, int(spans.k_length[n])))
        if row is not None:
            begin, end = (row, row + 1) if begin <= row < end else (0, 0)
        for first in range(begin, end, step):
            yield _block(plan, n, first, min(first + step, end))


def _block(plan: Plan, n: int, first: int, last: int) -> _Block:
    spans = plan.spans
    row = np.arange(first, last)[None, None, :, None] - int(spans.q_begin[n])
    key = np.arange(int(spans.k_length[n]))[None, None, None, :]
    at = Coordinates(
        sequence=np.full((1, 1, 1, 1), n),
        head=np.arange(plan.heads)[None, :, None, None],
        row=row,
        position=row + int(spans.query_start[n]),
        key=key,
        query_token=row + int(spans.q_begin[n]),
        key_token=key + int(spans.k_begin[n]),
        bring=host_array,
    )
    begin = int(spans.k_begin[n])
    return _Block(slice(first, last), slice(begin, begin + int(spans.k_length[n])), at)


def _add_heads(total_KJD: Array, parts_HKD: Array) -> None:
    heads, length, size = parts_HKD.shape
    kv_heads = total_KJD.shape[1]
    total_KJD += parts_HKD.reshape(kv_heads, heads // kv_heads, length, size).sum(1).swapaxes(0, 1)


def _add_bias(total: Array, plan: Plan, at: Coordinates, grad_HQK: Array) -> None:
    index, _ = plan.bias_places(total.shape, at)
    # Pairs that find no number have no gradient: they add zero to some place inside.
    np.add.at(total, tuple(np.broadcast_to(i, (1, *grad_HQK.shape)) for i in index), grad_HQK[None])


def _like(grad: Array | None, array: Array | None) -> Array | None:
    return None if grad is None or array is None else grad.astype(array.dtype)
