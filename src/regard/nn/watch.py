"""Looking at attention: the weights of every layer in one forward pass, computed by the kernel that runs anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from regard._errors import ConfigError
from regard.nn.attention import WATCHED, CrossAttention, SelfAttention


@contextmanager
def watch(
    model: nn.Module, kind: type[SelfAttention | CrossAttention] = CrossAttention
) -> Iterator[list[Tensor]]:
    """Collect the weights (T, H, S) of every query in each layer of one kind, in the order in which they run.

    Meant for one sequence at a time: all rows of a forward pass are kept, padded to the longest key sequence. What other
    threads do with the model meanwhile is not seen.

    >>> layer = regard.nn.SelfAttention(8, heads=2)
    >>> with regard.nn.watch(layer, regard.nn.SelfAttention) as seen:
    ...     _ = layer(torch.randn(1, 5, 8))
    >>> seen[0].shape
    torch.Size([5, 2, 5])

    Raises:
        ConfigError: there is no such layer, as in a recurrent encoder, or none of them ran, as when a compiled model is called.
    """
    seen: list[Tensor] = []
    layers = [module for module in model.modules() if isinstance(module, kind)]
    if not layers:
        raise ConfigError(
            f"there is no attention to look at. Expected: a model with layers of {kind.__name__}. "
            f"Received: {type(model).__name__} without one; a recurrent encoder has none."
        )
    before = WATCHED.get()
    others = before or {}
    WATCHED.set({**others, **{layer: (*others.get(layer, ()), seen) for layer in layers}})
    try:
        yield seen
    finally:
        WATCHED.set(before)  # a token would not do: a generator may be closed from another context
    if not seen:
        raise ConfigError(
            f"nothing was looked at. Expected: a call of {type(model).__name__} while it is watched. Received: none of its layers of "
            f"{kind.__name__} ran. To mend it: call the model itself in this thread, not what torch.compile made of it."
        )
