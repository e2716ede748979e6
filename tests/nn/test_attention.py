from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from regard import Aux, Causal, Lengths, Packed, Window, attention
from regard._errors import ConfigError, RegardError, ShapeError
from regard.nn import CrossAttention, KeyValueCache, SelfAttention

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(shape, generator=GENERATOR)


def made(kind, *arguments, **options):
    torch.manual_seed(1)
    return kind(*arguments, **options).eval()


OPTIONS = [
    {},
    {"bias": True},
    {"kv_heads": 2},
    {"kv_heads": 1, "head_dim": 6, "qk_norm": True},
    {"rotary": True, "qk_norm": True},
    {"combine": "concat"},
    {"combine": "concat", "kv_heads": 2, "head_dim": 6, "rotary": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mask", [None, Causal(), Window(2)])
def test_packed_padded_and_single_sequences_agree(options, mask):
    layer = made(SelfAttention, 16, 4, **options)
    packed = Packed(random(9, 16), [0, 4, 4, 5, 9])
    out = layer(packed, mask=mask)
    assert isinstance(out, Packed)
    assert out.offsets is packed.offsets
    held = Lengths(q=packed.lengths, k=packed.lengths)
    padded = layer(packed.to_padded(float("nan")), mask=held if mask is None else mask & held)
    for n, sequence in enumerate(packed.unpack()):
        torch.testing.assert_close(out.unpack()[n], layer(sequence, mask=mask), atol=1e-6, rtol=0)
        torch.testing.assert_close(out.unpack()[n], padded[n, : len(sequence)], atol=1e-6, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_the_weights_of_torch_give_the_same_numbers(bias, causal):
    theirs = made(torch.nn.MultiheadAttention, 24, 4, bias=bias, batch_first=True)
    if bias:
        torch.nn.init.normal_(theirs.in_proj_bias)
        torch.nn.init.normal_(theirs.out_proj.bias)
    ours = SelfAttention(24, 4, bias=bias).load_multihead(theirs)
    x = random(3, 7, 24).requires_grad_()
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, weights = theirs(x, x, x, attn_mask=hidden, average_attn_weights=False)
    rows = range(21)
    out, aux = ours(x, mask=Causal() if causal else None, return_aux=Aux(rows=rows))
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(aux.rows.view(3, 7, 4, 7).transpose(1, 2), weights, atol=1e-6, rtol=0)
    packed = ours(Packed(x.flatten(0, 1), [0, 7, 14, 21]), mask=Causal() if causal else None)
    torch.testing.assert_close(packed.values.view(3, 7, 24), expected, atol=1e-6, rtol=0)
    ups = random(3, 7, 24)
    received, wanted = (torch.autograd.grad(y, x, ups)[0] for y in (out, expected))
    torch.testing.assert_close(received, wanted, atol=1e-5, rtol=0)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"expected 4 heads and bias=False. Received 2 heads and bias=False"):
        SelfAttention(8, 4).load_multihead(torch.nn.MultiheadAttention(8, 2, bias=False))
    with pytest.raises(ShapeError, match="Received 4 heads and bias=True"):
        SelfAttention(8, 4).load_multihead(torch.nn.MultiheadAttention(8, 4))
    for other in (torch.nn.MultiheadAttention(12, 4), torch.nn.MultiheadAttention(8, 4, kdim=6)):
        with pytest.raises(ShapeError, match="of the same width"):
            SelfAttention(8, 4, bias=True).load_multihead(other)
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):  # a key more, which ours has not
        with pytest.raises(RegardError):
            SelfAttention(8, 4, bias=True).load_multihead(torch.nn.MultiheadAttention(8, 4, **options))
    for options in (
        {"rotary": True},
        {"qk_norm": True},
        {"combine": "concat"},
    ):  # other numbers, whatever the weights
        with pytest.raises(RegardError):
            SelfAttention(8, 4, bias=True, **options).load_multihead(torch.nn.MultiheadAttention(8, 4))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="Received dim=10, heads=4"):
        SelfAttention(10, 4)
    with pytest.raises(ConfigError, match=r"one of project, concat. Received 'add'"):
        SelfAttention(8, 4, combine="add")


def test_concat_puts_each_heads_query_beside_its_context():
    """`softmax(Q K^T / sqrt(d_k)) V`, then `[Q, context] W + b` (heads stand side by side)."""
    layer = made(SelfAttention, 12, 3, combine="concat")
    torch.nn.init.normal_(layer.output.bias)
    x = random(5, 12)
    query, key, value = (layer.query_key_value(x)[:, part : part + 12].view(5, 3, 4) for part in (0, 12, 24))
    weights = torch.softmax(torch.einsum("thd,shd->hts", query, key) / 2, -1)
    context = torch.einsum("hts,shd->thd", weights, value)
    joined = torch.cat([query, context], -1).reshape(5, 24)
    torch.testing.assert_close(layer(x), joined @ layer.output.weight.T + layer.output.bias)
    one = made(SelfAttention, 4, 1, combine="concat")
    query, context = one.query_key_value(x[:, :4])[:, :4], None
    out, aux = one(x[:, :4], return_aux=Aux(rows=range(5)))
    context = aux.rows[:, 0] @ one.query_key_value(x[:, :4])[:, 8:]
    torch.testing.assert_close(out, one.output(torch.cat([query, context], -1)))


def test_an_output_projection_may_be_frozen():
    layer = made(SelfAttention, 8, 2, combine="concat")
    layer.output.requires_grad_(requires_grad=False)
    layer(random(3, 8)).sum().backward()
    assert layer.output.weight.grad is None
    assert layer.query_key_value.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"kv_heads": 2, "qk_norm": True, "head_dim": 6}])
def test_queries_that_share_a_context_equal_copies_of_it(options):
    layer = made(CrossAttention, 16, 4, context_dim=10, **options)
    x = Packed(random(6, 16), [0, 1, 3, 6])
    context = Packed(random(7, 10), [0, 3, 7])
    out = layer(x, context, key_sequence=[1, 0, 1]).unpack()
    for n, read in enumerate([1, 0, 1]):
        torch.testing.assert_close(out[n], layer(x.unpack()[n], context.unpack()[read]), atol=1e-6, rtol=0)
    copies = Packed.pack([context.unpack()[read] for read in (1, 0, 1)])
    torch.testing.assert_close(torch.cat(out), layer(x, copies).values, atol=1e-6, rtol=0)


def test_a_cached_context_is_projected_once():
    from regard.nn.cache import ContextCache

    layer = made(CrossAttention, 8, 2, qk_norm=True)
    x, context = Packed(random(3, 8), [0, 1, 3]), Packed(random(5, 8), [0, 2, 5])
    expected = layer(x, context).values
    cache = ContextCache()
    torch.testing.assert_close(layer(x, context, cache=cache).values, expected)
    poisoned = context.with_values(torch.full_like(context.values, torch.nan))
    torch.testing.assert_close(layer(x, poisoned, cache=cache).values, expected)


def test_forms_that_do_not_go_together_are_refused():
    layer = made(CrossAttention, 8, 2)
    with pytest.raises(ShapeError, match="both be Packed or both be tensors"):
        layer(Packed(random(3, 8), [0, 3]), random(1, 4, 8))
    with pytest.raises(ShapeError, match="key_sequence names sequences of packed arrays"):
        layer(random(2, 3, 8), random(2, 4, 8), key_sequence=[1, 0])


@pytest.mark.parametrize("options", [{}, {"kv_heads": 2}, {"rotary": True, "qk_norm": True}])
@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(6, 0)])
def test_step_by_step_with_a_cache_equals_the_full_pass(options, mask, poisoned_memory):
    layer = made(SelfAttention, 16, 4, **options)
    x = random(3, 40, 16)
    expected = layer(x, mask=mask)
    for cuts in ([1] * 40, [5, 1, 30, 4]):
        cache = KeyValueCache()
        with torch.no_grad():
            parts = [layer(part, mask=mask, cache=cache) for part in x.split(cuts, dim=1)]
        assert cache.length == 40
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_cache_takes_packed_sequences_of_one_length_and_keeps_some():
    layer = made(SelfAttention, 8, 2, rotary=True)
    x = random(3, 4, 8)
    expected = layer(x[[2, 0, 2]], mask=Causal())
    cache = KeyValueCache()
    layer(Packed(x[:, :2].flatten(0, 1), [0, 2, 4, 6]), mask=Causal(), cache=cache)
    cache.keep(torch.tensor([2, 0, 2]))
    for place in (2, 3):
        out = layer(Packed(x[[2, 0, 2], place], [0, 1, 2, 3]), mask=Causal(), cache=cache)
        torch.testing.assert_close(out.values, expected[:, place], atol=1e-6, rtol=0)
    with pytest.raises(ShapeError, match=r"all sequences must have one length. Received lengths \[1, 2\]"):
        layer(Packed(random(3, 8), [0, 1, 3]), cache=cache)


def test_without_a_mask_a_cached_step_sees_every_key():
    layer = made(SelfAttention, 8, 2)
    x = random(2, 5, 8)
    cache = KeyValueCache()
    with torch.no_grad():
        layer(x[:, :3], cache=cache)
        out = layer(x[:, 3:], cache=cache)
    torch.testing.assert_close(out, layer(x)[:, 3:], atol=1e-6, rtol=0)


def test_dropout_is_for_training_and_follows_the_generator():
    layer = SelfAttention(16, 4, dropout=0.5)
    x = random(20, 16)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("options", OPTIONS)
def test_float64_is_float64_throughout(options):
    """Rotation and normalization too: nothing falls to float32 on the way."""
    layer = made(SelfAttention, 8, 4, **(options | {"head_dim": 2 if "head_dim" not in options else 6}))
    for cast in (lambda module: module.double(), lambda module: module.to(torch.float64)):
        wide = cast(copy.deepcopy(layer))
        x = random(5, 8).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, wide=wide: wide(x, mask=Causal()), x, fast_mode=True)
        torch.testing.assert_close(wide(x).float(), layer(x.float()), atol=1e-6, rtol=0)


def test_bfloat16_layers_keep_their_dtype():
    layer = made(SelfAttention, 16, 4, rotary=True, qk_norm=True)
    x = random(5, 16)
    low = copy.deepcopy(layer).to(torch.bfloat16)(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), atol=0.05, rtol=0.05)


def test_aux_is_the_operators():
    layer = made(SelfAttention, 8, 2)
    x = Packed(random(5, 8), [0, 2, 5])
    out, aux = layer(x, mask=Causal(), return_aux=Aux(lse=True, rows=[1, 4]))
    torch.testing.assert_close(out.values, layer(x, mask=Causal()).values)
    projected = layer.query_key_value(x.values).view(5, 6, 4)
    arrays = projected[:, :2], projected[:, 2:4], projected[:, 4:]
    _, expected = attention(
        *arrays, mask=Causal(), cu_seqlens_q=np.array([0, 2, 5]), return_aux=Aux(lse=True, rows=[1, 4])
    )
    torch.testing.assert_close(aux.lse, expected.lse)
    torch.testing.assert_close(aux.rows, expected.rows)


def test_queries_to_a_context_are_normalized_over_all_heads_and_keep_the_share_of_each_head():
    torch.manual_seed(0)
    layer = CrossAttention(12, heads=3, qk_norm=True)
    x, context = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    query = layer.query(x)
    query = (query / (query.square().mean(-1, keepdim=True) + 1e-6).sqrt()).unflatten(-1, (3, 4))
    key, value = layer.key_value(context).unflatten(-1, (-1, 4)).chunk(2, dim=-2)
    key = key / (key.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = layer.output(attention(query, key, value).flatten(-2))
    torch.testing.assert_close(layer(x, context), expected)
