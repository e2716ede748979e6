"""Pre-norm blocks, and the encoder and decoder that stack them."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from regard._masks import Causal, Mask
from regard.nn._sequences import Sequences, form_of, like, positions_of, values_of
from regard.nn._stack import Half, compute
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.cache import LayerCache
from regard.nn.feedforward import Dropout, FeedForward
from regard.nn.norm import RMSNorm
from regard.nn.residual import Stream
from regard.nn.rotary import Rotary

CAUSAL = Causal()


class EncoderBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))` (pre-norm: Xiong et al. 2020).

    Arguments:
        dim: width of the tokens going in and coming out.
        heads: query heads; `dim / heads` must be even, because positions are rotary.
        hidden: width of the feed-forward.
        dropout: share of the entries dropped at the end of both branches, in training.
        kv_heads: key and value heads that groups of query heads share; by default as many as `heads`.
        qk_norm: normalize queries and keys per head before they meet.

    Raises:
        ShapeError: `dim` is no multiple of `heads`, or heads are of odd size.

    >>> block = regard.nn.EncoderBlock(32, heads=4, hidden=64)
    >>> block(torch.randn(2, 7, 32)).shape
    torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        kv_heads: int | None = None,
        qk_norm: bool = True,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm()
        self.attention = SelfAttention(dim, heads, kv_heads=kv_heads, qk_norm=qk_norm, rotary=True)
        self.feed_forward_norm = RMSNorm()
        self.feed_forward = FeedForward(dim, hidden)
        self.dropout = Dropout(dropout)

    @property
    def halves(self) -> list[Half]:
        """What it is made of, in order."""
        return [
            Half(self.attention_norm, self.attention, self.dropout),
            Half(self.feed_forward_norm, self.feed_forward, self.dropout),
        ]

    def forward(
        self,
        x: Sequences | Stream,
        *,
        mask: Mask | Tensor | None = None,
        turns: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Any:
        """`Packed` (total, dim) or a tensor (..., T, dim), in and out; arguments as for `SelfAttention.forward`.

        Within a stack the stream of the block before goes in, and one comes out.
        """
        return self._feed(self._attend(Stream.of(x), mask, turns, cache)).like(x)

    def _attend(self, stream: Stream, mask: Any, turns: Tensor | None, cache: LayerCache | None) -> Stream:
        stream, inside = stream.normalized(self.attention_norm)
        found = self.attention(inside, mask=mask, turns=turns, cache=None if cache is None else cache.own)
        return stream.add(values_of(found), self.dropout)

    def _feed(self, stream: Stream) -> Stream:
        stream, inside = stream.normalized(self.feed_forward_norm)
        return stream.add(self.feed_forward(values_of(inside)), self.dropout)


class DecoderBlock(EncoderBlock):
    """An encoder block, causal, that attends to a context between its two halves.

    `x + attention(norm(x))`, then `x + attention(norm(x), context)`, then `x + feed_forward(norm(x))`. Arguments and
    errors are those of `EncoderBlock`; the context has the width `dim`.

    >>> block = regard.nn.DecoderBlock(32, heads=4, hidden=64)
    >>> block(torch.randn(2, 7, 32), torch.randn(2, 9, 32)).shape
    torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        kv_heads: int | None = None,
        qk_norm: bool = True,
    ) -> None:
        super().__init__(dim, heads, hidden, dropout=dropout, kv_heads=kv_heads, qk_norm=qk_norm)
        self.context_norm = RMSNorm()
        self.context_attention = CrossAttention(dim, heads, kv_heads=kv_heads, qk_norm=qk_norm)

    @property
    def halves(self) -> list[Half]:
        """Those of an encoder block, with the attention to the context between them."""
        own, feed = super().halves
        return [own, Half(self.context_norm, self.context_attention, self.dropout), feed]

    def forward(  # type: ignore[override]
        self,
        x: Sequences | Stream,
        context: Sequences,
        *,
        key_sequence: Any = None,
        turns: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Any:
        """`Packed` (total, dim) or a tensor (..., T, dim), in and out; arguments as for `CrossAttention.forward`.

        Within a stack the stream of the block before goes in, and one comes out.
        """
        stream = self._attend(Stream.of(x), CAUSAL, turns, cache)
        stream, inside = stream.normalized(self.context_norm)
        store = None if cache is None else cache.context
        found = self.context_attention(inside, context, key_sequence=key_sequence, cache=store)
        return self._feed(stream.add(values_of(found), self.dropout)).like(x)


class Stack(nn.Module):
    """A stack of blocks and a last normalization."""

    block: ClassVar[type[EncoderBlock]]

    def __init__(self, layers: int, dim: int, heads: int, hidden: int, **options: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.block(dim, heads, hidden, **options) for _ in range(layers))
        self.norm = RMSNorm()
        self.rotary = Rotary(dim // heads)

    @property
    def halves(self) -> list[Half]:
        """Those of all blocks, in order."""
        return [half for block in self.blocks if isinstance(block, EncoderBlock) for half in block.halves]


class Encoder(Stack):
    """A stack of encoder blocks and a last normalization; every token sees its whole sequence unless a mask says less.

    Arguments:
        layers: number of blocks.
        dim: width of the tokens.
        heads: query heads of each block.
        hidden: width of each feed-forward.
        options: `dropout`, `kv_heads` and `qk_norm`, as for `EncoderBlock`.

    Raises:
        ShapeError: `dim` is no multiple of `heads`, or heads are of odd size.

    >>> encoder = regard.nn.Encoder(2, dim=32, heads=4, hidden=64)
    >>> encoder(regard.Packed(torch.randn(7, 32), np.array([0, 3, 7]))).values.shape
    torch.Size([7, 32])
    """

    block: ClassVar[type[EncoderBlock]] = EncoderBlock

    def forward(
        self, x: Sequences, *, mask: Mask | Tensor | None = None, turns: Tensor | None = None
    ) -> Sequences:
        """`Packed` (total, dim) or a tensor (..., T, dim), in and out; arguments as for `SelfAttention.forward`."""
        if turns is None:
            turns = self.rotary(positions_of(x), values_of(x).dtype)
        form = form_of(x)

        def by_blocks(values: Tensor, _: Tensor | None) -> Tensor:
            stream = Stream(like(form, values))
            for block in self.blocks:
                stream = block(stream, mask=mask, turns=turns)
            return values_of(stream.normalized(self.norm, leaves=True)[1])

        return like(x, compute(self, by_blocks, x, mask=mask, turns=turns))


class Decoder(Stack):
    """A stack of decoder blocks and a last normalization; with caches it goes on where it stopped.

    Arguments and errors are those of `Encoder`.

    >>> decoder, context = regard.nn.Decoder(2, dim=32, heads=4, hidden=64), torch.randn(3, 9, 32)
    >>> x, caches = torch.randn(3, 2, 32), decoder.caches()
    >>> steps = [decoder(x[:, t : t + 1], context, caches=caches) for t in range(2)]
    >>> torch.allclose(torch.cat(steps, 1), decoder(x, context), atol=1e-4)
    True
    """

    block: ClassVar[type[DecoderBlock]] = DecoderBlock

    def forward(
        self,
        x: Sequences,
        context: Sequences,
        *,
        key_sequence: Any = None,
        caches: list[LayerCache] | None = None,
    ) -> Sequences:
        """Hidden states of the tokens, in the form of `x`.

        Arguments:
            x: `Packed` (total, dim) or a tensor (..., T, dim): all tokens, or with caches the next ones of each sequence.
            context: what the blocks read, `Packed` or a tensor as `x` is.
            key_sequence: (N,) integers: which context sequence each sequence of a packed `x` reads.
            caches: those of `caches()`, filled by the steps before; sequences must then have one length.

        Raises:
            ShapeError: as `CrossAttention.forward`, or with caches the sequences differ in length.
        """
        start = caches[0].own.length if caches else 0
        turns = self.rotary(positions_of(x, start), values_of(x).dtype)
        form, form_read = form_of(x), form_of(context)

        def by_blocks(values: Tensor, read: Tensor) -> Tensor:
            stream, source = Stream(like(form, values)), like(form_read, read)
            for number, block in enumerate(self.blocks):
                cache = caches[number] if caches else None
                stream = block(stream, source, key_sequence=key_sequence, turns=turns, cache=cache)
            return values_of(stream.normalized(self.norm, leaves=True)[1])

        if caches:
            return like(x, by_blocks(values_of(x), values_of(context)))
        return like(
            x, compute(self, by_blocks, x, context, mask=CAUSAL, key_sequence=key_sequence, turns=turns)
        )

    def caches(self) -> list[LayerCache]:
        """An empty cache for every block."""
        return [LayerCache() for _ in self.blocks]
