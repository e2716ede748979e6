"""In which numbers matrix products are computed."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from regard.nn.linear import has_bfloat16


def autocast(precision: str) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 for "bf16", and for "auto" where the CPU multiplies bfloat16 faster than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=resolved(precision) == "bf16")


def resolved(precision: str) -> str:
    """The precision that is meant, fp32 or bf16."""
    if precision != "auto":
        return precision
    return "bf16" if has_bfloat16() else "fp32"
