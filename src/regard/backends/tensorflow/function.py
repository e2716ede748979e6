"""The tiled formulation as one differentiable TensorFlow function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from regard._plan import Plan
from regard.backends.tensorflow import backward, forward
from regard.backends.tensorflow.blocks import Blocks, known, unknown
from regard.backends.tensorflow.exchange import may_record, unrecorded
from regard.backends.tensorflow.scores import Inputs, are_finite

Arrays = tuple[Any, Any, Any, Any, Any]  # query, key, value, bias and sinks, the last two perhaps None


def attend(plan: Plan, arrays: Arrays, seed: Any, longest: tuple[Any, Any] = (None, None)) -> tuple[Any, Any]:
    """The output (T, H, Dv) and lse (T, H) of flat arrays (T, H, D), (S, J, D) and (S, J, Dv).

    `longest` are T and S of padded arrays whose spans are tensors.
    """
    blocks = known(plan) if isinstance(plan.spans.q_begin, np.ndarray) else unknown(plan, *longest)
    return differentiable(
        lambda *given: compute(plan, blocks, given, seed),
        lambda given, out, lse, grads: gradients(plan, blocks, given, seed, out, lse, *grads),
        lambda given, grads: differentiable_gradients(plan, given, seed, *grads),
        arrays,
    )


def differentiable(
    run: Callable[..., tuple[Any, Any]],
    back: Callable[..., tuple[Any, ...]],
    back_again: Callable[..., tuple[Any, ...]],
    arrays: Arrays,
) -> tuple[Any, Any]:
    """(out, lse) of `run(*arrays)`, out in the query's dtype, with the gradients that `back` gives for all five arrays.

    `back_again` gives them where they will be differentiated in turn: in eager mode, under another tape.
    """
    present = [array is not None for array in arrays]

    def whole(given: tuple[Any, ...]) -> tuple[Any, ...]:
        rest = iter(given)
        return tuple(next(rest) if some else None for some in present)

    @tf.custom_gradient
    def function(*given: Any) -> Any:
        # The rounding of the output that the backward pass starts from would be multiplied by the mean of the keys.
        with unrecorded():
            wide, lse = run(*whole(given))

        def gradient(*grads: Any) -> list[Any]:
            if tf.executing_eagerly() and may_record():
                found = back_again(whole(given), grads)
            else:
                found = back(whole(given), wide, lse, grads)
            return [grad for grad, some in zip(found, present, strict=True) if some]

        return (tf.cast(wide, given[0].dtype), lse), gradient

    return function(*(tf.convert_to_tensor(array) for array in arrays if array is not None))


def differentiable_gradients(
    plan: Plan, arrays: Arrays, seed: Any, grad_out: Any, grad_lse: Any
) -> tuple[Any, ...]:
    """Gradients of all five arrays, made from output and lse that depend on the arrays."""
    out, lse = attend(plan, arrays, seed)
    return gradients(plan, known(plan), arrays, seed, out, lse, grad_out, grad_lse)


# What is traced later, outside the call, is to be left alone by AutoGraph too.
@tf.autograph.experimental.do_not_convert
def compute(plan: Plan, blocks: Blocks | None, arrays: Arrays, seed: Any) -> tuple[Any, Any]:
    """The output and the lse, both in the precision of the sums."""
    query, value = arrays[0], arrays[2]
    precision = tf.float64 if query.dtype == tf.float64 else tf.float32
    if blocks is None or _is_empty(arrays):
        rows = tf.shape(query)[:2]
        out = tf.zeros(tf.concat([rows, [value.shape[-1]]], 0), precision)
        return out, tf.fill(rows, tf.constant(-np.inf, precision))
    return forward.forward(Inputs(plan, blocks, *arrays, seed, _known_finite(*arrays[:3])))


@tf.autograph.experimental.do_not_convert
def gradients(
    plan: Plan,
    blocks: Blocks | None,
    arrays: Arrays,
    seed: Any,
    out: Any,
    lse: Any,
    grad_out: Any,
    grad_lse: Any,
) -> tuple[Any, ...]:
    """Gradients of all five arrays."""
    if blocks is None or _is_empty(arrays):
        return tuple(None if array is None else tf.zeros_like(array) for array in arrays)
    inputs = Inputs(plan, blocks, *arrays, seed, _known_finite(*arrays[:3], grad_out))
    return backward.backward(inputs, out, lse, grad_out, grad_lse)


def _known_finite(*arrays: Any) -> Any:
    """Whether all numbers are finite: as Python's bool where they can be looked at."""
    finite = are_finite(*arrays)
    return bool(finite) if tf.executing_eagerly() else finite


def _is_empty(arrays: Sequence[Any]) -> bool:
    return 0 in arrays[0].shape[:2] or arrays[1].shape[0] == 0
