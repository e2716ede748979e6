"""What a layer keeps while a sequence is written token by token: keys and values, or the state of a recurrence."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class KeyValueCache:
    """Keys and values of N sequences of equal length so far, with room to grow.

    The tokens stand in one flat array, so that attention reads them in place: sequence n has the rows
    `n * capacity` to `n * capacity + length`.

    >>> layer, cache = regard.nn.SelfAttention(8, heads=2), regard.nn.KeyValueCache()
    >>> x = torch.randn(1, 3, 8)
    >>> steps = [layer(x[:, t : t + 1], mask=regard.Causal(), cache=cache) for t in range(3)]
    >>> torch.allclose(torch.cat(steps, 1), layer(x, mask=regard.Causal()), atol=1e-4)
    True
    """

    def __init__(self, room: int = 16) -> None:
        """`room`: tokens of a sequence for which there is room at once; more are taken in, at the cost of a copy."""
        self.length, self.room = 0, room
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys (N, t, Hk, D) and values (N, t, Hk, Dv) of t tokens; returns both for all tokens, with spare room.

        The result has the shape (N, capacity, Hk, D); only the first `length` rows of each sequence are meant.
        """
        self._keys = self._grown(self._keys, keys)
        self._values = self._grown(self._values, values)
        self._keys[:, self.length : self.length + keys.shape[1]] = keys
        self._values[:, self.length : self.length + keys.shape[1]] = values
        self.length += keys.shape[1]
        return self._keys, self._values

    def keep(self, sequences: Tensor) -> None:
        """Go on with these sequences, (M,) integers; one may be named several times."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[sequences], self._values[sequences]

    def _grown(self, store: Tensor | None, new: Tensor) -> Tensor:
        needed = self.length + new.shape[1]
        if store is not None and needed <= store.shape[1]:
            return store
        # Zeros: the spare room is never attended to, but arrays that hold NaN take a slower path.
        room = max(self.room, needed) if store is None else 2 * needed
        grown = new.new_zeros(new.shape[0], room, *new.shape[2:])
        if store is not None:
            grown[:, : self.length] = store[:, : self.length]
        return grown


class PrefixCache:
    """Keys and values of sequences that others go on with: many may go on with one, which is read in place by all of them.

    The first call of the layer reads the prefixes, packed and of any lengths. After `branch` come sequences that each go on
    with one of them: all at once, packed and of any lengths, or, where there is `room`, token by token.

    Arguments:
        room: tokens of a sequence for which there is room; 0: the next call is the last one.

    >>> layer, cache = regard.nn.SelfAttention(8, heads=2), regard.nn.PrefixCache(room=0)
    >>> x = torch.randn(7, 8)
    >>> _ = layer(regard.Packed(x[:3], [0, 3]), mask=regard.Causal(), cache=cache)
    >>> cache.branch(torch.tensor([0, 0]))
    >>> two = layer(regard.Packed(x[[3, 4, 3]], [0, 2, 3]), mask=regard.Causal(), cache=cache).values
    >>> one = layer(regard.Packed(x[:5], [0, 5]), mask=regard.Causal()).values
    >>> torch.allclose(two, one[[3, 4, 3]], atol=1e-4)
    True
    """

    def __init__(self, room: int) -> None:
        self.own = KeyValueCache(room) if room else None
        self.entry: tuple[Tensor, Tensor] | None = None
        self.offsets: Any = None
        self.key_sequence: Tensor | None = None

    def branch(self, prefixes: Tensor) -> None:
        """Go on with (M,) sequences, of which sequence m goes on with prefix `prefixes[m]`."""
        self.key_sequence = prefixes

    def keep(self, sequences: Tensor) -> None:
        """Go on with these sequences, (M,) integers; one may be named several times."""
        if self.key_sequence is not None:
            self.key_sequence = self.key_sequence[sequences]
        if self.own is not None:
            self.own.keep(sequences)


class StateCache:
    """The state of a recurrence after N sequences of equal length so far.

    >>> layer, cache = regard.nn.Recurrence(8, causal=True), regard.nn.StateCache()
    >>> x = torch.randn(1, 3, 8)
    >>> steps = [layer(x[:, t : t + 1], cache=cache) for t in range(3)]
    >>> torch.allclose(torch.cat(steps, 1), layer(x), atol=1e-5)
    True
    """

    def __init__(self) -> None:
        self.length = 0
        self.state: tuple[Tensor, Tensor] | None = None

    def advance(self, state: tuple[Tensor, Tensor], tokens: int) -> None:
        """Take the hidden and cell states (1, N, size) after so many tokens more."""
        self.state = state
        self.length += tokens

    def keep(self, sequences: Tensor) -> None:
        """Go on with these sequences, (M,) integers; one may be named several times."""
        if self.state is not None:
            hidden, cell = self.state
            self.state = hidden[:, sequences], cell[:, sequences]


class ContextCache:
    """Keys and values of a context that is encoded once and read at every step."""

    def __init__(self) -> None:
        self.entry: tuple[Tensor, Tensor] | None = None


class LayerCache:
    """What one decoder block keeps between steps: `own`, of its tokens, and `context`, the keys and values of its context.

    Arguments:
        own: an empty cache of the layer that reads the tokens; by default one for keys and values.

    >>> block, cache = regard.nn.DecoderBlock(8, heads=2, hidden=16), regard.nn.LayerCache()
    >>> _ = block(torch.randn(3, 1, 8), torch.randn(3, 5, 8), cache=cache)
    >>> cache.own.length
    1
    """

    def __init__(self, own: KeyValueCache | PrefixCache | StateCache | None = None) -> None:
        self.own: Any = own or KeyValueCache()
        self.context = ContextCache()


def keep(caches: list[LayerCache], sequences: Tensor) -> None:
    """Go on with these sequences in every layer."""
    for cache in caches:
        cache.own.keep(sequences)
