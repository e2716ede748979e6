from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from regard import Causal, Lengths, Packed, Window
from regard._errors import ConfigError
from regard.nn import CrossAttention, Decoder, Encoder, EncoderDecoder, SelfAttention, Shape, watch
from regard.nn.cache import keep

SIZES = {"vocabulary": 30, "dim": 24, "heads": 4, "hidden": 20, "encoder_layers": 2, "decoder_layers": 2}
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return EncoderDecoder(Shape(**SIZES)).eval()


def tokens(*lengths):
    generator = torch.Generator().manual_seed(sum(lengths) + len(lengths))
    ids = torch.randint(30, (sum(lengths),), generator=generator)
    return Packed(ids, np.concatenate([[0], np.cumsum(lengths)]))


def states(*lengths, dim=24):
    return Packed(torch.randn(sum(lengths), dim), np.concatenate([[0], np.cumsum(lengths)]))


@pytest.mark.parametrize("mask", [None, Causal(), Window(1)])
def test_an_encoder_gives_the_same_packed_padded_and_singly(mask):
    torch.manual_seed(0)
    encoder = Encoder(2, 24, 4, 20).eval()
    x = states(3, 1, 0, 5)
    out = encoder(x, mask=mask).unpack()
    held = Lengths(q=x.lengths, k=x.lengths)
    padded = encoder(x.to_padded(7.0), mask=held if mask is None else mask & held)
    for n, sequence in enumerate(x.unpack()):
        torch.testing.assert_close(out[n], encoder(sequence, mask=mask), **CLOSE)
        torch.testing.assert_close(out[n], padded[n, : len(sequence)], **CLOSE)


def test_a_decoder_gives_the_same_packed_and_singly():
    torch.manual_seed(0)
    decoder = Decoder(2, 24, 4, 20, kv_heads=2).eval()
    x, context = states(3, 1, 4), states(2, 6, 1)
    out = decoder(x, context).unpack()
    padded = decoder(x.to_padded()[:, :1], context.to_padded()[:, :1])
    for n in range(3):
        alone = decoder(x.unpack()[n], context.unpack()[n])
        torch.testing.assert_close(out[n], alone, **CLOSE)
    torch.testing.assert_close(padded[2, 0], decoder(x.unpack()[2][:1], context.unpack()[2][:1])[0], **CLOSE)


def test_a_pair_does_not_depend_on_the_others(model):
    sources, targets = tokens(4, 1, 7), tokens(3, 5, 2)
    together = model(sources, targets).split([3, 5, 2])
    for n, (source, target) in enumerate(zip(sources.unpack(), targets.unpack(), strict=True)):
        alone = model(Packed(source, [0, len(source)]), Packed(target, [0, len(target)]))
        torch.testing.assert_close(together[n], alone, **CLOSE)


def test_foreign_sequences_may_hold_anything():
    """NaN and infinities in the others change nothing, forward and backward, to the last bit."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(2, 24, 4, 20).eval(), Decoder(1, 24, 4, 20).eval()
    x, y = states(3, 4, 2), states(2, 5, 3)
    mine = slice(3, 7), slice(2, 7)
    results = []
    for poison in (None, torch.nan, torch.inf):
        leaves = [x.values.clone(), y.values.clone()]
        for leaf, span in zip(leaves, mine, strict=True):
            if poison is not None:
                leaf[: span.start], leaf[span.stop :] = poison, poison
            leaf.requires_grad_()
        out = decoder(y.with_values(leaves[1]), encoder(x.with_values(leaves[0]))).unpack()[1]
        grads = torch.autograd.grad(out.sum(), leaves)
        results.append([out, *(grad[span] for grad, span in zip(grads, mine, strict=True))])
    for received in results[1:]:
        for tensor, expected in zip(received, results[0], strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


@torch.no_grad()
def test_writing_step_by_step_equals_the_full_pass(model):
    """Hypotheses that share sources, are named several times and leave in between."""
    sources = tokens(4, 2)
    encoded = model.encode(sources)
    reads = [0, 1, 1]
    texts = torch.randint(30, (3, 6), generator=torch.Generator().manual_seed(0))
    copies = Packed.pack([sources.unpack()[read] for read in reads])
    expected = model(copies, Packed(texts.reshape(-1), np.arange(0, 19, 6))).view(3, 6, -1)
    caches = model.decoder.caches()
    for place in range(3):
        packed = Packed(texts[:, place], np.arange(4))
        out = model.step(packed, encoded, caches, torch.tensor(reads))
        torch.testing.assert_close(out, expected[:, place], **CLOSE)
    chosen = torch.tensor([2, 0, 2])
    keep(caches, chosen)
    for place in range(3, 6):
        packed = Packed(texts[chosen, place], np.arange(4))
        out = model.step(packed, encoded, caches, torch.tensor(reads)[chosen])
        torch.testing.assert_close(out, expected[chosen, place], **CLOSE)


def test_the_embedding_is_tied(model):
    names = [name for name, _ in model.named_parameters()]
    assert names.count("embedding.weight") == 1
    assert not any("scores" in name or "head" in name for name in names)
    hidden = torch.randn(2, 24)
    torch.testing.assert_close(model.scores(hidden), hidden @ model.embedding.weight.T)


def test_every_parameter_gets_a_gradient(model):
    model.train()
    model.scores(model(tokens(4, 2), tokens(3, 3))).logsumexp(-1).sum().backward()
    missing = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert missing == []


def test_the_decoder_sees_no_token_to_come(model):
    sources, targets = tokens(4), tokens(6)
    expected = model(sources, targets)
    changed = targets.values.clone()
    changed[4:] = (changed[4:] + 1) % 30
    out = model(sources, targets.with_values(changed))
    torch.testing.assert_close(out[:4], expected[:4], **CLOSE)
    assert not torch.allclose(out[4:], expected[4:])


def test_dropout_is_for_training():
    torch.manual_seed(0)
    model = EncoderDecoder(Shape(**SIZES, dropout=0.5))
    sources, targets = tokens(4), tokens(6)
    assert not torch.equal(model(sources, targets), model(sources, targets))
    model.eval()
    assert torch.equal(model(sources, targets), model(sources, targets))


def test_an_empty_batch_and_empty_sequences(model):
    nothing = Packed(torch.zeros(0, dtype=torch.int64), [0])
    assert model(nothing, nothing).shape == (0, 24)
    out = model(tokens(0, 3), tokens(2, 2))
    assert out.isfinite().all()


@torch.no_grad()
def test_watching_changes_nothing_and_sums_to_one(model):
    source, target = tokens(5), tokens(3)
    expected = model(source, target)
    with watch(model) as seen:
        out = model(source, target)
    assert torch.equal(out, expected)
    assert [tuple(weights.shape) for weights in seen] == [(3, 4, 5)] * 2
    for weights in seen:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    with watch(model, SelfAttention) as own:
        model(source, target)
    assert [weights.shape[0] for weights in own] == [5, 5, 3, 3]
    assert (own[-1][0, :, 1:] == 0).all()
    model(source, target)
    assert len(seen) == 2
    assert not any(layer.seen for layer in model.modules() if isinstance(layer, CrossAttention))


@torch.no_grad()
def test_threads_watch_one_model_each_for_itself(model):
    together = threading.Barrier(3, timeout=60)

    def looked(length):
        source, target = tokens(length), tokens(3)
        together.wait()
        if length == 4:  # this one calls the model without looking
            model(source, target)
            together.wait()
            return []
        with watch(model) as seen:
            together.wait()
            model(source, target)
        return [weights.shape[-1] for weights in seen]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(looked, (5, 4, 7))) == [[5, 5], [], [7, 7]]


def test_watches_lie_within_each_other(model):
    with watch(model) as outer:
        with watch(model, SelfAttention) as own, watch(model) as inner:
            model(tokens(5), tokens(3))
        model(tokens(4), tokens(2))
    assert [weights.shape[-1] for weights in inner] == [5, 5]
    assert [weights.shape[-1] for weights in own] == [5, 5, 3, 3]
    assert [weights.shape[-1] for weights in outer] == [5, 5, 4, 4]


def test_a_watch_within_a_generator_ends_in_any_context(model):
    def steps():
        with watch(model):
            yield model(tokens(5), tokens(3))
            yield None

    generator = steps()
    contextvars.copy_context().run(next, generator)
    generator.close()
    with watch(model) as seen:
        model(tokens(4), tokens(2))
    assert len(seen) == 2


def test_looking_without_a_call_is_an_error(model):
    with (
        pytest.raises(
            ConfigError, match=r"none of its layers of CrossAttention ran\. To mend it: call the model itself"
        ),
        watch(model),
    ):
        pass


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own doing
def test_a_whole_model_compiles_without_a_break():
    torch.manual_seed(0)
    encoder = Encoder(2, 24, 4, 20, dropout=0.5)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    x = states(3, 1, 5)
    encoder.eval()
    torch.testing.assert_close(compiled(x).values, encoder(x).values, **CLOSE)
    encoder.train()
    first = compiled(x).values
    assert first.isfinite().all()
    assert not torch.equal(compiled(x).values, first)
    first.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
