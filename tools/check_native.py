"""Refuse an installed package whose kernel is missing or computes something else than the reference."""

from __future__ import annotations

import sys

import numpy as np

import regard
from regard._lowering import kernel


def main() -> int:
    """0 if a small call of the kernel agrees with the reference."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 37, 4, 16)).astype(np.float32) for _ in range(3))
    native, reference = (
        regard.attention(query, key, value, mask=regard.Causal(), backend=backend)
        for backend in ("native", "reference")
    )
    np.testing.assert_allclose(native, reference, rtol=1e-4, atol=1e-5)
    print(f"The kernel of {regard.__file__} works, with {kernel().instruction_set()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
