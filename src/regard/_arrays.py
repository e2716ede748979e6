"""Which framework an array belongs to, found without importing any, and the few operations that each spells its own way.

A framework is looked for in `sys.modules` alone: one that nobody imported has no arrays.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import RegardError

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")


def is_torch(array: Any) -> bool:
    """Whether `array` is a PyTorch tensor; PyTorch is never imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_jax(array: Any) -> bool:
    """Whether `array` is a JAX array or tracer; JAX is never imported to find out."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def is_tensorflow(array: Any) -> bool:
    """Whether `array` is a TensorFlow tensor or variable; TensorFlow is never imported to find out."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(array, tensorflow.Tensor | tensorflow.Variable)


def is_ragged_tensorflow(array: Any) -> bool:
    """Whether `array` is a TensorFlow `RaggedTensor`."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(array, tensorflow.RaggedTensor)


def entry_of(query: Any) -> str | None:
    """The framework whose own entry serves a call with this query, or None where the common way does.

    PyTorch has one for what is traced; JAX and TensorFlow for every call, which look there whether anything is traced.
    """
    if is_traced_torch(query):
        return "torch"
    if isinstance(query, np.ndarray) or is_torch(query):
        return None
    if is_jax(query):
        return "jax"
    return "tensorflow" if is_tensorflow(query) or is_ragged_tensorflow(query) else None


def is_traced(array: Any) -> bool:
    """Whether a tracer, a dispatch mode or `vmap` stands between an array and its numbers, which can then not be looked at."""
    if is_traced_torch(array):
        return True
    if is_jax(array):
        return isinstance(array, sys.modules["jax"].core.Tracer)
    return is_tensorflow(array) and not hasattr(array, "numpy")


def is_traced_torch(array: Any) -> bool:
    """As `is_traced`, of PyTorch alone."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if torch.compiler.is_dynamo_compiling():
        return True
    if not isinstance(array, torch.Tensor):
        return False
    own = type(array).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl
    return not own or torch._C._len_torch_dispatch_stack() > 0 or _is_mapped()


def _is_mapped() -> bool:
    """Whether `torch.func.vmap` is at work."""
    functorch = sys.modules["torch"]._C._functorch
    if functorch.peek_interpreter_stack() is None:
        return False
    return any(level.key() == functorch.TransformType.Vmap for level in functorch.get_interpreter_stack())


def framework_of(*arrays: Any) -> str:
    """The one of `FRAMEWORKS` that all arrays belong to."""
    if len(set(map(type, arrays))) == 1:
        return framework_name(arrays[0])
    names = {framework_name(array) for array in arrays}
    if len(names) > 1:
        raise RegardError(
            f"the arrays belong to different frameworks; expected one, received {' and '.join(sorted(names))}. "
            "Convert them to one framework first."
        )
    return names.pop()


def framework_name(array: Any) -> str:
    """The one of `FRAMEWORKS` that an array belongs to."""
    if is_torch(array):
        return "torch"
    if isinstance(array, np.ndarray | np.generic):
        return "numpy"
    if is_jax(array):
        return "jax"
    if is_tensorflow(array):
        return "tensorflow"
    raise RegardError(
        f"cannot attend over {type(array).__name__}; expected NumPy arrays, PyTorch tensors, JAX arrays, TensorFlow tensors "
        "or regard.Packed. Convert with numpy.asarray(...)."
    )


def dtype_name(array: Any) -> str:
    """The name of an array's dtype, the same in every framework; of what has none, the name of its type."""
    if not hasattr(array, "dtype"):
        return type(array).__name__
    # By its text alone, which a tracer can follow: "float32", "torch.float32" or "<dtype: 'float32'>".
    return str(array.dtype).removeprefix("torch.").removeprefix("<dtype: '").removesuffix("'>")


def device_of(array: Any) -> str:
    """The kind of device that an array is on: "cpu", "cuda", "gpu", "tpu", ...; "cpu" where nothing says so."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if is_torch(array):
        return str(array.device.type)
    if is_jax(array):
        # A tracer is nowhere yet.
        return "cpu" if is_traced(array) else next(iter(array.devices())).platform
    # TensorFlow: /job:localhost/replica:0/task:0/device:GPU:0
    return str(getattr(array, "device", "")).rsplit("device:", maxsplit=1)[-1].split(":")[0].lower() or "cpu"


def host_array(array: Any) -> NDArray[Any]:
    """A NumPy array with the values of an array of any framework."""
    return array.detach().cpu().numpy() if is_torch(array) else np.asarray(array)


def host_integers(values: Any, name: str) -> np.ndarray:
    """`values` (sequence, or an array of any framework) as an int64 NumPy array on the host."""
    array = host_array(values)
    if array.dtype.kind not in "iu":
        raise RegardError(f"{name} must hold integers. Received dtype {array.dtype}.")
    return array.astype(np.int64, copy=False)


def brought(array: NDArray[Any], model: Any) -> Any:
    """A NumPy array as one of the model's framework, on its device."""
    if is_torch(model):
        import torch

        return torch.as_tensor(array, device=model.device)
    if is_jax(model):
        import jax.numpy

        return jax.numpy.asarray(array)
    if is_tensorflow(model):
        import tensorflow as tf

        return tf.convert_to_tensor(array)
    return array


def widened(array: Any) -> Any:
    """Floats in at least single precision."""
    if is_torch(array):
        return array if str(array.dtype) == "torch.float64" else array.float()
    if is_tensorflow(array):
        import tensorflow as tf

        return array if array.dtype == tf.float64 else tf.cast(array, tf.float32)
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def broadcast(array: Any, shape: tuple[int, ...]) -> Any:
    """An array with dimensions of 1 stretched to `shape`."""
    if isinstance(array, np.ndarray):
        return np.broadcast_to(array, shape)
    if is_torch(array):
        return array.expand(shape)
    if is_jax(array):
        import jax.numpy

        return jax.numpy.broadcast_to(array, shape)
    import tensorflow as tf

    return tf.broadcast_to(array, shape)


def reshaped(array: Any, shape: tuple[int, ...]) -> Any:
    """An array with the same numbers in another shape."""
    if isinstance(array, np.ndarray) or hasattr(array, "reshape"):
        return array.reshape(shape)
    import tensorflow as tf

    return tf.reshape(array, shape)


def transposed_rows(table: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of a matrix (B, H), as columns: (H, rows)."""
    if is_tensorflow(table):
        import tensorflow as tf

        return tf.transpose(tf.gather(table, rows))
    return table[brought(rows, table)].T
