"""A CPU kernel for `torch.nn.attention.varlen.varlen_attn`, which PyTorch computes on CUDA alone.

Shapes: T queries, S keys, N sequences, H query heads, J key heads, D head size.
"""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from regard._attention import Call, attention, choose, lower
from regard._aux import Aux
from regard._biases import Alibi
from regard._errors import BackendError, RegardError
from regard._masks import Lengths, Mask, Window
from regard.backends.torch import function, native


@functools.cache
def install_varlen_cpu() -> None:
    """Let `torch.nn.attention.varlen.varlen_attn` take CPU tensors, forward and backward, by regard's kernel.

    It registers what PyTorch leaves open: `aten::_flash_attention_forward`, its form that writes into a given output, and
    `aten::_flash_attention_backward` for CPU tensors. Float32 and float64 are computed beside the 16-bit types. Windows,
    grouped heads, `seqused_k`, `block_table` and the lse are as PyTorch documents them. Results never depend on the rest of a batch,
    whatever `num_splits`. A second call changes nothing, and neither does the first where PyTorch has a kernel itself.

    Raises:
        BackendError: this PyTorch has no `varlen_attn`; 2.10 is the first that has it.

    Source: https://docs.pytorch.org/docs/stable/nn.attention.varlen.html

    >>> from torch.nn.attention.varlen import varlen_attn
    >>> regard.compat.torch.install_varlen_cpu()
    >>> query, offsets = torch.randn(7, 4, 8), torch.tensor([0, 3, 7], dtype=torch.int32)
    >>> varlen_attn(query, query, query, offsets, offsets, 4, 4, window_size=(-1, 0)).shape
    torch.Size([7, 4, 8])
    """
    try:
        import torch.nn.attention.varlen
    except ImportError as error:
        raise BackendError(
            f"varlen_attn needs PyTorch 2.10 or newer, got {torch.__version__}; call regard.attention with "
            "cu_seqlens_q, which computes the same"
        ) from error
    for name, kernel in _KERNELS.items():
        known = hasattr(torch.ops.aten, name)
        if known and not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CPU"):
            _library().impl(name, kernel)


@functools.cache
def _library() -> Library:
    return Library("aten", "IMPL", "CPU")


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor | None,
    _max_q: int,
    _max_k: int,
    dropout_p: float,
    is_causal: bool,
    _return_debug_mask: bool,
    **options: Any,
) -> tuple[Tensor, ...]:
    """(output, lse, state and offset of the random numbers, a mask for debugging); the last three are of no use here."""
    arrays, call = _call(query, key, value, cum_seq_q, cum_seq_k, dropout_p, is_causal, **options)
    out, aux = attention(*arrays, **call, return_aux=Aux(lse=True))
    lse = aux.lse.T.contiguous().float()
    state = torch.zeros(2, dtype=torch.uint64)
    return out, lse, state, torch.zeros((), dtype=torch.uint64), query.new_empty(0)


def _forward_into(out: Tensor, *arguments: Any, **options: Any) -> Tensor:
    found, lse, *_ = _forward(*arguments, **options)
    out.copy_(found)
    return lse


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    _max_q: int,
    _max_k: int,
    dropout_p: float,
    is_causal: bool,
    _rng_state: Tensor,
    _unused: Tensor,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value, from the output and the lse that the forward pass returned."""
    arrays, rest = _call(query, key, value, cum_seq_q, cum_seq_k, dropout_p, is_causal, **options)
    given = dict.fromkeys(("key_sequence", "query_start", "softcap", "sinks", "seed"))
    call: Call = lower(*arrays, **(given | rest), dropout_p=0.0)
    kind = native.NativeAttention if choose(call, None) == "native" else function.TiledAttention
    lse = logsumexp.T.contiguous()
    if query.dtype == torch.float64:  # what PyTorch keeps is too coarse for it
        lse = attention(*arrays, **rest, return_aux=Aux(lse=True))[1].lse
    context = SimpleNamespace(
        plan=call.plan,
        seed=None,
        saved_tensors=(call.query, call.key, call.value, None, None, out, lse),
        needs_input_grad=(False,) * 2 + (True,) * 3 + (False,) * 2,
    )
    grads = kind.backward(context, grad_out, None)[2:5]
    return tuple(grad for grad in grads if grad is not None)


_KERNELS = {
    "_flash_attention_forward": _forward,
    "_flash_attention_forward_no_dropout_inplace": _forward_into,
    "_flash_attention_backward": _backward,
}


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    seqused_k: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,  # noqa: ARG001  (about speed on a GPU)
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """The arrays and options of `regard.attention`. The last query meets the last key that is used."""
    if dropout_p:
        raise RegardError(f"varlen_attn has no dropout on a CPU, got dropout_p={dropout_p}; pass 0.0")
    mask: Mask | None = _window(window_size_left, 0 if is_causal else window_size_right)
    if block_table is not None:
        key, value, cum_seq_k = _gathered(key, value, block_table)
    if seqused_k is not None:
        used = Lengths(k=seqused_k)
        mask = used if mask is None else mask & used
    return (query, key, value), {
        "mask": mask,
        "bias": None if alibi_slopes is None else Alibi(alibi_slopes),
        "cu_seqlens_q": cum_seq_q,
        "cu_seqlens_k": cum_seq_k,
        "scale": scale,
    }


def _window(left: int | None, right: int | None) -> Window | None:
    """FlashAttention's window: distances that count, and anything negative for no end."""
    back, ahead = (math.inf if end is None or end < 0 else end for end in (left, right))
    return None if back == ahead == math.inf else Window(back, ahead)


def _gathered(key: Tensor, value: Tensor, block_table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pages (pages, page size, J, D) in the order of the table (N, pages of a sequence) -> (total, J, D), and offsets."""
    pages = block_table.long().flatten()
    key, value = (array.index_select(0, pages).flatten(0, 1) for array in (key, value))
    offsets = torch.arange(len(block_table) + 1) * (len(key) // max(1, len(block_table)))
    return key, value, offsets
