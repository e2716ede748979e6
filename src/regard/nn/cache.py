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

    def __init__(self) -> None:
        self.length = 0
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
        grown = new.new_zeros(new.shape[0], max(16, 2 * needed), *new.shape[2:])
        if store is not None:
            grown[:, : self.length] = store[:, : self.length]
        return grown


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

    def __init__(self, own: KeyValueCache | StateCache | None = None) -> None:
        self.own: Any = own or KeyValueCache()
        self.context = ContextCache()


def keep(caches: list[LayerCache], sequences: Tensor) -> None:
    """Go on with these sequences in every layer."""
    for cache in caches:
        cache.own.keep(sequences)
