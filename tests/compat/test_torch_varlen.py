"""PyTorch's `varlen_attn` on CPU tensors, against `regard.attention` sequence by sequence."""

from __future__ import annotations

import math

import pytest
import torch

from regard import Alibi, Aux, RegardError, Window, attention
from regard.compat.torch import install_varlen_cpu

varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs PyTorch 2.10")
GENERATOR = torch.Generator().manual_seed(0)
OFFSETS = torch.tensor([0, 3, 3, 10], dtype=torch.int32)
KEYS = torch.tensor([0, 4, 5, 12], dtype=torch.int32)


@pytest.fixture(autouse=True)
def _installed():
    install_varlen_cpu()
    install_varlen_cpu()  # a second time changes nothing


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=GENERATOR, dtype=dtype)


def draw(dtype=torch.float32):
    arrays = random(10, 4, 8, dtype=dtype), random(12, 2, 8, dtype=dtype), random(12, 2, 8, dtype=dtype)
    return tuple(array.requires_grad_() for array in arrays)


def call(query, key, value, **options):
    return varlen.varlen_attn(query, key, value, OFFSETS, KEYS, 7, 7, enable_gqa=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 0), (0, 1), (-1, 1), (1, -1)])
def test_windows_and_gradients(window, dtype):
    arrays = draw(dtype)
    ends = [math.inf if end < 0 else end for end in window]
    expected = attention(*arrays, cu_seqlens_q=OFFSETS, cu_seqlens_k=KEYS, mask=Window(*ends), scale=0.3)
    found = call(*arrays, window_size=window, scale=0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    up = random(*found.shape).to(dtype)
    for one, other in zip(
        torch.autograd.grad(found, arrays, up), torch.autograd.grad(expected, arrays, up), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_lse_is_headed_by_heads():
    arrays = draw()
    _, lse = call(*arrays, return_aux=varlen.AuxRequest(lse=True))
    expected = attention(*arrays, cu_seqlens_q=OFFSETS, cu_seqlens_k=KEYS, return_aux=Aux(lse=True))[1].lse
    torch.testing.assert_close(lse, expected.T)


@pytest.mark.skipif(not hasattr(varlen, "varlen_attn_out"), reason="needs PyTorch 2.13")
def test_keys_in_use_pages_and_a_given_output():
    query, key, value = (array.detach() for array in draw())
    used, starts = torch.tensor([2, 1, 6], dtype=torch.int32), KEYS[:-1].tolist()
    kept = torch.cat(
        [torch.arange(start, start + count) for start, count in zip(starts, used.tolist(), strict=True)]
    )
    ends = torch.tensor([0, 2, 3, 9], dtype=torch.int32)
    expected = varlen.varlen_attn(
        query, key[kept], value[kept], OFFSETS, ends, 7, 6, enable_gqa=True, window_size=(2, 0)
    )
    poisoned = [torch.full_like(array, math.nan).index_copy(0, kept, array[kept]) for array in (key, value)]
    found = call(query, *poisoned, seqused_k=used, window_size=(2, 0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    table = torch.tensor([[5, 0, 2], [1, 7, 3], [6, 8, 4]], dtype=torch.int32)
    pools = []
    for array in (key, value):
        slots = torch.zeros(3, 6, 2, 8)
        for number, (start, count) in enumerate(zip(starts, used.tolist(), strict=True)):
            slots[number, :count] = array[start : start + count]
        pages = torch.empty(9, 2, 2, 8)
        pages[table.flatten().long()] = slots.view(9, 2, 2, 8)
        pools.append(pages)
    out = torch.empty_like(query)
    paged = varlen.varlen_attn_out(
        out, query, *pools, OFFSETS, None, 7, 6, enable_gqa=True, seqused_k=used, block_table=table, window_size=(2, 0)
    )  # fmt: skip
    assert paged is out or paged.data_ptr() == out.data_ptr()
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_the_operator_takes_slopes_and_refuses_dropout():
    run = torch.ops.aten._flash_attention_forward
    query, key, _ = draw()
    slopes = torch.tensor([0.5, 0.25, 0.1, 0.0])
    out, *_ = run(query, key, key, OFFSETS, KEYS, 7, 7, 0.0, True, False, alibi_slopes=slopes)
    options = {"cu_seqlens_q": OFFSETS, "cu_seqlens_k": KEYS, "bias": Alibi(slopes)}
    torch.testing.assert_close(out, attention(query, key, key, mask=Window(math.inf, 0), **options))
    with pytest.raises(RegardError, match=r"no dropout on a CPU, got dropout_p=0\.1"):
        run(query, key, key, OFFSETS, KEYS, 7, 7, 0.1, True, False)


def test_the_library_is_told_the_truth():
    query = random(10, 2, 8)
    torch.library.opcheck(
        torch.ops.torch_attn._varlen_attn, (query, query, query, OFFSETS, OFFSETS, 7, 7, False)
    )
