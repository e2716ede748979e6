"""The masks of transformers' models as a formula, which a tensor carries through the model.

Shapes: B batch, T queries, S keys.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree
from transformers import masking_utils

from regard._masks import Dense, Lengths, Mask, Window


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which keys a query sees: `-right <= start + query - key <= left`, of its own document, and no padding."""

    left: float = math.inf
    right: float = math.inf
    start: int = 0
    keep: Tensor | None = None  # (B, S) booleans, False: padding
    documents: Tensor | None = None  # (B, T): tokens of one document have one number; T = S
    aligned: bool = False  # whether query i and key start + i are surely the same token

    @property
    def is_local(self) -> bool:
        """Whether it matters where query and key stand."""
        return (self.left, self.right) != (math.inf, math.inf)

    @property
    def is_windowed(self) -> bool:
        """Whether distances count, and not only what comes first."""
        return self.left != math.inf or self.right not in (0, math.inf)

    @property
    def window(self) -> Mask | None:
        """What of it is a matter of positions."""
        return Window(self.left, self.right) if self.is_local else None

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """How many keys of each sequence are kept, where these are its first ones."""
        if self.keep is None:
            return None
        lengths = self.keep.sum(1)
        first = torch.arange(self.keep.shape[1], device=self.keep.device) < lengths[:, None]
        return lengths.cpu().numpy() if torch.equal(first, self.keep) else None

    @cached_property
    def has_holes(self) -> bool:
        """Whether padding stands between tokens that are kept."""
        return self.keep is not None and bool(
            ((self.keep[:, 1:] & ~self.keep[:, :-1]).sum(1) + self.keep[:, 0] > 1).any()
        )

    @cached_property
    def packing(self) -> Packing:
        """The tokens that are kept, where queries and keys are the same tokens."""
        if self.documents is not None:
            changes = self.documents.diff(dim=1, prepend=self.documents[:, :1] - 1) != 0
            starts = changes.flatten().nonzero().flatten().cpu().numpy()
            return Packing(None, np.append(starts, changes.numel()).astype(np.int32), changes.shape)
        keep = torch.ones(0, 0) if self.keep is None else self.keep
        return Packing(keep.flatten().nonzero().flatten(), _ends(keep.sum(1)), keep.shape)

    def dense(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """(B, 1, T, S) booleans, True = may attend."""
        distance = (
            torch.arange(shape[2], device=device)[:, None]
            - torch.arange(shape[3], device=device)
            + self.start
        )
        allowed = ((distance <= self.left) & (distance >= -self.right))[None, None]
        if self.keep is not None:
            allowed = allowed & self.keep[:, None, None]
        if self.documents is not None:
            allowed = allowed & (self.documents[:, None, :, None] == self.documents[:, None, None, :])
        return allowed.expand(shape)


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of (B, T) stand that are kept, None for all, and the offsets of their sequences."""

    tokens: Tensor | None
    offsets: np.ndarray
    shape: Sequence[int]

    def pack(self, array: Tensor) -> Tensor:
        """(B, T, ...) -> (total, ...)."""
        flat = array.flatten(0, 1)
        return flat if self.tokens is None else flat.index_select(0, self.tokens)

    def pad(self, values: Tensor) -> Tensor:
        """(total, ...) -> (B, T, ...), with 0 in the padding."""
        if self.tokens is not None:
            empty = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[1:])
            values = empty.index_copy(0, self.tokens, values)
        return values.unflatten(0, self.shape)


class PatternMask(Tensor):
    """A boolean tensor (B, 1, T, S), True = may attend, that knows its formula and gets its numbers when somebody looks.

    Models hand it on, cut it or combine it as any tensor; what they make of it has numbers.
    """

    pattern: Pattern

    @staticmethod
    def __new__(cls: type[Self], pattern: Pattern, shape: tuple[int, ...], device: Any) -> Self:
        mask = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        mask.pattern = pattern
        return mask

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = _pytree.tree_map_only(
            cls, lambda mask: mask.pattern.dense(tuple(mask.shape), mask.device), (args, kwargs or {})
        )
        return function(*args, **kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PatternMask({tuple(self.shape)}, {self.pattern})"


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    **options: Any,
) -> Tensor | None:
    """The interface of transformers' mask makers: a `PatternMask`, or booleans where a tracer or an unknown function wants these."""
    found = None
    if not _is_traced(attention_mask, q_offset):
        found = _read(mask_function)
    if found is None:
        return masking_utils.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, device=device,
            **options,
        )  # fmt: skip
    left, right, documents = found
    keep = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if keep is not None:
        keep = keep[:, kv_offset : kv_offset + kv_length].to(torch.bool)
        keep = None if bool(keep.all()) else keep.expand(batch_size, -1)
    start = int(q_offset) - kv_offset
    aligned = right == 0 or documents is not None
    pattern = Pattern(left, right, start, keep, documents, aligned)
    return PatternMask(pattern, (batch_size, 1, q_length, kv_length), device)


def _is_traced(attention_mask: Tensor | None, q_offset: Any) -> bool:
    tensors = [one for one in (attention_mask, q_offset) if isinstance(one, Tensor)]
    return torch.compiler.is_compiling() or any(map(masking_utils.is_tracing, tensors))


# Every call of a maker gives a new function of the same code.
_NOTHING = torch.zeros(1, 1, dtype=torch.long)
_AND, _BACK, _AROUND, _DOCUMENTS, _POSITIONS = (
    function.__code__
    for function in (
        masking_utils.and_masks(masking_utils.causal_mask_function),
        masking_utils.sliding_window_overlay(1),
        masking_utils.sliding_window_bidirectional_overlay(1),
        masking_utils.packed_sequence_mask_function(_NOTHING),
        masking_utils.remap_positions_for_packed_sequence(masking_utils.causal_mask_function, _NOTHING),
    )
)


def _read(function: Callable[..., Any]) -> tuple[float, float, Tensor | None] | None:
    """How far back and ahead a mask function of transformers lets a query see, and its documents; None: it says more."""
    if function is masking_utils.causal_mask_function:
        return math.inf, 0, None
    if function is masking_utils.bidirectional_mask_function:
        return math.inf, math.inf, None
    code: CodeType | None = getattr(function, "__code__", None)
    if code not in (_AND, _BACK, _AROUND, _DOCUMENTS, _POSITIONS):
        return None
    inside = inspect.getclosurevars(function).nonlocals
    if code is _BACK:
        return inside["sliding_window"] - 1, math.inf, None
    if code is _AROUND:
        return inside["sliding_window"], inside["sliding_window"], None
    if code is _DOCUMENTS:
        return math.inf, math.inf, inside["packed_sequence_mask"]
    if code is _POSITIONS:  # differences of positions are the same, as long as documents stand beside it
        return _read(inside["mask_function"])
    return _intersected([_read(part) for part in inside["mask_functions"]])


def _intersected(parts: list[Any]) -> tuple[float, float, Tensor | None] | None:
    if any(part is None for part in parts):
        return None
    documents = [part[2] for part in parts if part[2] is not None]
    if len(documents) > 1:
        return None
    return min(part[0] for part in parts), min(part[1] for part in parts), (documents or [None])[0]


def _ends(lengths: Tensor) -> np.ndarray:
    return np.append(0, np.cumsum(lengths.cpu().numpy())).astype(np.int32)


def key_mask(pattern: Pattern, *, aligned: bool) -> Mask | None:
    """A pattern without documents as a mask for padded arrays; `aligned`: padding is no query either."""
    masks: list[Mask] = [] if pattern.window is None else [pattern.window]
    if pattern.lengths is not None:
        masks.append(Lengths(q=pattern.lengths if aligned and not pattern.start else None, k=pattern.lengths))
    elif pattern.keep is not None:
        masks.append(Dense(pattern.keep[:, None, None]))
    return functools.reduce(operator.and_, masks) if masks else None
