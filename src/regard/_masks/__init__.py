"""Masks: which keys a query may see, as immutable values over positions that combine with `&`, `|` and `~`."""

from regard._masks._arrays import check_dense, dense_index, dense_lookup
from regard._masks._base import And, Coordinates, Mask, Not, Or, count_pairs
from regard._masks._vocabulary import (
    Causal,
    Dense,
    Documents,
    Global,
    Lengths,
    Prefix,
    Window,
    conjuncts,
    split_lengths,
)

__all__ = [
    "Causal",
    "Window",
    "Prefix",
    "Global",
    "Documents",
    "Lengths",
    "Dense",
    "Mask",
    "And",
    "Or",
    "Not",
    "Coordinates",
    "conjuncts",
    "split_lengths",
    "count_pairs",
    "dense_index",
    "dense_lookup",
    "check_dense",
]
