"""Arrays of any framework to NumPy and back, and gradients where a framework has them; none is imported that is not at work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Function = Callable[[Any], Any]
"""From an array of a framework to another."""


def host_name(array: Any) -> str | None:
    """The framework of an array: "numpy", "torch", "jax" or "tensorflow"; None for what is no array of theirs.

    >>> host_name(np.zeros(3)), host_name("text")
    ('numpy', None)
    """
    if isinstance(array, np.ndarray):
        return "numpy"
    kinds = {"torch": "Tensor", "jax": "Array", "tensorflow": "Tensor"}
    for name, kind in kinds.items():
        known = getattr(sys.modules.get(name), kind, None)
        if known is not None and isinstance(array, known):
            return name
    return None


def to_numpy(array: Any) -> NDArray[Any]:
    """The numbers; those of bfloat16 and float16 as float32."""
    if host_name(array) == "torch":
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    found = np.asarray(array)
    return found if found.dtype.kind in "iub" or found.dtype.itemsize > 2 else found.astype(np.float32)


def like(values: NDArray[Any], array: Any) -> Any:
    """`values` as an array of the framework, the dtype and the device of another."""
    host = host_name(array)
    if host == "torch":
        return sys.modules["torch"].as_tensor(values).to(array.device, array.dtype)
    if host == "jax":
        jax = sys.modules["jax"]
        return jax.device_put(values.astype(array.dtype), array.sharding)
    if host == "tensorflow":
        return sys.modules["tensorflow"].cast(sys.modules["tensorflow"].constant(values), array.dtype)
    return values.astype(array.dtype)


def epsilon(array: Any) -> float:
    """The rounding of a floating dtype."""
    name = str(array.dtype)
    for part, rounding in (("bfloat16", 2.0**-8), ("float16", 2.0**-11), ("float64", 2.0**-52)):
        if part in name:
            return rounding
    return 2.0**-23


def is_floating(array: Any) -> bool:
    """Whether an array holds floating numbers."""
    return "float" in str(array.dtype)


@contextmanager
def without_gradients() -> Iterator[None]:
    """PyTorch keeps nothing for gradients while it lasts."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.no_grad():
        yield


def has_gradients(array: Any) -> bool:
    """Whether `gradient` can be asked for an array."""
    return host_name(array) in GRADIENTS and is_floating(array)


def gradient(function: Function, array: Any, weights: NDArray[Any]) -> NDArray[Any] | None:
    """The gradient of `sum(weights * function(array))`; None where the output has none."""
    found = GRADIENTS[str(host_name(array))](function, array, weights)
    return None if found is None else to_numpy(found)


def _torch(function: Function, array: Any, weights: NDArray[Any]) -> Any:
    torch = sys.modules["torch"]
    leaf = array.detach().clone().requires_grad_()
    with torch.enable_grad():
        out = function(leaf)
    if not getattr(out, "requires_grad", False):
        return None
    return torch.autograd.grad(out, leaf, like(weights, out), allow_unused=True)[0]


def _jax(function: Function, array: Any, weights: NDArray[Any]) -> Any:
    out, pull = sys.modules["jax"].vjp(function, array)
    return pull(like(weights, out))[0] if is_floating(out) else None


def _tensorflow(function: Function, array: Any, weights: NDArray[Any]) -> Any:
    tensorflow = sys.modules["tensorflow"]
    with tensorflow.GradientTape() as tape:
        tape.watch(array)
        out = function(array)
    found = tape.gradient(out, array, output_gradients=like(weights, out))
    return None if found is None else tensorflow.convert_to_tensor(found)


GRADIENTS = {"torch": _torch, "jax": _jax, "tensorflow": _tensorflow}
