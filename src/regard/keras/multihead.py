"""`keras.layers.MultiHeadAttention` on `regard.attention`: its arguments, its weights, its numbers."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from regard._aux import Aux
from regard.keras._attend import attend, check_options
from regard.keras._heads import check_heads
from regard.keras._sequences import SequenceLayer, Tokens, like, resized, values_of, width

# What Keras writes twice, for kernels and biases.
_WAYS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}


@keras.saving.register_keras_serializable(package="regard")
class MultiHeadAttention(SequenceLayer):
    """Multi-head attention (Vaswani et al. 2017) with the arguments and weights of `keras.layers.MultiHeadAttention`.

    It computes in memory O(T + S), also with masks and dropout, and takes packed sequences. `set_weights(layer.get_weights())` takes the
    weights of a Keras layer, of `keras.layers.GroupQueryAttention` too. Where it differs: a token that may see nothing, such as
    padding, gives 0 before the output projection, not a mean.

    Arguments:
        num_heads: query heads.
        key_dim: size of a head of queries and keys.
        value_dim: size of a head of values; by default `key_dim`.
        dropout: share of attention weights dropped in training.
        use_bias: whether the projections add a bias.
        output_shape: width of the output; by default that of the query.
        sliding_window: a token sees tokens at a distance below this.
        num_key_value_heads: key and value heads that groups of query heads share; by default as many as `num_heads`.
        kernel_initializer: and `bias_initializer`, `kernel_regularizer`, `bias_regularizer`, `kernel_constraint`,
            `bias_constraint`: of the projections.
        seed: of the dropout, an integer.
        options: those of `keras.layers.Layer`, such as `name` and `dtype`.

    Inputs are tensors (..., T, dim) with or without Keras masks, or packed: `{"values": (total, dim), "offsets": (N + 1,)}`, a pair of
    both, or outside of functional models `regard.Packed` or a `tf.RaggedTensor`; the output has the form of the query.

    Raises:
        ShapeError: heads that cannot be shared out.
        ConfigError: dropout or window are out of range.

    >>> layer, x = regard.keras.MultiHeadAttention(num_heads=4, key_dim=8), np.ones((2, 7, 32), "float32")
    >>> tuple(layer(x, x, use_causal_mask=True).shape)
    (2, 7, 32)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: Any = None,
        sliding_window: int | None = None,
        num_key_value_heads: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads or num_heads
        check_heads(self.num_heads, self.num_key_value_heads)
        check_options(dropout, sliding_window)
        self.key_dim, self.value_dim, self.dropout = key_dim, value_dim or key_dim, dropout
        self.use_bias, self.sliding_window, self.seed = use_bias, sliding_window, seed
        self.output_dim = output_shape[0] if isinstance(output_shape, list | tuple) else output_shape
        given = {
            "kernel_initializer": kernel_initializer, "bias_initializer": bias_initializer,
            "kernel_regularizer": kernel_regularizer, "bias_regularizer": bias_regularizer,
            "kernel_constraint": kernel_constraint, "bias_constraint": bias_constraint,
        }  # fmt: skip
        self.of_weights = {name: _WAYS[name.split("_")[1]].get(value) for name, value in given.items()}
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        wanted, shared = self.num_heads, self.num_key_value_heads
        into = "...d,dhk->...hk"
        value_width, query_width = width(value_shape), width(query_shape)
        key_width = value_width if key_shape is None else width(key_shape)
        self.query_dense = self._dense("query", into, (wanted, self.key_dim), (query_width,))
        self.key_dense = self._dense("key", into, (shared, self.key_dim), (key_width,))
        self.value_dense = self._dense("value", into, (shared, self.value_dim), (value_width,))
        size = self.output_dim or query_width
        self.output_dense = self._dense(
            "attention_output", "...hk,hkd->...d", (size,), (wanted, self.value_dim)
        )

    def _dense(
        self, name: str, equation: str, output: tuple[int, ...], inputs: tuple[int, ...]
    ) -> keras.layers.EinsumDense:
        # An initializer that is used twice draws the same twice.
        options = {
            key: type(made).from_config(made.get_config()) if "initializer" in key else made
            for key, made in self.of_weights.items()
        }
        axes = equation.split("->")[1].removeprefix("...") if self.use_bias else None
        layer = keras.layers.EinsumDense(
            equation, output, bias_axes=axes, name=name, dtype=self.dtype_policy, **options
        )
        layer.build((None, *inputs))
        layer.input_spec = None  # packed tokens have one dimension less
        return layer

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
        key_sequence: Any = None,
    ) -> Any:
        """Attend from the query to keys and values.

        Arguments:
            query: tokens, padded or packed.
            value: tokens in the same form.
            key: tokens in the same form; by default `value`.
            query_mask: (..., T) booleans of padded tokens, True = a token; by default what Keras carries with the query. All masks intersect.
            value_mask: (..., S), the same for the values.
            key_mask: (..., S), the same for the keys.
            attention_mask: (T, S), (B, T, S) or (B, H, T, S) booleans, True = may attend, or a `regard.Mask`.
            return_attention_scores: give the weights too, (B, H, T, S), or packed (total, H, longest); not under a tracer.
            training: whether weights are dropped.
            use_causal_mask: a token sees keys up to its own position, counted from the first token and the first key.
            key_sequence: (N,) integers: which key sequence each sequence of a packed query reads; by default its own number.

        Raises ShapeError where one input is packed and another not, or masks do not fit.
        """
        queries, values = Tokens.of(query, query_mask), Tokens.of(value, value_mask)
        keys = values if key is None else Tokens.of(key, key_mask)
        heads = self.query_dense(queries.values), self.key_dense(keys.values), self.value_dense(values.values)
        aux = Aux(rows=range(math.prod(queries.values.shape[:-1]))) if return_attention_scores else None
        found = attend(
            heads, queries, _both(keys, values, key_mask), attention_mask=attention_mask, causal=use_causal_mask,
            sliding_window=self.sliding_window, key_sequence=key_sequence, dropout=self.dropout,
            seed_generator=self.seed_generator if training else None, return_aux=aux,
        )  # fmt: skip
        if aux is None:
            return like(query, self.output_dense(found))
        context, looked = found
        scores = looked.rows
        if not queries.is_packed:
            scores = ops.moveaxis(
                ops.reshape(scores, (*queries.values.shape[:-1], *scores.shape[1:])), -2, -3
            )
        return like(query, self.output_dense(context)), scores

    def compute_output_shape(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> Any:
        return resized(query_shape, self.output_dim or width(query_shape))

    def compute_output_spec(  # type: ignore[override]
        self, query: Any, value: Any, *inputs: Any, return_attention_scores: bool = False, **options: Any
    ) -> Any:
        size = self.output_dim or width(values_of(query).shape)
        found = super().compute_output_spec(query, size=size)
        if not return_attention_scores:
            return found
        *rows, length = values_of(query).shape[:-1]
        scores = (*rows, self.num_heads, length, values_of(value).shape[-2])
        return found, keras.KerasTensor(scores, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        names = (
            "num_heads", "key_dim", "value_dim", "dropout", "use_bias", "sliding_window", "num_key_value_heads", "seed",
        )  # fmt: skip
        own = {name: getattr(self, name) for name in names} | {"output_shape": self.output_dim}
        made = {name: _WAYS[name.split("_")[1]].serialize(value) for name, value in self.of_weights.items()}
        return super().get_config() | own | made


def _both(keys: Tokens, values: Tokens, key_mask: Any) -> Tokens:
    """The keys with what both masks leave; a mask of the keys may come without keys of their own."""
    masks = [mask for mask in (keys.mask, values.mask, key_mask) if mask is not None]
    if keys.is_packed or not masks:
        return keys
    mask = ops.cast(masks[0], "bool")
    for other in masks[1:]:
        mask = ops.logical_and(mask, ops.cast(other, "bool"))
    return Tokens(keys.values, mask=mask)
