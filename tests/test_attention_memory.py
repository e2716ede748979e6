"""Memory grows with the lengths, not with their product; and NumPy alone is enough."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from cases import RNG
from regard import Alibi, Aux, Causal, Global, RelativeBias, Window, attention
from regard._plan import remembered_plan
from regard.backends.torch import tiling

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(autouse=True)
def fresh_plans():
    """A plan that is remembered holds its tiles too, which some tests cut otherwise."""
    remembered_plan.cache_clear()
    yield
    remembered_plan.cache_clear()


def _resident(field):
    text = Path("/proc/self/status").read_text(encoding="utf8")
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("mask", "bias"),
    [
        (Causal(), None),
        (Causal() & Window(100), None),
        (Causal() | Global([0, 5]), None),
        (Causal() & Window(2000), RelativeBias(torch.ones(32, 1, requires_grad=True))),
    ],
    ids=["causal", "window", "global", "bias"],
)
def test_memory_of_torch_grows_with_the_length_and_not_its_square(mask, bias, monkeypatch):
    """One head's scores alone would take 256 MiB, their gradients as much again; the budget of a tile bounds them."""
    monkeypatch.setattr(tiling, "SCORES_PER_GROUP", 1 << 19)
    query, key, value = (torch.randn(8192, 1, 8, requires_grad=True) for _ in range(3))
    looked_at = Aux() if bias is None else Aux(topk=4, key_sums=True)
    options = {"mask": mask, "bias": bias, "return_aux": looked_at}
    attention(query[:600], key[:600], value[:600], **options)[0].sum().backward()  # what is loaded once
    Path("/proc/self/clear_refs").write_text("5", encoding="utf8")
    before = _resident("VmRSS")
    attention(query, key, value, **options)[0].sum().backward()
    assert _resident("VmHWM") - before < 64


def test_memory_of_numpy_grows_with_the_length_and_not_its_square():
    arrays = [RNG.normal(size=(4096, 1, 4)).astype(np.float32) for _ in range(3)]
    tracemalloc.start()
    try:
        attention(*arrays, mask=Causal(), bias=Alibi.for_heads(1), return_aux=Aux(topk=4, key_sums=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_numpy_attention_imports_no_framework():
    code = (
        "import sys, numpy as np, regard\n"
        "x = np.ones((2, 3, 1, 4))\n"
        "assert type(regard.attention(x, x, x, mask=regard.Causal())) is np.ndarray\n"
        "assert not {'torch', 'tensorflow', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
