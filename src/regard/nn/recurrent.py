"""The recurrent control: LSTM layers of as many parameters in place of self-attention, over the same packed sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from regard._errors import ConfigError, ShapeError
from regard._masks import Causal
from regard._packed import Packed
from regard.nn._sequences import Sequences, like, values_of
from regard.nn.blocks import Decoder, DecoderBlock, Encoder, EncoderBlock
from regard.nn.cache import LayerCache, StateCache
from regard.nn.linear import Linear


class Recurrence(nn.Module):
    """An LSTM over each sequence (Hochreiter and Schmidhuber 1997; Gers et al. 2000), called as `SelfAttention` is.

    `[forward_t, backward_t] W_o`, where `forward` reads a sequence from its begin to token t and `backward` from its end;
    a causal layer has the first alone. The state's size is the one that brings the number of parameters closest to
    `parameters`, within a hundredth where the layer is 112 wide or more; for that the two directions may differ by one unit.

    Arguments:
        dim: width of the tokens going in and coming out.
        causal: a token reads what stands before it and itself, nothing behind it.
        parameters: how many to have; by default `4 * dim ** 2`, as many as `SelfAttention(dim, heads)`.

    >>> layer = regard.nn.Recurrence(64)
    >>> layer(regard.Packed(torch.randn(7, 64), np.array([0, 3, 3, 7]))).values.shape
    torch.Size([7, 64])
    >>> [sum(p.numel() for p in one.parameters()) for one in (layer, regard.nn.SelfAttention(64, heads=4))]
    [16320, 16384]
    """

    def __init__(self, dim: int, *, causal: bool = False, parameters: int | None = None) -> None:
        super().__init__()
        self.dim, self.causal = dim, causal
        self.sizes = _sizes(dim, 1 if causal else 2, 4 * dim**2 if parameters is None else parameters)
        self.layers = nn.ModuleList(nn.LSTM(dim, size) for size in self.sizes)
        self.output = Linear(sum(self.sizes), dim, bias=False)
        for layer in self.layers:
            _initialize(layer)

    def forward(
        self,
        x: Sequences,
        *,
        mask: Any = None,
        turns: Tensor | None = None,
        cache: StateCache | None = None,
    ) -> Sequences:
        """Read each sequence.

        Arguments:
            x: `Packed` values (total, dim), or a tensor (..., T, dim); with a cache, sequences of one length.
            mask: None, or for a causal layer `Causal()`: what a token reads is not for the caller to choose.
            turns: not used, since an LSTM knows the order of what it reads.
            cache: the state after earlier tokens, with which those of `x` go on.

        Returns:
            The output in the form of `x`.

        Raises:
            ConfigError: a mask that says something else, or a cache for a layer that is not causal.
            ShapeError: with a cache the sequences differ in length.
        """
        self._refuse(x, mask, cache)
        values = values_of(x)
        offsets = _offsets(x)
        # In float32 also under autocast: PyTorch would compile a bfloat16 product for every number of sequences still running.
        with torch.autocast(values.device.type, enabled=False):
            rows = values.reshape(-1, self.dim).to(self.output.weight.dtype)
            states = [
                _read(layer, rows, offsets, number == 1, cache) for number, layer in enumerate(self.layers)
            ]
        return like(x, self.output(torch.cat(states, dim=-1)).view_as(values))

    def _refuse(self, x: Sequences, mask: Any, cache: StateCache | None) -> None:
        if mask is not None and not (self.causal and isinstance(mask, Causal)):
            raise ConfigError(
                "a recurrent layer reads its sequence from end to end, or up to the token where it is causal. Expected: no mask"
                f"{', or Causal()' if self.causal else ''}. Received: {mask!r}. Leave it out, or use attention."
            )
        if cache is not None and not self.causal:
            raise ConfigError(
                "a layer that reads from both ends cannot go on token by token. Expected: causal=True, or no cache."
            )
        if cache is not None and isinstance(x, Packed) and len(set(x.lengths.tolist())) > 1:
            raise ShapeError(
                f"with a cache all sequences must have one length. Received lengths {x.lengths.tolist()}."
            )


class RecurrentEncoderBlock(EncoderBlock):
    """An encoder block that reads by `Recurrence`, from both ends, where `EncoderBlock` attends.

    Arguments and errors are those of `EncoderBlock`: `heads`, `kv_heads` and `qk_norm` say how large the attention is that
    it stands in for.

    >>> block = regard.nn.RecurrentEncoderBlock(32, heads=4, hidden=64)
    >>> block(torch.randn(2, 7, 32)).shape
    torch.Size([2, 7, 32])
    """

    def __init__(self, dim: int, heads: int, hidden: int, **options: Any) -> None:
        super().__init__(dim, heads, hidden, **options)
        self.attention = Recurrence(dim, parameters=_count(self.attention))  # type: ignore[assignment]


class RecurrentDecoderBlock(DecoderBlock):
    """A decoder block that reads what is written by `Recurrence`, and attends to its context as Bahdanau et al. 2015 do.

    Arguments and errors are those of `DecoderBlock`.

    >>> block = regard.nn.RecurrentDecoderBlock(32, heads=4, hidden=64)
    >>> block(torch.randn(2, 7, 32), torch.randn(2, 9, 32)).shape
    torch.Size([2, 7, 32])
    """

    def __init__(self, dim: int, heads: int, hidden: int, **options: Any) -> None:
        super().__init__(dim, heads, hidden, **options)
        self.attention = Recurrence(dim, causal=True, parameters=_count(self.attention))  # type: ignore[assignment]


class RecurrentEncoder(Encoder):
    """`Encoder` of recurrent blocks; arguments and errors are those of `Encoder`, and a mask is refused.

    >>> encoder = regard.nn.RecurrentEncoder(2, dim=32, heads=4, hidden=64)
    >>> encoder(regard.Packed(torch.randn(7, 32), np.array([0, 3, 7]))).values.shape
    torch.Size([7, 32])
    """

    block = RecurrentEncoderBlock


class RecurrentDecoder(Decoder):
    """`Decoder` of recurrent blocks; arguments and errors are those of `Decoder`.

    >>> decoder, context = regard.nn.RecurrentDecoder(2, dim=32, heads=4, hidden=64), torch.randn(3, 9, 32)
    >>> x, caches = torch.randn(3, 2, 32), decoder.caches()
    >>> steps = [decoder(x[:, t : t + 1], context, caches=caches) for t in range(2)]
    >>> torch.allclose(torch.cat(steps, 1), decoder(x, context), atol=1e-4)
    True
    """

    block = RecurrentDecoderBlock

    def caches(self) -> list[LayerCache]:
        """An empty state for every block."""
        return [LayerCache(StateCache()) for _ in self.blocks]


def encoder_of(kind: str) -> type[Encoder]:
    """The class of encoders of a kind; ConfigError where there is none."""
    return known_kind(kind, {"attention": Encoder, "recurrent": RecurrentEncoder})


def decoder_of(kind: str) -> type[Decoder]:
    """The class of decoders of a kind; ConfigError where there is none."""
    return known_kind(kind, {"attention": Decoder, "recurrent": RecurrentDecoder})


def known_kind(kind: str, classes: dict[str, Any]) -> Any:
    """The class of a kind; ConfigError where there is none."""
    if kind not in classes:
        raise ConfigError(f"there are no layers of kind {kind!r}. Expected one of: {', '.join(classes)}.")
    return classes[kind]


def _read(layer: Any, rows: Tensor, offsets: np.ndarray, backward: bool, cache: StateCache | None) -> Tensor:
    """The states (total, size) of one direction at all tokens (total, dim)."""
    if not len(rows):  # an LSTM refuses to read nothing
        return rows.new_zeros(0, layer.hidden_size)
    order, sizes = time_order(offsets, backward)
    place = torch.from_numpy(order).to(rows.device)
    data = rows.new_empty(rows.shape).index_copy(0, place, rows)
    # Sequences of one length, as a cache wants them, keep their order: a state belongs to the sequence of its number.
    before = None if cache is None else cache.state
    found, after = layer(PackedSequence(data, torch.from_numpy(sizes)), before)
    if cache is not None:
        cache.advance(after, len(sizes))
    return found.data[place]


def time_order(offsets: np.ndarray, backward: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Where each token of packed sequences stands in a `PackedSequence`, and how many sequences run at each time.

    A `PackedSequence` holds the first tokens of all sequences, then the second ones, and so on, longest sequence first;
    with `backward` the last tokens, then the last but one. Nothing is padded and nothing loops over sequences.

    Arguments:
        offsets: (N + 1,) integers.
        backward: read from the ends.

    Returns:
        (total,) int64 places and (longest,) int64 numbers of sequences.

    >>> time_order(np.array([0, 2, 2, 5]))
    (array([1, 3, 0, 2, 4]), array([2, 2, 1]))
    """
    lengths = np.diff(offsets).astype(np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    rank = np.empty_like(longest_first)
    rank[longest_first] = np.arange(len(lengths))
    ending = np.bincount(lengths, minlength=1)  # how many sequences have each length
    running = len(lengths) - np.cumsum(ending)[:-1]  # at time t: those that are longer than t
    begins = np.concatenate([[0], np.cumsum(running)[:-1]]) if len(running) else running
    within = np.arange(lengths.sum()) - np.repeat(offsets[:-1].astype(np.int64), lengths)
    time = np.repeat(lengths, lengths) - 1 - within if backward else within
    return begins[time] + np.repeat(rank, lengths), running


def _offsets(x: Sequences) -> np.ndarray:
    if isinstance(x, Packed):
        return x.offsets
    length = x.shape[-2]
    return np.arange(x.shape[:-2].numel() + 1, dtype=np.int64) * length


def _sizes(dim: int, directions: int, parameters: int) -> tuple[int, ...]:
    """Units of each direction, equal or one apart, for about so many parameters with the way out."""

    def split(units: int) -> tuple[int, ...]:
        return tuple((units + number) // directions for number in range(directions))

    def cost(units: int) -> int:  # PyTorch's LSTM has four gates, each with two biases
        return sum(4 * size * (dim + size + 2) + size * dim for size in split(units))

    units = directions
    while cost(units + 1) <= parameters:
        units += 1
    return split(min(units, units + 1, key=lambda candidate: abs(cost(candidate) - parameters)))


@torch.no_grad()
def _initialize(layer: Any) -> None:
    """Every gate for itself: Xavier's weights from tokens, orthogonal ones from the state; all remember at first.

    A forget gate that begins open lets gradients pass over long gaps (Jozefowicz et al. 2015).
    """
    for weight in layer.weight_ih_l0.chunk(4):
        nn.init.xavier_uniform_(weight)
    for weight in layer.weight_hh_l0.chunk(4):
        nn.init.orthogonal_(weight)
    nn.init.zeros_(layer.bias_ih_l0)
    nn.init.zeros_(layer.bias_hh_l0)
    nn.init.ones_(layer.bias_ih_l0.chunk(4)[1])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
