"""The recurrent control: a plain LSTM over each sequence, packed, step by step, and no larger than what it stands in for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Causal, ConfigError, Packed, ShapeError, Window
from regard.nn import (
    Decoder,
    DecoderBlock,
    Encoder,
    EncoderBlock,
    EncoderDecoder,
    Recurrence,
    RecurrentDecoder,
    RecurrentDecoderBlock,
    RecurrentEncoder,
    RecurrentEncoderBlock,
    SelfAttention,
    Shape,
    TextEncoder,
    watch,
)
from regard.nn.cache import StateCache, keep
from regard.nn.recurrent import time_order

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=7)
CLOSE = {"atol": 1e-12, "rtol": 1e-12}
SIZES = {"vocabulary": 30, "dim": 24, "heads": 4, "hidden": 20, "encoder_layers": 2, "decoder_layers": 2}
RECURRENT = {"encoder": "recurrent", "decoder": "recurrent"}


def offsets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)])


def states(lengths, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), dim, generator=generator, dtype=torch.float64)
    return Packed(values.requires_grad_(), offsets(lengths))


def layer_of(causal, dim=8):
    torch.manual_seed(0)
    return Recurrence(dim, causal=causal).double()


def plain(layer, x):
    """One sequence after the other, with nothing packed: what the layer is meant to compute."""
    found = []
    for sequence in x.unpack():
        if not len(sequence):
            continue
        read = [layer.layers[0](sequence)[0]]
        if not layer.causal:
            read.append(layer.layers[1](sequence.flip(0))[0].flip(0))
        found.append(layer.output(torch.cat(read, -1)))
    return torch.cat(found) if found else x.values


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@given(lengths=LENGTHS, causal=st.booleans())
def test_it_equals_an_lstm_over_each_sequence_with_all_gradients(lengths, causal):
    layer, x = layer_of(causal), states(lengths)
    out, expected = layer(x).values, plain(layer, x)
    torch.testing.assert_close(out, expected, **CLOSE)
    if not sum(lengths):
        return
    up = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [x.values, *layer.parameters()]
    received = torch.autograd.grad((out * up).sum(), leaves)
    for got, wanted in zip(received, torch.autograd.grad((expected * up).sum(), leaves), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


@given(lengths=LENGTHS, backward=st.booleans())
def test_places_are_those_that_pytorch_packs(lengths, backward):
    order, running = time_order(offsets(lengths), backward)
    numbers = torch.arange(sum(lengths))
    sequences = [part.flip(0) if backward else part for part in numbers.split(lengths) if len(part)]
    if not sequences:
        assert not len(order)
        assert not len(running)
        return
    # PyTorch sorts by length without promising an order of equals; sorted beforehand, it changes nothing.
    sequences.sort(key=len, reverse=True)
    packed = torch.nn.utils.rnn.pack_sequence(sequences)
    data = torch.empty_like(numbers).index_copy(0, torch.from_numpy(order), numbers)
    assert data.tolist() == packed.data.tolist()
    assert running.tolist() == packed.batch_sizes.tolist()


@pytest.mark.parametrize("causal", [False, True])
def test_tensors_are_read_row_by_row(causal):
    layer = layer_of(causal)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    out = layer(x)
    assert out.shape == x.shape
    for row, sequence in zip(out.flatten(0, 1), x.flatten(0, 1), strict=True):
        torch.testing.assert_close(row, layer(sequence), **CLOSE)
    assert layer(x[:, :, :0]).shape == (2, 3, 0, 8)


def test_a_causal_layer_sees_nothing_behind_a_token():
    x = torch.randn(6, 8, dtype=torch.float64)
    changed = torch.cat([x[:4], torch.full((2, 8), torch.nan, dtype=torch.float64)])
    causal, both = layer_of(True), layer_of(False)
    torch.testing.assert_close(causal(changed, mask=Causal())[:4], causal(x)[:4], atol=0, rtol=0)
    assert both(changed)[0].isnan().all()


@pytest.mark.parametrize("steps", [(1, 1, 1, 1, 1), (2, 3), (4, 1), (5,)])
def test_step_by_step_equals_the_whole(steps):
    layer, cache, x = layer_of(True), StateCache(), torch.randn(3, 5, 8, dtype=torch.float64)
    found = [layer(part, mask=Causal(), cache=cache) for part in x.split(steps, dim=1)]
    torch.testing.assert_close(torch.cat(found, 1), layer(x), **CLOSE)
    assert cache.length == 5


@torch.no_grad()
def test_hypotheses_that_are_named_twice_or_leave_go_on_with_their_own_state():
    torch.manual_seed(0)
    model = EncoderDecoder(Shape(**SIZES, **RECURRENT)).double().eval()
    source = Packed(torch.randint(30, (6,)), offsets([4, 2]))
    encoded, reads, texts = model.encode(source), torch.tensor([0, 1, 1]), torch.randint(30, (3, 6))
    copies = Packed.pack([source.unpack()[read] for read in reads])
    expected = model(copies, Packed(texts.reshape(-1), np.arange(0, 19, 6))).view(3, 6, -1)
    caches = model.decoder.caches()
    for place in range(3):
        out = model.step(Packed(texts[:, place], np.arange(4)), encoded, caches, reads)
        torch.testing.assert_close(out, expected[:, place], **CLOSE)
    chosen = torch.tensor([2, 0, 2, 1])
    keep(caches, chosen)
    for place in range(3, 6):
        packed = Packed(texts[chosen, place], np.arange(5))
        out = model.step(packed, encoded, caches, reads[chosen])
        torch.testing.assert_close(out, expected[chosen, place], **CLOSE)


@pytest.mark.parametrize("dim", [64, 96, 128, 256, 512])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_as_large_as_the_attention_within_a_hundredth(dim, causal):
    assert count(Recurrence(dim, causal=causal)) == pytest.approx(count(SelfAttention(dim, 4)), rel=0.01)


def test_at_any_width_it_is_about_as_large():
    for dim in range(64, 256, 2):
        for causal in (False, True):
            bound = 0.01 if dim >= 112 else 0.015
            assert count(Recurrence(dim, causal=causal)) == pytest.approx(4 * dim**2, rel=bound)


@pytest.mark.parametrize("options", [{}, {"kv_heads": 2}, {"qk_norm": False, "dropout": 0.1}])
def test_blocks_and_models_are_as_large_as_those_that_they_stand_in_for(options):
    pairs = [(EncoderBlock, RecurrentEncoderBlock), (DecoderBlock, RecurrentDecoderBlock)]
    for attentive, recurrent in pairs:
        sizes = [count(kind(128, 4, 256, **options)) for kind in (attentive, recurrent)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    sizes = [count(EncoderDecoder(Shape(1000, **kinds))) for kinds in ({}, RECURRENT)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_kinds_choose_the_layers():
    mixed = EncoderDecoder(Shape(**SIZES, encoder="recurrent"))
    assert type(mixed.encoder) is RecurrentEncoder
    assert type(mixed.decoder) is Decoder
    other = EncoderDecoder(Shape(**SIZES, decoder="recurrent"))
    assert type(other.encoder) is Encoder
    assert type(other.decoder) is RecurrentDecoder
    assert type(TextEncoder(10, 8, 2, 8, 1, kind="recurrent").encoder) is RecurrentEncoder
    with pytest.raises(ConfigError, match=r"no layers of kind 'gru'. Expected one of: attention, recurrent"):
        TextEncoder(10, 8, 2, 8, 1, kind="gru")


def test_sequences_of_a_model_do_not_depend_on_the_others():
    torch.manual_seed(0)
    model = EncoderDecoder(Shape(**SIZES, **RECURRENT)).double().eval()
    source, target = (Packed(torch.randint(30, (8,)), offsets(lengths)) for lengths in ([1, 4, 3], [5, 1, 2]))
    together = Packed(model(source, target), target.offsets).unpack()
    for number, pair in enumerate(zip(source.unpack(), target.unpack(), strict=True)):
        alone = model(*(Packed(ids, [0, len(ids)]) for ids in pair))
        torch.testing.assert_close(together[number], alone, **CLOSE)


def test_under_autocast_it_computes_in_float32_and_a_state_goes_on():
    torch.manual_seed(0)
    layer, cache, x = Recurrence(32, causal=True), StateCache(), torch.randn(2, 5, 32)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.bfloat16())
        steps = [layer(part, cache=cache) for part in x.bfloat16().split(1, dim=1)]
    assert cache.state[0].dtype == torch.float32
    for found in (out, torch.cat(steps, 1)):
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


def test_forget_gates_begin_open_and_every_gate_is_orthogonal():
    for layer in Recurrence(64).layers:
        assert layer.bias_ih_l0.chunk(4)[1].eq(1).all()
        assert layer.bias_hh_l0.eq(0).all()
        for gate in layer.weight_hh_l0.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(len(gate)), atol=1e-5, rtol=0)


def test_a_model_learns_what_needs_memory():
    """The first token decides the label of the last, whatever stands between."""
    torch.manual_seed(0)
    encoder, table = TextEncoder(6, 16, 2, 16, 1, kind="recurrent"), torch.nn.Linear(16, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *table.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        lengths = torch.randint(3, 9, (16,)).tolist()
        tokens = Packed(torch.randint(2, 6, (sum(lengths),)), offsets(lengths))
        labels = torch.randint(2, (16,))
        tokens.values[tokens.offsets[:-1]] = labels
        out = encoder(tokens).values[tokens.offsets[1:] - 1]
        loss = torch.nn.functional.cross_entropy(table(out), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[:3]) > 0.5
    assert np.mean(losses[-10:]) < 0.1


def test_what_it_cannot_do_is_refused():
    x = torch.randn(3, 8)
    with pytest.raises(ConfigError, match=r"Expected: no mask. Received: Causal"):
        Recurrence(8)(x, mask=Causal())
    with pytest.raises(ConfigError, match=r"Expected: no mask, or Causal\(\). Received: Window"):
        Recurrence(8, causal=True)(x, mask=Window(1))
    with pytest.raises(ConfigError, match="reads from both ends"):
        Recurrence(8)(x, cache=StateCache())
    with pytest.raises(ShapeError, match=r"one length. Received lengths \[1, 2\]"):
        Recurrence(8, causal=True)(Packed(x, [0, 1, 3]), cache=StateCache())
    with (
        pytest.raises(ConfigError, match="no attention to look at"),
        watch(RecurrentEncoder(1, 8, 2, 8), SelfAttention),
    ):
        pass
