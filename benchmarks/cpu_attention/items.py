"""The work items, as data: what is computed, and which peers compute it too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

FORWARD = ("forward",)
BOTH = ("forward", "f+b")


@dataclass(frozen=True)
class Item:
    """One piece of work; `lengths` are the queries', `caches` the keys' where they differ."""

    name: str
    group: str
    lengths: tuple[int, ...]
    caches: tuple[int, ...] | None = None
    heads: int = 8
    key_heads: int = 8
    size: int = 64
    causal: bool = False
    window: int = 0  # how many keys a query sees, itself among them; 0: all
    dropout: float = 0.0
    bias: str | None = None  # "relative" (a table with a gradient) or "alibi" (fixed slopes)
    passes: tuple[str, ...] = BOTH
    long: bool = False  # only with --long

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """The keys' lengths."""
        return self.lengths if self.caches is None else self.caches

    @property
    def is_packed(self) -> bool:
        """Whether ours gets packed arrays."""
        return self.group == "ragged"


# What each group is measured against (names of `contenders.CONTENDERS`), and what limits it.
PEERS = {
    "ragged": ("padded", "unmasked", "loop", "jagged"),
    "dense": ("sdpa",),
    "window": ("flex", "masked"),
    "dropout": ("sdpa",),
    "bias": ("biased",),
    "decode": ("sdpa",),
    "tiny": ("sdpa",),
    "sweep": ("sdpa",),
}
LIMITED_BY_READING = {"decode"}
EXPLANATIONS = {
    "ragged": "real sentences; padded: SDPA, boolean key mask; unmasked: without a mask, where none is needed",
    "dense": "sequences of one length; sdpa: contiguous (B, H, N, D)",
    "window": "each query sees the last 256 keys; flex: compiled FlexAttention; masked: SDPA with an N x N mask",
    "dropout": "share dropped 0.1",
    "bias": "relative: a table with a gradient, alibi: fixed slopes; biased: SDPA, the N x N bias built from them",
    "decode": "64 sequences against their caches; grouped: 8 heads over 2 key heads (SDPA: enable_gqa)",
    "tiny": "sequences x tokens, 8 heads of 64: what a call costs before it computes",
}


def default_items(corpora: dict[str, dict[str, tuple[int, ...]]]) -> Iterator[Item]:
    """All items of the default run; `corpora` holds the lengths of each corpus's batches, by name."""
    for corpus, batches in corpora.items():
        for batch, lengths in batches.items():
            yield from _causal_too(Item(f"{corpus}-{batch}", "ragged", lengths))
    for length, count in ((128, 8), (512, 4), (2048, 1)):
        yield from _causal_too(Item(f"dense-{length}", "dense", (length,) * count))
    for item in _causal_too(Item("dense-8192", "dense", (8192,), passes=FORWARD)):
        yield item
        yield replace(item, name=f"{item.name}-long", passes=("f+b",), long=True)
    yield Item("window-8192", "window", (8192,), causal=True, window=256)
    yield from _causal_too(Item("dropout-2048", "dropout", (2048,), dropout=0.1))
    yield from _causal_too(Item("relative-2048", "bias", (2048,), bias="relative"))
    yield Item("alibi-2048", "bias", (2048,), bias="alibi", causal=True)
    for cache in (512, 2048, 8192):
        yield from _decoding(cache)
    for count, length in ((1, 1), (1, 8), (1, 64), (4, 8), (16, 16)):
        yield Item(f"tiny-{count}x{length}", "tiny", (length,) * count)


def _causal_too(item: Item) -> Iterator[Item]:
    yield item
    yield replace(item, name=f"{item.name}-causal", causal=True)


def _decoding(cache: int) -> Iterator[Item]:
    for queries in (1, 4):
        for key_heads, suffix in ((8, ""), (2, "-grouped")):
            yield Item(
                f"decode-{cache}-{queries}q{suffix}",
                "decode",
                (queries,) * 64,
                caches=(cache,) * 64,
                key_heads=key_heads,
                passes=FORWARD,
            )
