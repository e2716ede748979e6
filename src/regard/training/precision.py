"""In which numbers matrix products are computed."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def autocast(precision: str) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 for "bf16", and for "auto" where the machine multiplies bfloat16 faster than float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16, enabled=resolved(precision) == "bf16")


def resolved(precision: str) -> str:
    """The precision that is meant, fp32 or bf16."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
