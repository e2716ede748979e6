"""transformers' attention interface over `regard.attention`.

Shapes: B batch, T queries, S keys, H query heads, J key heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard._attention import attention
from regard._masks import Causal, Dense, Mask
from regard.compat.huggingface.mask import Packing, Pattern, PatternMask, key_mask
from regard.compat.torch._heads_first import attend as attend_heads_first


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What a model's layer calls: (B, H, T, D), (B, J, S, D) and (B, J, S, Dv) -> (B, T, H, Dv), and no weights.

    Without a mask it is causal where the layer says so, as transformers' SDPA. A float mask is added to the scores.
    """
    options: dict[str, Any] = {"scale": scaling, "softcap": softcap, "sinks": s_aux}
    if dropout:
        options |= {"dropout_p": dropout, "seed": torch.randint(2**63 - 1, ())}
    bias = position_bias
    mask: Mask | None = None
    start = None
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if causal and query.shape[2] > 1:
            mask, start = Causal(), 0
        if cu_seq_lens_q is not None and len(query) == 1:
            offsets = {"cu_seqlens_q": cu_seq_lens_q, "cu_seqlens_k": cu_seq_lens_k}
            return _flat(query, key, value, {"mask": mask} | offsets | options)[None], None
    elif isinstance(attention_mask, PatternMask):
        pattern = attention_mask.pattern
        aligned = query.shape[2] == key.shape[2] and (pattern.aligned or _attends_to_itself(module))
        if bias is None and aligned and _packs(pattern, query.shape[2]):
            return _packed(pattern.packing, query, key, value, {"mask": pattern.window} | options), None
        if pattern.documents is None:
            mask = key_mask(pattern, aligned=aligned)
            start = pattern.start if pattern.is_local else None
        else:
            mask = Dense(pattern.dense(tuple(attention_mask.shape), attention_mask.device))
    elif attention_mask.dtype == torch.bool:
        mask = Dense(attention_mask)
    else:
        bias = attention_mask if bias is None else bias + attention_mask
    out = attend_heads_first(query, key, value, mask=mask, bias=bias, query_start=start, **options)
    return out.transpose(1, 2), None


def _attends_to_itself(module: torch.nn.Module) -> bool:
    """Whether a layer is surely an encoder's: a decoder's two attentions look alike when source and target are equally long."""
    return getattr(module, "is_decoder", None) is False


def _packs(pattern: Pattern, queries: int) -> bool:
    """Whether to bring the tokens together; those at the start of each sequence are read where they lie."""
    if pattern.documents is not None:
        return pattern.keep is None
    if pattern.keep is None or pattern.lengths is not None or queries == 1:
        return False
    return not (pattern.has_holes and pattern.is_windowed)


def _packed(packing: Packing, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    arrays = (packing.pack(array.transpose(1, 2)) for array in (query, key, value))
    return packing.pad(attention(*arrays, cu_seqlens_q=packing.offsets, **options))


def _flat(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    return attention(*(array[0].transpose(0, 1) for array in (query, key, value)), **options)
