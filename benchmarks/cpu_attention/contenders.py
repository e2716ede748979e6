"""Ours and its peers: each prepares a problem in its own best form, and none is timed before it agrees with ours.

What a caller would build once (masks, offsets, padding, block masks, compiled code) is built here and not timed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import regard
from cpu_attention.biases import distances, ours_bias, peer_bias
from cpu_attention.problem import Batch, HeadsFirst, Prepared, Problem, Rows, prepared


def ours(problem: Problem) -> Prepared:
    """`regard.attention`: packed where the item is ragged, otherwise (B, N, H, D)."""
    options = arguments(problem)
    make_bias = ours_bias(problem.item)

    def forward(query: Tensor, key: Tensor, value: Tensor, *table: Tensor) -> Tensor:
        return regard.attention(query, key, value, bias=make_bias(*table), **options)

    return prepared(problem, Rows if problem.item.is_packed else Batch, forward)


def arguments(problem: Problem) -> dict[str, Any]:
    """Ours: all arguments of the call but arrays and bias."""
    item = problem.item
    options: dict[str, Any] = {"backend": problem.backend}
    if item.window:
        options["mask"] = regard.Window(item.window - 1, 0)
    elif item.causal:
        options["mask"] = regard.Causal()
    if item.dropout:
        options |= {"dropout_p": item.dropout, "seed": 0}
    if item.is_packed:
        options["cu_seqlens_q"] = np.concatenate([[0], np.cumsum(item.lengths)]).astype(np.int32)
    return options


def dense(problem: Problem) -> Prepared:
    """SDPA on contiguous (B, H, N, D)."""
    item = problem.item
    grouped = item.heads != item.key_heads

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa(query, key, value, dropout_p=item.dropout, is_causal=item.causal, enable_gqa=grouped)

    return prepared(problem, HeadsFirst, forward)


def padded(problem: Problem) -> Prepared:
    """SDPA on padded contiguous (B, H, N, D) with a boolean key mask."""
    lengths = torch.tensor(problem.item.lengths)
    keys = (torch.arange(int(lengths.max())) < lengths[:, None])[:, None, None]
    causal = problem.item.causal

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa(query, key, value, attn_mask=keys, is_causal=causal)

    return prepared(problem, HeadsFirst, forward)


def unmasked(problem: Problem) -> Prepared | None:
    """SDPA on padded arrays without a mask: right where causality hides the padding, or where there is none."""
    item = problem.item
    return dense(problem) if item.causal or len(set(item.lengths)) == 1 else None


def loop(problem: Problem) -> Prepared:
    """SDPA on one sentence after another, cut from packed arrays by `split`."""
    lengths, causal = list(problem.item.lengths), problem.item.causal

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        cut = zip(
            *(array.transpose(0, 1).split(lengths, dim=1) for array in (query, key, value)), strict=True
        )
        parts = [sdpa(q[None], k[None], v[None], is_causal=causal)[0] for q, k, v in cut]
        return torch.cat(parts, dim=1).transpose(0, 1)

    return prepared(problem, Rows, forward)


def jagged(problem: Problem) -> Prepared:
    """SDPA on jagged nested tensors, views of the packed arrays."""
    item = problem.item
    offsets = torch.tensor([0, *np.cumsum(item.lengths)])
    shortest, longest = min(item.lengths), max(item.lengths)

    def nested(packed: Tensor) -> Tensor:
        return torch.nested.nested_tensor_from_jagged(
            packed, offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with warnings.catch_warnings(action="ignore"):  # "nested tensors are a prototype"
            out = sdpa(nested(query), nested(key), nested(value), is_causal=item.causal)
        return out.transpose(1, 2).values()

    return prepared(problem, Rows, forward)


def masked(problem: Problem) -> Prepared:
    """SDPA with an explicit N x N mask of the window."""
    distance = distances(problem.item.lengths[0])
    seen = (distance >= 0) & (distance < problem.item.window)

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa(query, key, value, attn_mask=seen)

    return prepared(problem, HeadsFirst, forward)


def flex(problem: Problem) -> Prepared:
    """FlexAttention, compiled, with a block mask of the window."""
    from torch.nn.attention.flex_attention import create_block_mask

    length, window = problem.item.lengths[0], problem.item.window

    def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    blocks = create_block_mask(seen, None, None, length, length, device="cpu")

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _compiled_flex()(query, key, value, block_mask=blocks)

    return prepared(problem, HeadsFirst, forward)


def biased(problem: Problem) -> Prepared:
    """SDPA with the N x N bias; a table's is built anew in every call, so that autograd reaches the table."""
    item = problem.item
    make_bias = peer_bias(item)

    def forward(query: Tensor, key: Tensor, value: Tensor, *table: Tensor) -> Tensor:
        return sdpa(query, key, value, attn_mask=make_bias(*table).to(query.dtype))

    return prepared(problem, HeadsFirst, forward)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # Idle compiler processes would take time from what is measured.
    torch._inductor.config.compile_threads = 1
    return torch.compile(flex_attention, dynamic=False)


CONTENDERS: dict[str, Callable[[Problem], Prepared | None]] = {
    "ours": ours,
    "sdpa": dense,
    "padded": padded,
    "unmasked": unmasked,
    "loop": loop,
    "jagged": jagged,
    "masked": masked,
    "flex": flex,
    "biased": biased,
}
