"""Self-attention and attention to a context, as in `regard.nn`."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from regard._errors import ConfigError, ShapeError
from regard.keras._attend import attend, check_options
from regard.keras._heads import check_heads, join_heads, normalize, split_heads, turn, turns_of, wide
from regard.keras._sequences import SequenceLayer, Tokens, like, width
from regard.keras.feedforward import dense_options

Combine = Literal["project", "concat"]


class _Attention(SequenceLayer):
    """What both share: sizes of heads, normalization of queries and keys, dropout, and their configuration."""

    def __init__(
        self,
        num_heads: int,
        *,
        key_dim: int | None = None,
        num_key_value_heads: int | None = None,
        use_bias: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads or num_heads
        check_heads(self.num_heads, self.num_key_value_heads)
        check_options(dropout, None)
        self.key_dim, self.use_bias, self.qk_norm, self.dropout = key_dim, use_bias, qk_norm, dropout
        self.kernel_initializer, self.seed = keras.initializers.get(kernel_initializer), seed
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None
        self.size = 0

    def compute_output_shape(self, x_shape: Any) -> Any:
        return x_shape

    def get_config(self) -> dict[str, Any]:
        names = "num_heads", "key_dim", "num_key_value_heads", "use_bias", "qk_norm", "dropout", "seed"
        initializer = keras.initializers.serialize(self.kernel_initializer)
        own = {name: getattr(self, name) for name in names} | {"kernel_initializer": initializer}
        return super().get_config() | own

    def _sized(self, x_shape: Any) -> int:
        """Sets the size of heads and gives the width of tokens."""
        dim = width(x_shape)
        if self.key_dim is None and dim % self.num_heads:
            raise ShapeError(
                "the width of tokens must be a multiple of num_heads unless key_dim is given. "
                f"Received width {dim}, num_heads={self.num_heads}."
            )
        self.size = self.key_dim or dim // self.num_heads
        return dim

    def _dense(self, name: str, units: int, inputs: int, **options: Any) -> keras.layers.Dense:
        layer = keras.layers.Dense(units, name=name, **dense_options(self, **options))
        layer.build((None, inputs))
        return layer

    def _generator(self, training: bool | None) -> Any:
        return self.seed_generator if training else None


@keras.saving.register_keras_serializable(package="regard")
class SelfAttention(_Attention):
    """Multi-head self-attention: every token attends to tokens of its own sequence (Vaswani et al. 2017).

    `Q, K, V = x W_q, x W_k, x W_v`; `context = attention(Q, K, V)` per head; the result is `context W_o`, or with
    `combine="concat"` `[Q, context] W_o + b`, the head's query beside what it found.

    Arguments:
        num_heads: query heads; the width of the tokens must be a multiple of it unless `key_dim` is given.
        key_dim: size of one head; by default width / `num_heads`.
        num_key_value_heads: key and value heads that groups of query heads share; by default as many as `num_heads`.
        use_bias: whether the projections add a bias. `combine="concat"` always has one on the way out.
        qk_norm: normalize queries and keys per head before they meet (RMSNorm).
        rotary: rotate queries and keys by position.
        causal: a token sees itself and what stands before it.
        sliding_window: a token sees tokens at a distance below this.
        dropout: share of attention weights dropped in training.
        combine: "project" or "concat".
        kernel_initializer: of the projections' weights.
        seed: of the dropout, an integer.
        options: those of `keras.layers.Layer`, such as `name` and `dtype`.

    The input is a tensor (..., T, dim) with or without a Keras mask, or packed: `{"values": (total, dim), "offsets": (N + 1,)}`, a
    pair of both, or outside of functional models `regard.Packed` or a `tf.RaggedTensor`; the output has the same form.

    Raises:
        ShapeError: heads that cannot be shared out, or, with the first input, a width that is no multiple of them.
        ConfigError: `combine` is neither of the two, or dropout or window are out of range.

    >>> layer = regard.keras.SelfAttention(4, causal=True)
    >>> tuple(layer({"values": np.ones((7, 32), "float32"), "offsets": np.array([0, 3, 7])})["values"].shape)
    (7, 32)
    """

    def __init__(
        self,
        num_heads: int,
        *,
        rotary: bool = False,
        causal: bool = False,
        sliding_window: int | None = None,
        combine: Combine = "project",
        **options: Any,
    ) -> None:
        super().__init__(num_heads, **options)
        if combine not in get_args(Combine):
            raise ConfigError(f"combine must be one of {', '.join(get_args(Combine))}. Received {combine!r}.")
        check_options(self.dropout, sliding_window)
        self.rotary, self.causal, self.sliding_window, self.combine = rotary, causal, sliding_window, combine

    def build(self, x_shape: Any) -> None:
        dim = self._sized(x_shape)
        if self.rotary and self.size % 2:
            raise ShapeError(
                f"rotary positions turn pairs, so the head size must be even. Received {self.size}."
            )
        own, concat = self.num_heads * self.size, self.combine == "concat"
        shared = 2 * self.num_key_value_heads * self.size
        self.query_key_value = self._dense("query_key_value", own + shared, dim)
        self.out = self._dense("out", dim, 2 * own if concat else own, use_bias=self.use_bias or concat)

    def call(self, x: Any, mask: Any = None, attention_mask: Any = None, training: bool | None = None) -> Any:
        """Attend within each sequence.

        Arguments:
            x: tokens, padded or packed.
            mask: (..., T) booleans of padded tokens, True = a token; by default what Keras carries with x.
            attention_mask: (T, S), (B, T, S) or (B, H, T, S) booleans, True = may attend, or a `regard.Mask`.
            training: whether weights are dropped.

        Raises ShapeError where a mask comes with packed sequences or does not fit.
        """
        tokens, heads, shared = Tokens.of(x, mask), self.num_heads, self.num_key_value_heads
        groups = split_heads(self.query_key_value(tokens.values), self.size)
        query, key, value = ops.split(groups, [heads, heads + shared], axis=-2)
        if self.qk_norm:
            query, key = normalize(query), normalize(key)
        if self.rotary:
            turns = turns_of(tokens, self.size, wide(query))
            query, key = turn(query, turns), turn(key, turns)
        found = attend(
            (query, key, value), tokens, tokens, attention_mask=attention_mask, causal=self.causal,
            sliding_window=self.sliding_window, dropout=self.dropout, seed_generator=self._generator(training),
        )  # fmt: skip
        if self.combine == "concat":
            found = ops.concatenate([query, found], axis=-1)
        return like(x, self.out(join_heads(found)))

    def parts(self) -> dict[str, keras.layers.Layer]:
        """The layers inside, by their names in `regard.nn`."""
        return {"query_key_value": self.query_key_value, "output": self.out}

    def get_config(self) -> dict[str, Any]:
        names = "rotary", "causal", "sliding_window", "combine"
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="regard")
class CrossAttention(_Attention):
    """Multi-head attention of one set of sequences to another: a decoder's to its source, or captions' to their picture.

    `Q = x W_q`; `K, V = context W_k, context W_v`; the result is `attention(Q, K, V) W_o` (Vaswani et al. 2017).

    Arguments:
        num_heads: query heads; the width of the tokens must be a multiple of it unless `key_dim` is given.
        options: `key_dim`, `num_key_value_heads`, `use_bias`, `dropout`, `kernel_initializer` and `seed`, as for `SelfAttention`, and
            `qk_norm`: normalize keys per head, and queries over all heads together as CTranslate2 does (RMSNorm).

    Inputs and output are as for `SelfAttention`; both inputs are packed, or both padded.

    Raises:
        ShapeError: heads that cannot be shared out, or, with the first input, a width that is no multiple of them.
        ConfigError: dropout is out of range.

    >>> tuple(regard.keras.CrossAttention(4)(np.ones((2, 7, 32), "float32"), np.ones((2, 9, 16), "float32")).shape)
    (2, 7, 32)
    """

    def build(self, x_shape: Any, context_shape: Any) -> None:
        dim = self._sized(x_shape)
        own, shared = self.num_heads * self.size, 2 * self.num_key_value_heads * self.size
        self.query = self._dense("query", own, dim)
        self.key_value = self._dense("key_value", shared, width(context_shape))
        self.out = self._dense("out", dim, own)

    def call(
        self,
        x: Any,
        context: Any,
        x_mask: Any = None,
        context_mask: Any = None,
        key_sequence: Any = None,
        attention_mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Attend to the context.

        Arguments:
            x: tokens, padded or packed.
            context: the tokens that are read, in the form of x.
            x_mask: (..., T) booleans of padded tokens, True = a token; by default what Keras carries with x.
            context_mask: (..., S), the same for the context.
            key_sequence: (N,) integers: which context sequence each sequence of a packed `x` reads; by default its own number.
            attention_mask: (T, S), (B, T, S) or (B, H, T, S) booleans, True = may attend, or a `regard.Mask`.
            training: whether weights are dropped.

        Raises ShapeError where one input is packed and the other not, or masks or `key_sequence` do not fit.
        """
        queries, keys = Tokens.of(x, x_mask), Tokens.of(context, context_mask)
        query, key_value = self.query(queries.values), split_heads(self.key_value(keys.values), self.size)
        key, value = ops.split(key_value, 2, axis=-2)
        if self.qk_norm:
            query, key = normalize(query), normalize(key)
        found = attend(
            (split_heads(query, self.size), key, value), queries, keys, attention_mask=attention_mask,
            key_sequence=key_sequence, dropout=self.dropout, seed_generator=self._generator(training),
        )  # fmt: skip
        return like(x, self.out(join_heads(found)))

    def compute_output_shape(self, x_shape: Any, context_shape: Any = None) -> Any:
        return x_shape

    def parts(self) -> dict[str, keras.layers.Layer]:
        """The layers inside, by their names in `regard.nn`."""
        return {"query": self.query, "key_value": self.key_value, "output": self.out}
