"""Which framework an array belongs to, found without importing any."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from regard._errors import RegardError


def is_torch(array: Any) -> bool:
    """Whether `array` is a PyTorch tensor; PyTorch is never imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_traced(array: Any) -> bool:
    """Whether a tracer, a dispatch mode or `vmap` stands between an array and its numbers, which can then not be looked at."""
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
    """The one framework, "numpy" or "torch", that all arrays belong to."""
    if len(set(map(type, arrays))) == 1:
        return _framework(arrays[0])
    names = {_framework(array) for array in arrays}
    if len(names) > 1:
        raise RegardError(
            f"the arrays belong to different frameworks; expected one, received {' and '.join(sorted(names))}. "
            "Convert them to one framework first."
        )
    return names.pop()


def _framework(array: Any) -> str:
    if is_torch(array):
        return "torch"
    if isinstance(array, np.ndarray | np.generic):
        return "numpy"
    raise RegardError(
        f"cannot attend over {type(array).__name__}; expected NumPy arrays, PyTorch tensors or regard.Packed. "
        "Convert with numpy.asarray(...)."
    )


def host_integers(values: Any, name: str) -> np.ndarray:
    """`values` (sequence, NumPy array or tensor) as an int64 NumPy array on the host."""
    array = values.detach().cpu().numpy() if is_torch(values) else np.asarray(values)
    if array.dtype.kind not in "iu":
        raise RegardError(f"{name} must hold integers. Received dtype {array.dtype}.")
    return array.astype(np.int64, copy=False)
