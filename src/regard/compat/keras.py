"""Keras 3: `keras.ops.dot_product_attention` by `regard.attention`, by itself or behind Keras' own name.

Shapes: B batch, T queries, S keys, N query heads, K key heads, H head size, as Keras calls them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from regard._attention import attention
from regard._errors import BackendError, ShapeError
from regard._masks import Causal, Dense, Mask

_NAME = "dot_product_attention"


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,  # noqa: ARG001  # Keras' signature
    attn_logits_soft_cap: float | None = None,
) -> Any:
    """`keras.ops.dot_product_attention` in memory O(T + S), on the arrays of Keras' backend.

    Where it differs: bias, mask and `is_causal` intersect on every backend, where Keras' on PyTorch refuses bias with mask; a query
    that may see nothing gives 0, where Keras gives a mean; values may have a size of their own.

    Arguments:
        query: (B, T, N, H).
        key: (B, S, K, H), N a multiple of K.
        value: (B, S, K, Hv).
        bias: numbers added to the scores, broadcastable to (B, N, T, S), or a `regard` bias. Differentiable.
        mask: booleans broadcastable to (B, N, T, S), True = may attend, or a `regard.Mask`.
        scale: factor of the scores; by default `1 / sqrt(H)`.
        is_causal: query t sees the keys 0 to t, whatever the lengths.
        flash_attention: taken and not looked at: memory is always O(T + S).
        attn_logits_soft_cap: bound of the scores, `cap * tanh(scores / cap)`.

    Returns:
        (B, T, N, Hv).

    Raises:
        ShapeError: arrays without four dimensions, or that do not fit together.

    Source: https://keras.io/api/ops/nn/#dot_product_attention-function

    >>> import regard.compat.keras
    >>> x = np.ones((2, 5, 4, 8), "float32")
    >>> tuple(regard.compat.keras.dot_product_attention(x, x, x, is_causal=True).shape)
    (2, 5, 4, 8)
    """
    if any(isinstance(array, keras.KerasTensor) for array in (query, key, value, bias, mask)):
        options: dict[str, Any] = {
            "is_causal": is_causal,
            "scale": scale,
            "attn_logits_soft_cap": attn_logits_soft_cap,
        }
        return DotProductAttention(**options)(query, key, value, bias=bias, mask=mask)
    query, key, value = (ops.convert_to_tensor(array) for array in (query, key, value))
    if any(len(array.shape) != 4 for array in (query, key, value)):
        raise ShapeError(
            f"{_NAME} takes arrays (B, T, N, H) of four dimensions. "
            f"Received shapes {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}."
        )
    dtype = keras.backend.result_type(query.dtype, key.dtype, value.dtype)
    query, key, value = (ops.cast(array, dtype) for array in (query, key, value))
    if hasattr(bias, "shape"):
        bias = ops.cast(ops.convert_to_tensor(bias), dtype)
    return attention(
        query, key, value, mask=_mask(mask, is_causal), bias=bias, scale=scale,
        softcap=attn_logits_soft_cap, query_start=0,
    )  # fmt: skip


@keras.saving.register_keras_serializable(package="regard")
class DotProductAttention(keras.Operation):
    """The node of a functional model that `dot_product_attention` gives for symbolic tensors."""

    def __init__(
        self,
        is_causal: bool = False,
        scale: float | None = None,
        attn_logits_soft_cap: float | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.options: dict[str, Any] = {
            "is_causal": is_causal,
            "scale": scale,
            "attn_logits_soft_cap": attn_logits_soft_cap,
        }

    def call(self, query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None) -> Any:
        return dot_product_attention(query, key, value, bias=bias, mask=mask, **self.options)

    def compute_output_spec(
        self, query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None
    ) -> Any:
        dtype = keras.backend.result_type(query.dtype, key.dtype, value.dtype)
        return keras.KerasTensor((*query.shape[:-1], value.shape[-1]), dtype=dtype)


def install() -> None:
    """Put ours behind `keras.ops.dot_product_attention` for this process, and so behind Keras' attention layers and those built on them.

    What a graph has traced before keeps what it has. Models are saved as ever.

    Raises BackendError where this version of Keras holds its operation elsewhere.

    >>> import regard.compat.keras
    >>> x = np.ones((1, 2, 1, 4), "float32")
    >>> regard.compat.keras.install()
    >>> tuple(keras.ops.dot_product_attention(x, x, x, bias=x[:, :1, :, :2], mask=np.ones((2, 2), bool)).shape)
    (1, 2, 1, 4)
    >>> regard.compat.keras.uninstall()
    """
    room = _room()
    if getattr(room, _NAME) is not dot_product_attention:
        _KEPT[_NAME] = getattr(room, _NAME)
        setattr(room, _NAME, dot_product_attention)


def uninstall() -> None:
    """Give `keras.ops.dot_product_attention` back what it had before `install`."""
    if _NAME in _KEPT:
        setattr(_room(), _NAME, _KEPT.pop(_NAME))


@contextmanager
def installed() -> Iterator[None]:
    """`install` within a `with` block.

    >>> import regard.compat.keras
    >>> layer, x = keras.layers.MultiHeadAttention(4, 8), np.ones((2, 5, 32), "float32")
    >>> with regard.compat.keras.installed():
    ...     tuple(layer(x, x, use_causal_mask=True).shape)
    (2, 5, 32)
    """
    was = _NAME in _KEPT
    install()
    try:
        yield
    finally:
        if not was:
            uninstall()


_KEPT: dict[str, Any] = {}


def _room() -> Any:
    """The module of Keras' backend that its operation is looked up in at every call. It has no public name."""
    backend = importlib.import_module("keras.src").backend
    room = getattr(backend, "nn", None)
    if not hasattr(room, _NAME):
        raise BackendError(
            f"Keras {keras.__version__} does not hold {_NAME} in keras.src.backend.nn, where regard would put its own. "
            "Call regard.compat.keras.dot_product_attention by its name."
        )
    return room


def _mask(mask: Any, is_causal: bool) -> Mask | None:
    if mask is not None and not isinstance(mask, Mask):
        mask = Dense(ops.cast(ops.convert_to_tensor(mask), "bool"))
    if not is_causal:
        return mask
    return Causal() if mask is None else Causal() & mask
