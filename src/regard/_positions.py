"""Rotary position embedding, for NumPy, PyTorch and JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._arrays import brought, framework_of, host_integers, is_jax, is_torch, is_traced
from regard._errors import ShapeError

Table = tuple[Any, Any]


def rotate(
    x: Any,
    positions: Any,
    base: float = 10000.0,
    *,
    dims: int | None = None,
    interleaved: bool = False,
    table: Table | None = None,
) -> Any:
    """Turn pairs of features by an angle that grows with the position, so that scores depend on distances.

    The pair number i of `dims / 2` turns by `position * base ** (-2 * i / dims)`. Apply it to queries and keys, with the
    keys' positions counted from 0 in each sequence and the queries' from `query_start`.

    Args:
        x: (..., T, H, D), NumPy, PyTorch or JAX.
        positions: (..., T) integers, broadcastable; they may be negative, but not with a table.
        base: how slowly the last pair turns.
        dims: how many of the first features turn; by default all D. The others pass unchanged.
        interleaved: a pair is features 2i and 2i + 1 (the paper, GPT-J), not i and i + dims / 2 (GPT-NeoX, Llama).
        table: `rotary_table(length, dims, base)`, to look the angles up; in PyTorch as tensors on x's device.

    Returns:
        An array like `x`. Angles are computed in float64, products in float32, or float64 for float64.

    Raises:
        ShapeError: `dims` is odd or above D, positions do not fit, or the table has another size.

    Source: Su et al. 2021, "RoFormer", arXiv 2104.09864, equation 34.

    >>> import numpy as np
    >>> rotate(np.array([[[1.0, 0.0]], [[1.0, 0.0]]]), np.arange(2)).round(4)[:, 0]
    array([[1.    , 0.    ],
           [0.5403, 0.8415]])
    """
    dims = x.shape[-1] if dims is None else dims
    _check(x, dims, table)
    cos, sin = _angles(x, positions, base, dims) if table is None else _looked_up(x, positions, table)
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = _halves(x, dims, interleaved)
    turned = first * cos - second * sin, second * cos + first * sin
    return _joined(x, turned, dims, interleaved)


def rotary_table(
    length: int, dim: int, base: float = 10000.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines for positions 0 to `length - 1`, both (length, dim / 2) float64.

    >>> rotary_table(3, 4)[0].shape
    (3, 2)
    """
    angles = np.arange(length)[:, None] * _frequencies(dim, base)
    return np.cos(angles), np.sin(angles)


def _frequencies(dims: int, base: float) -> NDArray[np.float64]:
    return base ** (-np.arange(0, dims, 2) / dims) if dims else np.zeros(0)


def _check(x: Any, dims: int, table: Table | None) -> None:
    size = x.shape[-1]
    if dims % 2 or not 0 <= dims <= size:
        raise ShapeError(f"rotate(dims=) must be an even number of at most the head size {size}, got {dims}")
    if table is not None and table[0].shape[-1] != dims // 2:
        raise ShapeError(
            f"the rotary table must turn {dims // 2} pairs, got one for {table[0].shape[-1]}; "
            f"make it with rotary_table(length, {dims})"
        )


def _angles(x: Any, positions: Any, base: float, dims: int) -> Table:
    frequencies = _frequencies(dims, base)
    if framework_of(x) == "torch":
        import torch

        where = torch.as_tensor(positions, device=x.device).to(torch.float64)
        turns = where[..., None] * torch.as_tensor(frequencies, device=x.device)
        return _as_wide(x, torch.cos(turns)), _as_wide(x, torch.sin(turns))
    if is_traced(positions):
        # Without float64, which JAX lacks by default, the angles of far positions would be wrong.
        raise ShapeError(
            "rotate() computes the angles of known positions. Received positions under a tracer; pass table=rotary_table(...)."
        )
    angles = host_integers(positions, "positions")[..., None] * frequencies
    return _as_wide(x, np.cos(angles)), _as_wide(x, np.sin(angles))


def _looked_up(x: Any, positions: Any, table: Table) -> Table:
    if is_torch(x):
        import torch

        rows = torch.as_tensor(positions, device=x.device)
        cos, sin = (torch.as_tensor(part, device=x.device) for part in table)
        return _as_wide(x, cos[rows]), _as_wide(x, sin[rows])
    cos, sin = table
    if is_traced(positions):  # JAX
        cos, sin = (brought(np.asarray(part), x) for part in table)
        return _as_wide(x, cos[positions]), _as_wide(x, sin[positions])
    where = host_integers(positions, "positions")
    if where.size and (where.min() < 0 or where.max() >= len(cos)):
        raise ShapeError(
            f"the rotary table holds the positions 0 to {len(cos) - 1}, got {where.min()} to {where.max()}; "
            "make a longer one, or leave table= out"
        )
    return _as_wide(x, cos[where]), _as_wide(x, sin[where])


def _halves(x: Any, dims: int, interleaved: bool) -> tuple[Any, Any]:
    x = _as_wide(x, x)
    if interleaved:
        return x[..., 0:dims:2], x[..., 1:dims:2]
    return x[..., : dims // 2], x[..., dims // 2 : dims]


def _joined(x: Any, turned: tuple[Any, Any], dims: int, interleaved: bool) -> Any:
    if is_torch(x):
        import torch

        pairs = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
        pairs = pairs.to(x.dtype)
        return pairs if dims == x.shape[-1] else torch.cat([pairs, x[..., dims:]], -1)
    ops: Any = np
    if is_jax(x):
        import jax.numpy as ops
    both = ops.stack(turned, -1).reshape(*x.shape[:-1], dims) if interleaved else ops.concatenate(turned, -1)
    return ops.concatenate([both.astype(x.dtype), x[..., dims:]], -1)


def _as_wide(x: Any, array: Any) -> Any:
    """`array` in the dtype of the products: float64 for float64 x, else float32."""
    double = str(x.dtype).endswith("float64")
    if is_torch(array):
        return array.double() if double else array.float()
    return array.astype(np.float64 if double else np.float32, copy=False)
