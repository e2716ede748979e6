"""Multi-head attention as layers: self-attention with a key-value cache, and attention to a context."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from regard._attention import attention
from regard._aux import Aux, AuxOutput
from regard._errors import ConfigError, ShapeError
from regard._masks import Dense, Lengths, Mask
from regard._merge import merge
from regard._packed import Packed
from regard.nn._heads import project_heads
from regard.nn._sequences import Sequences, like, positions_of, values_of
from regard.nn.cache import ContextCache, KeyValueCache, PrefixCache
from regard.nn.linear import Linear
from regard.nn.norm import RMSNorm
from regard.nn.rotary import Rotary

Combine = Literal["project", "concat"]
# The lists in which a layer collects weights while `regard.nn.watch` lasts. Not on the layer: other threads may run it, too.
WATCHED: ContextVar[Mapping[nn.Module, tuple[list[Tensor], ...]] | None] = ContextVar("watched", default=None)


class _Attention(nn.Module):
    """What both attention layers share: head sizes, normalization of queries and keys, and the way out."""

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None,
        head_dim: int | None,
        bias: bool,
        qk_norm: bool,
        dropout: float,
        combine: Combine,
    ) -> None:
        super().__init__()
        if combine not in get_args(Combine):
            raise ConfigError(f"combine must be one of {', '.join(get_args(Combine))}. Received {combine!r}.")
        if head_dim is None and dim % heads:
            raise ShapeError(
                f"dim must be a multiple of heads unless head_dim is given. Received dim={dim}, heads={heads}."
            )
        self.dim, self.heads, self.kv_heads = dim, heads, kv_heads or heads
        self.head_dim = head_dim or dim // heads
        self.combine, self.dropout = combine, dropout
        width = heads * self.head_dim
        self.output = Linear(
            2 * width if combine == "concat" else width, dim, bias=bias or combine == "concat"
        )
        self.query_norm = RMSNorm() if qk_norm else None
        self.key_norm = RMSNorm() if qk_norm else None

    @property
    def seen(self) -> tuple[list[Tensor], ...]:
        """Where `regard.nn.watch` collects weights, for who calls it; nothing where nobody watches."""
        if is_compiling():  # which cannot follow a context, and is for everyone
            return ()
        watched = WATCHED.get()
        return () if watched is None else watched.get(self, ())

    @property
    def eps(self) -> float | None:
        """Of the normalization of queries and keys; None: there is none."""
        return None if self.query_norm is None else self.query_norm.eps

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, AuxOutput | None]:
        """The operator, the number of rows that are watched, and dropout in training."""
        wanted: Aux | None = options.pop("return_aux")
        aux, seen = wanted, self.seen
        if seen:
            aux = Aux(lse=wanted is not None and wanted.lse, rows=range(math.prod(query.shape[:-2])))
        if self.training and self.dropout:
            options |= {"dropout_p": self.dropout, "seed": int(torch.randint(2**31, ()))}
        if aux is None:
            return attention(query, key, value, **options), None
        found, output = attention(query, key, value, return_aux=aux, **options)
        for one in seen:
            one.append(output.rows.detach())
        return found, output

    def _out(self, query: Tensor, context: Tensor) -> Tensor:
        joined = torch.cat([query, context], dim=-1) if self.combine == "concat" else context
        return self.output(joined.flatten(-2))


class SelfAttention(_Attention):
    """Multi-head self-attention: every token attends to tokens of its own sequence (Vaswani et al. 2017).

    `Q, K, V = x W_q, x W_k, x W_v`; `context = attention(Q, K, V)` per head; the result is `context W_o`, or with
    `combine="concat"` `[Q, context] W_o + b`, the head's query beside what it found.

    Arguments:
        dim: width of the tokens going in and coming out.
        heads: query heads; `dim` must be a multiple of it unless `head_dim` is given.
        kv_heads: key and value heads that groups of query heads share; by default as many as `heads`.
        head_dim: size of one head; by default `dim / heads`.
        bias: whether the projections add a bias. `combine="concat"` always has one on the way out.
        qk_norm: normalize queries and keys per head before they meet (RMSNorm).
        rotary: rotate queries and keys by position.
        dropout: share of attention weights dropped in training.
        combine: "project" or "concat".

    The input is `Packed` with values (total, dim), or a tensor (..., T, dim); the output has the same form.

    Raises:
        ShapeError: `dim` is no multiple of `heads` and no `head_dim` is given.
        ConfigError: `combine` is neither of the two.

    >>> layer = regard.nn.SelfAttention(32, heads=4)
    >>> layer(torch.randn(2, 7, 32), mask=regard.Causal()).shape
    torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        qk_norm: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
        combine: Combine = "project",
    ) -> None:
        super().__init__(dim, heads, kv_heads, head_dim, bias, qk_norm, dropout, combine)
        self.query_key_value = Linear(dim, (heads + 2 * self.kv_heads) * self.head_dim, bias=bias)
        self.rotary = Rotary(self.head_dim) if rotary else None

    def forward(
        self,
        x: Sequences,
        *,
        mask: Mask | Tensor | None = None,
        turns: Tensor | None = None,
        cache: KeyValueCache | PrefixCache | None = None,
        return_aux: Aux | None = None,
    ) -> Any:
        """Attend within each sequence.

        Arguments:
            x: `Packed` values (total, dim), or a tensor (..., T, dim); with a cache, sequences of one length.
            mask: which keys a query may see.
            turns: the rotation of the tokens' positions, when the caller has it already.
            cache: keys and values of earlier tokens, to which those of `x` are added; with a `PrefixCache`, `turns` say
                where the tokens stand, and what came before is all seen.
            return_aux: what to return beside the output, as for `regard.attention`.

        Returns:
            The output in the form of `x`; with `return_aux` a pair of it and an `AuxOutput`.

        Raises:
            ShapeError: the mask does not fit, or with a cache the sequences differ in length.
        """
        values = values_of(x)
        if self.rotary is not None and turns is None:
            start = cache.length if isinstance(cache, KeyValueCache) else 0
            turns = self.rotary(positions_of(x, start), values.dtype)
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        turns = None if self.rotary is None else turns
        query, key, value = project_heads(
            self.query_key_value, values, self.head_dim, sizes, 2, self.eps, turns
        )
        options: dict[str, Any] = {"mask": mask, "return_aux": return_aux}
        if isinstance(cache, PrefixCache) and isinstance(x, Packed):
            if cache.entry is not None:
                return like(x, self._out(query, _after_prefix(x.offsets, query, key, value, mask, cache)))
            cache.entry, cache.offsets = (key, value), x.offsets
            options["cu_seqlens_q"] = x.offsets
        elif isinstance(cache, PrefixCache):
            raise ShapeError(
                "a PrefixCache holds packed sequences. Expected: x as Packed. Received: a tensor."
            )
        elif cache is not None:
            query, key, value = (_one_length(x, array) for array in (query, key, value))
            key, value = cache.append(key, value)
            held = Lengths(k=cache.length)
            options["mask"] = held if mask is None else as_mask(mask) & held
        elif isinstance(x, Packed):
            options["cu_seqlens_q"] = x.offsets
        context, aux = self._attend(query, key, value, options)
        out = like(x, self._out(query, context).view_as(values_of(x)))
        return out if return_aux is None else (out, aux)

    @torch.no_grad()
    def load_multihead(self, source: nn.MultiheadAttention) -> SelfAttention:
        """Take over the weights of a `torch.nn.MultiheadAttention`, whose numbers this layer then gives.

        Raises ShapeError when widths, heads, biases or the formula differ.
        """
        if source.bias_k is not None or source.add_zero_attn:
            raise ShapeError(
                "expected a MultiheadAttention without add_bias_kv and add_zero_attn, which add a key."
            )
        if self.rotary is not None or self.query_norm is not None or self.combine != "project":
            raise ShapeError(
                "a MultiheadAttention has no rotation, no normalized queries and no concatenation. Expected a layer with "
                'rotary=False, qk_norm=False and combine="project".'
            )
        if source.in_proj_weight is None or source.in_proj_weight.shape != self.query_key_value.weight.shape:
            raise ShapeError(
                "expected a MultiheadAttention of the same width whose keys and values are as wide as its queries."
            )
        if source.num_heads != self.heads or (source.in_proj_bias is None) != (
            self.query_key_value.bias is None
        ):
            raise ShapeError(
                f"expected {self.heads} heads and bias={self.query_key_value.bias is not None}. "
                f"Received {source.num_heads} heads and bias={source.in_proj_bias is not None}."
            )
        self.query_key_value.weight.copy_(source.in_proj_weight)
        self.output.weight.copy_(source.out_proj.weight)
        if source.in_proj_bias is not None:
            self.query_key_value.bias.copy_(source.in_proj_bias)
            self.output.bias.copy_(source.out_proj.bias)
        return self


class CrossAttention(_Attention):
    """Multi-head attention of one set of sequences to another: a decoder's to its source, or captions' to their picture.

    `Q = x W_q`; `K, V = context W_k, context W_v`; the result is `attention(Q, K, V) W_o` (Vaswani et al. 2017).

    Arguments:
        dim: width of the tokens going in and coming out.
        heads: query heads; `dim` must be a multiple of it unless `head_dim` is given.
        context_dim: width of the context; by default `dim`.
        kv_heads: key and value heads that groups of query heads share; by default as many as `heads`.
        head_dim: size of one head; by default `dim / heads`.
        bias: whether the projections add a bias.
        qk_norm: normalize keys per head, and queries over all heads together as CTranslate2 does, before they meet (RMSNorm).
        dropout: share of attention weights dropped in training.

    The input is `Packed` with values (total, dim), or a tensor (..., T, dim); the output has the same form.

    Raises:
        ShapeError: `dim` is no multiple of `heads` and no `head_dim` is given.

    >>> layer = regard.nn.CrossAttention(32, heads=4)
    >>> captions = regard.Packed(torch.randn(9, 32), np.array([0, 4, 9]))
    >>> picture = regard.Packed(torch.randn(6, 32), np.array([0, 6]))
    >>> layer(captions, picture, key_sequence=np.array([0, 0])).values.shape
    torch.Size([9, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        context_dim: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, heads, kv_heads, head_dim, bias, qk_norm, dropout, "project")
        self.query = Linear(dim, heads * self.head_dim, bias=bias)
        self.key_value = Linear(context_dim or dim, 2 * self.kv_heads * self.head_dim, bias=bias)

    def forward(
        self,
        x: Sequences,
        context: Sequences,
        *,
        key_sequence: Any = None,
        mask: Mask | Tensor | None = None,
        cache: ContextCache | None = None,
        return_aux: Aux | None = None,
    ) -> Any:
        """Attend to the context.

        Arguments:
            x: `Packed` values (total, dim) of N sequences, or a tensor (..., T, dim).
            context: `Packed` values (total context, context_dim), or a tensor (..., S, context_dim), as `x` is.
            key_sequence: (N,) integers: which context sequence each sequence of a packed `x` reads; by default its own
                number.
            mask: which keys a query may see.
            cache: where the projected context is kept: it is projected at the first call only.
            return_aux: what to return beside the output, as for `regard.attention`.

        Returns:
            The output in the form of `x`; with `return_aux` a pair of it and an `AuxOutput`.

        Raises:
            ShapeError: one of `x` and `context` is packed and the other not, `key_sequence` comes with tensors, or
                sequences and mask do not fit together.
        """
        if isinstance(x, Packed) != isinstance(context, Packed):
            raise ShapeError(
                "x and context must both be Packed or both be tensors. Received one of each; pack both."
            )
        if key_sequence is not None and not isinstance(x, Packed):
            raise ShapeError(
                "key_sequence names sequences of packed arrays. Received tensors; pack x and context."
            )
        # Queries are normalized over all heads together, as if these were one.
        width = self.heads * self.head_dim
        (query,) = project_heads(self.query, values_of(x), width, [1], 1, self.eps, None)
        query = query.reshape(*query.shape[:-2], self.heads, self.head_dim)
        if cache is not None and cache.entry is not None:
            key, value = cache.entry
        else:
            sizes = [self.kv_heads, self.kv_heads]
            key, value = project_heads(
                self.key_value, values_of(context), self.head_dim, sizes, 1, self.eps, None
            )
            if cache is not None:
                cache.entry = key, value
        options: dict[str, Any] = {"mask": mask, "return_aux": return_aux}
        if isinstance(x, Packed) and isinstance(context, Packed):
            options |= {
                "cu_seqlens_q": x.offsets,
                "cu_seqlens_k": context.offsets,
                "key_sequence": key_sequence,
            }
        found, aux = self._attend(query, key, value, options)
        out = like(x, self._out(query, found))
        return out if return_aux is None else (out, aux)


def as_mask(mask: Mask | Tensor) -> Mask:
    """A mask, or a boolean tensor (N, H, T, S) as one."""
    return mask if isinstance(mask, Mask) else Dense(mask)


def _one_length(x: Sequences, values: Tensor) -> Tensor:
    """(total, H, D) of packed sequences of one length -> (N, T, H, D), which a cache takes."""
    if not isinstance(x, Packed):
        return values
    if len(set(x.lengths.tolist())) > 1:
        raise ShapeError(
            f"with a cache all sequences must have one length. Received lengths {x.lengths.tolist()}."
        )
    return values.unflatten(0, (len(x), -1))


def _after_prefix(
    offsets: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask | Tensor | None, cache: PrefixCache
) -> Tensor:
    """Attention (total, H, D) of sequences to their prefixes and, by `mask`, to themselves: two parts of the keys, joined."""
    lse = Aux(lse=True)
    before, of_before = attention(
        query, *cache.entry, cu_seqlens_q=offsets, cu_seqlens_k=cache.offsets, key_sequence=cache.key_sequence, return_aux=lse
    )  # type: ignore[misc]  # fmt: skip
    if cache.own is None:
        found, of_own = attention(query, key, value, mask=mask, cu_seqlens_q=offsets, return_aux=lse)
        own = found, of_own.lse
    else:
        steps = Packed(query, offsets)
        query, key, value = (_one_length(steps, array) for array in (query, key, value))
        held = cache.own.append(key, value)
        ends = Lengths(k=cache.own.length)
        inside = ends if mask is None else as_mask(mask) & ends
        found, of_own = attention(query, *held, mask=inside, return_aux=lse)
        own = found.flatten(0, 1), of_own.lse.flatten(0, 1)
    return merge((before, of_before.lse), own)[0]
