"""Matrix products by the kernel: summed in float32, from matrices that lie in memory by rows or by columns."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.nn._fused import BYTES, kernel, threads


def product(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False, rounds: bool = False) -> Tensor:
    """`a @ b`, or `out + a @ b` with `add`, in `out`, which is returned.

    Arguments: a (M, K) and b (K, N), each float32 or bfloat16 and with any strides; out (M, N), float32 or bfloat16, with rows
    that stand together. `rounds` rounds both factors to bfloat16 first. Results do not depend on the number of threads, nor a row
    of them on the other rows of a.
    """
    a, b = _readable(a), _readable(b)
    rows, depth = a.shape
    kernel().product(
        rows, b.shape[1], depth, _given(a, *a.stride()), _given(b, *reversed(b.stride())), out.data_ptr(), BYTES[out.dtype],
        out.stride(0), add, rounds, threads(),
    )  # fmt: skip
    return out


def new_product(a: Tensor, b: Tensor, dtype: torch.dtype, *, rounds: bool = False) -> Tensor:
    """`a @ b` in a new tensor of `dtype`, float32 or bfloat16."""
    return product(a, b, torch.empty((a.shape[0], b.shape[1]), dtype=dtype), rounds=rounds)


def _readable(factor: Tensor) -> Tensor:
    return factor if 1 in factor.stride() else factor.contiguous()


def _given(factor: Tensor, row: int, step: int) -> tuple[int, int, int, bool]:
    """Address, bytes of a number, stride between rows of memory, and whether such a row holds one step of the depth.

    `row` is the stride between rows of a, or columns of b, and `step` that along the depth.
    """
    by_depth = step != 1
    return factor.data_ptr(), BYTES[factor.dtype], step if by_depth else row, by_depth
