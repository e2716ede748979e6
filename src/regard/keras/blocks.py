"""Blocks of encoders and decoders: residual, pre-normalized, with SwiGLU and rotary positions, as in `regard.nn`."""

from __future__ import annotations

from typing import Any

import keras

from regard.keras._heads import normalize
from regard.keras._sequences import SequenceLayer, Tokens, like, values_of
from regard.keras.attention import CrossAttention, SelfAttention
from regard.keras.feedforward import FeedForward


@keras.saving.register_keras_serializable(package="regard")
class EncoderBlock(SequenceLayer):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))` (pre-norm: Xiong et al. 2020).

    The numbers are those of `regard.nn.EncoderBlock`: RMSNorm without a gain, rotary positions, SwiGLU, no biases.

    Arguments:
        num_heads: query heads; the width of the tokens over `num_heads` must be even, because positions are rotary.
        hidden_dim: width of the feed-forward.
        dropout: share of the entries dropped at the end of both branches, in training.
        num_key_value_heads: key and value heads that groups of query heads share; by default as many as `num_heads`.
        qk_norm: normalize queries and keys per head before they meet.
        causal: a token sees itself and what stands before it.
        sliding_window: a token sees tokens at a distance below this.
        seed: of the dropout, an integer.
        options: those of `keras.layers.Layer`, such as `name` and `dtype`.

    Inputs and output are as for `SelfAttention`.

    Raises:
        ShapeError: heads that cannot be shared out, or, with the first input, are of odd size or don't divide the width.

    >>> block = regard.keras.EncoderBlock(4, hidden_dim=64)
    >>> tuple(block(np.ones((2, 7, 32), "float32")).shape)
    (2, 7, 32)
    """

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        *,
        dropout: float = 0.0,
        num_key_value_heads: int | None = None,
        qk_norm: bool = True,
        causal: bool = False,
        sliding_window: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.settings: dict[str, Any] = {
            "num_heads": num_heads, "hidden_dim": hidden_dim, "dropout": dropout, "num_key_value_heads": num_key_value_heads,
            "qk_norm": qk_norm, "causal": causal, "sliding_window": sliding_window, "seed": seed,
        }  # fmt: skip
        shared: dict[str, Any] = {
            "num_key_value_heads": num_key_value_heads,
            "qk_norm": qk_norm,
            "dtype": self.dtype_policy,
        }
        self.attention = SelfAttention(
            num_heads, rotary=True, causal=causal, sliding_window=sliding_window, name="attention", **shared
        )
        self.feed_forward = FeedForward(hidden_dim, name="feed_forward", dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(dropout, seed=seed, dtype=self.dtype_policy)

    def build(self, x_shape: Any) -> None:
        self.attention.build(x_shape)
        self.feed_forward.build(values_of(x_shape))

    def call(self, x: Any, mask: Any = None, attention_mask: Any = None, training: bool | None = None) -> Any:
        """Arguments as for `SelfAttention.call`."""
        values = self._attend(x, Tokens.of(x, mask).mask, attention_mask, training)
        return like(x, self._feed(values, training))

    def _attend(self, x: Any, mask: Any, attention_mask: Any, training: bool | None) -> Any:
        values = values_of(x)
        found = self.attention(
            like(x, normalize(values)), mask=mask, attention_mask=attention_mask, training=training
        )
        return values + self.drop(values_of(found), training=training)

    def _feed(self, values: Any, training: bool | None) -> Any:
        return values + self.drop(self.feed_forward(normalize(values)), training=training)

    def compute_output_shape(self, x_shape: Any) -> Any:
        return x_shape

    def parts(self) -> dict[str, keras.layers.Layer]:
        """The layers inside, by their names in `regard.nn`."""
        return {"attention": self.attention, "feed_forward": self.feed_forward}

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | dict(self.settings)


@keras.saving.register_keras_serializable(package="regard")
class DecoderBlock(EncoderBlock):
    """An encoder block, causal, that attends to a context between its two halves.

    `x + attention(norm(x))`, then `x + attention(norm(x), context)`, then `x + feed_forward(norm(x))`. Arguments and
    errors are those of `EncoderBlock`, but for `causal`, which it always is; the numbers those of `regard.nn.DecoderBlock`.

    >>> block = regard.keras.DecoderBlock(4, hidden_dim=64)
    >>> tuple(block(np.ones((2, 7, 32), "float32"), np.ones((2, 9, 32), "float32")).shape)
    (2, 7, 32)
    """

    def __init__(self, num_heads: int, hidden_dim: int, **options: Any) -> None:
        super().__init__(num_heads, hidden_dim, **(options | {"causal": True}))
        names = "num_key_value_heads", "qk_norm"
        shared: dict[str, Any] = {name: self.settings[name] for name in names} | {"dtype": self.dtype_policy}
        self.context_attention = CrossAttention(num_heads, name="context_attention", **shared)

    def build(self, x_shape: Any, context_shape: Any) -> None:  # type: ignore[override]
        super().build(x_shape)
        self.context_attention.build(x_shape, context_shape)

    def call(  # type: ignore[override]
        self,
        x: Any,
        context: Any,
        x_mask: Any = None,
        context_mask: Any = None,
        key_sequence: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Arguments as for `CrossAttention.call`."""
        mask = Tokens.of(x, x_mask).mask
        values = self._attend(x, mask, None, training)
        found = self.context_attention(
            like(x, normalize(values)), context, x_mask=mask, context_mask=Tokens.of(context, context_mask).mask,
            key_sequence=key_sequence, training=training,
        )  # fmt: skip
        values = values + self.drop(values_of(found), training=training)
        return like(x, self._feed(values, training))

    def compute_output_shape(self, x_shape: Any, context_shape: Any = None) -> Any:
        return x_shape

    def parts(self) -> dict[str, keras.layers.Layer]:
        """The layers inside, by their names in `regard.nn`."""
        return {**super().parts(), "context_attention": self.context_attention}

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["causal"]
        return config
