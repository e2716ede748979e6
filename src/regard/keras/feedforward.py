"""The feed-forward half of a block."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from regard.keras._sequences import width


@keras.saving.register_keras_serializable(package="regard")
class FeedForward(keras.layers.Layer):
    """SwiGLU (Shazeer 2020): `(silu(x W_g) * x W_u) W_d`, gate and value projected in one product.

    Arguments:
        hidden_dim: width between.
        use_bias: whether the projections add a bias.
        kernel_initializer: of the projections' weights.
        options: those of `keras.layers.Layer`, such as `name` and `dtype`.

    >>> tuple(regard.keras.FeedForward(16)(np.ones((2, 5, 8), "float32")).shape)
    (2, 5, 8)
    """

    def __init__(
        self,
        hidden_dim: int,
        *,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.supports_masking = True
        self.hidden_dim, self.use_bias = hidden_dim, use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, x_shape: Any) -> None:
        options = dense_options(self)
        self.gate_up = keras.layers.Dense(2 * self.hidden_dim, name="gate_up", **options)
        self.down = keras.layers.Dense(width(x_shape), name="down", **options)
        self.gate_up.build(x_shape)
        self.down.build((*x_shape[:-1], self.hidden_dim))

    def call(self, x: Any) -> Any:
        """(..., dim) -> (..., dim)."""
        gate, up = ops.split(self.gate_up(x), 2, axis=-1)
        return self.down(ops.silu(gate) * up)

    def compute_output_shape(self, x_shape: Any) -> Any:
        return x_shape

    def parts(self) -> dict[str, keras.layers.Layer]:
        """The layers inside, by their names in `regard.nn`."""
        return {"gate_up": self.gate_up, "down": self.down}

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "hidden_dim": self.hidden_dim,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def dense_options(layer: Any, *, use_bias: bool | None = None) -> dict[str, Any]:
    """What a layer's projections share. Each gets an initializer of its own: one that is used twice draws the same twice."""
    made = layer.kernel_initializer
    return {
        "use_bias": layer.use_bias if use_bias is None else use_bias,
        "kernel_initializer": type(made).from_config(made.get_config()),
        "dtype": layer.dtype_policy,
    }
