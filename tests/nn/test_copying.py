from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import Packed
from regard.decoding.engine import is_for
from regard.nn import CopyingEncoderDecoder, EncoderDecoder, Shape, consistent, taught, teaching, twice
from regard.nn.copying import EPS, equal_places, repeated_looks

VOCABULARY = 12
SIZES = {"dim": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=4)


def make(dtype=torch.float64, **changes):
    torch.manual_seed(0)
    model = CopyingEncoderDecoder(Shape(VOCABULARY, **SIZES | changes)).to(dtype)
    with torch.no_grad():
        model.gate.normal_(), model.gate_bias.fill_(0.3), model.before.fill_(0.7)
    return model


def packed(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (sum(lengths),), generator=generator)
    return Packed(ids, np.concatenate([[0], np.cumsum(lengths)]))


def known_by(model, tokens):
    projected = model.embedding(tokens) @ model.copy_token.weight.T
    return projected / torch.sqrt(projected.square().mean(-1, keepdim=True) + EPS)


def plain_log_p(model, source, target):
    """log p (T, vocabulary) for each pair, by a table of all pairs."""
    encoded, states = model.encode(source), model.decode(target, model.encode(source))
    for n, ids in enumerate(source.unpack()):
        rows = slice(target.offsets[n], target.offsets[n + 1])
        scores = model.copy_query(states[rows]) @ model.copy_key(encoded.unpack()[n]).T
        read, before = (known_by(model, tokens) for tokens in (target.unpack()[n], ids[:-1]))
        if len(ids):
            scores[:, 1:] += model.before * (read @ before.T)
        weights = torch.softmax(scores / 8, -1)
        copied = weights @ F.one_hot(ids, VOCABULARY).to(weights.dtype)
        share = torch.sigmoid(states[rows] @ model.gate + model.gate_bias)[:, None]
        yield torch.log(share * torch.softmax(model.scores(states[rows]), -1) + (1 - share) * copied)


def seen_log_p(model, source, target):
    """As `plain_log_p`, by the one pass whose dropout the loss has."""
    encoded = model.encode(source)
    states = model.decode(target, encoded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode", lambda _: encoded)
        patch.setattr(model, "decode", lambda *_: states)
        yield from plain_log_p(model, source, target)


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


@settings(max_examples=25, deadline=None)
@given(lengths=PAIRS, smoothing=st.sampled_from([0.0, 0.1]))
def test_the_loss_is_that_of_the_dense_formula(lengths, smoothing):
    model = make()
    source, target = packed([s for s, _ in lengths], 1), packed([t for _, t in lengths], 2)
    following = packed([t for _, t in lengths], 3).values
    log_p = torch.cat(list(plain_log_p(model, source, target)))
    states = model.decode(target, model.encode(source))
    vocabulary = torch.log_softmax(model.scores(states), -1)
    right = log_p.gather(-1, following[:, None]).sum()
    expected = -((1 - smoothing) * right + smoothing * vocabulary.mean(-1).sum())
    found = model.loss(source, target, following, smoothing)
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, model), gradients(expected, model), strict=True):
        torch.testing.assert_close(one, other)


def test_coverage_counts_every_second_look():
    query, key = packed([3, 1, 0], 1), packed([4, 0, 2], 2)
    query = query.with_values(torch.randn(4, 5, dtype=torch.float64, requires_grad=True))
    key = key.with_values(torch.randn(6, 5, dtype=torch.float64))
    a = torch.softmax(query.values[:3] @ key.values[:4].T / 8, -1)
    expected = sum(min(a[t, s], a[:t, s].sum()) for t in range(1, 3) for s in range(4))
    found = repeated_looks(query, key)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(found, query.values)
    assert gradient[:3].any()


def test_coverage_is_a_part_of_the_loss_in_training():
    plain, covered = make(), make()
    covered.coverage = 2.0
    source, target = packed([5, 4], 1), packed([3, 2], 2)
    states = covered.decode(target, covered.encode(source))
    keys = covered.copy_keys(covered.encode(source), source)
    looks = repeated_looks(target.with_values(covered.copy_queries(states, target.values)), keys)
    found = covered.loss(source, target, target.values) - plain.loss(source, target, target.values)
    assert found.item() == pytest.approx(2 * looks.item(), rel=1e-5)
    assert covered.eval().loss(source, target, target.values) == plain.loss(source, target, target.values)


def doubled_loss(model, source, target, following, smoothing, coefficient):
    with consistent(coefficient):
        return model.loss(twice(source), twice(target), following.repeat(2), smoothing)


@settings(max_examples=20, deadline=None)
@given(lengths=PAIRS, smoothing=st.sampled_from([0.0, 0.1]))
def test_two_passes_are_compared_by_their_mixtures(lengths, smoothing):
    model = make(dropout=0.2)
    source, target = packed([s for s, _ in lengths], 1), packed([t for _, t in lengths], 2)
    following = packed([t for _, t in lengths], 3).values
    torch.manual_seed(5)
    found = doubled_loss(model, source, target, following, smoothing, 3.0)
    torch.manual_seed(5)
    truth = model.loss(twice(source), twice(target), following.repeat(2), smoothing)
    torch.manual_seed(5)
    p, q = torch.cat(list(seen_log_p(model, twice(source), twice(target)))).chunk(2)
    expected = truth / 2 + 3.0 / 4 * ((p.exp() - q.exp()) * (p - q)).sum()
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, model), gradients(expected, model), strict=True):
        torch.testing.assert_close(one, other)


def test_equal_passes_agree_in_sequences_of_several_blocks():
    model = make(torch.float32)
    model.coverage = 1.0
    source, target = packed([40, 3], 1), packed([600, 2], 2)
    found = doubled_loss(model, source, target, target.values, 0.1, 5.0)
    torch.testing.assert_close(found, model.loss(source, target, target.values, 0.1))


@settings(max_examples=20, deadline=None)
@given(lengths=PAIRS)
def test_a_student_is_compared_with_the_mixture_of_its_teacher(lengths):
    student, teacher = make(), make(hidden=24)
    source, target = packed([s for s, _ in lengths], 1), packed([t for _, t in lengths], 2)
    following = packed([t for _, t in lengths], 3).values
    with teaching() as said:
        assert teacher.loss(source, target, following) == 0
    with taught(said, 0.25):
        found = student.loss(source, target, following, 0.1)
    p, q = (torch.cat(list(plain_log_p(model, source, target))) for model in (teacher, student))
    divergence = (p.detach().exp() * (p.detach() - q)).sum()
    expected = 0.75 * student.loss(source, target, following, 0.1) + 0.25 * divergence
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, student), gradients(expected, student), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_nowhere_in_the_source_can_still_be_written():
    model = make()
    source, target = Packed(torch.tensor([1, 1]), [0, 2]), Packed(torch.tensor([2]), [0, 1])
    loss = model.loss(source, target, torch.tensor([5]))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(one).all() for one in gradients(loss, model))


@torch.no_grad()
def test_the_written_mixture_is_that_of_the_loss():
    """Hypotheses that share a source, of any length, give the dense formula's log-probabilities."""
    model = make(torch.float32)
    source, target = packed([5, 1, 3], 1), packed([1, 1, 1], 2)
    encoded = model.encode(source)
    states = model.decode(target, encoded)
    read = torch.tensor([2, 0, 1, 2])
    queries = model.copy_queries(states, target.values)[read]
    weights = model.copy_weights(queries, model.copy_keys(encoded, source), read)
    assert weights.shape == (4, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    found = model.log_mixture(states[read], weights, source.to_padded()[read])
    expected = torch.cat(list(plain_log_p(model, source, target)))[read]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.exp().sum(-1), 1, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=PAIRS)
def test_equal_places_are_those_of_the_same_sequence_and_id(lengths):
    source, target = packed([s for s, _ in lengths], 4), packed([t for _, t in lengths], 5)
    order, offsets, groups = equal_places(source, target, VOCABULARY)
    begins = np.repeat(source.offsets[:-1], target.lengths)
    documents = [ids for n, ids in enumerate(source.unpack()) for _ in range(target.lengths[n])]
    for token, begin, document, group in zip(target.values, begins, documents, groups, strict=True):
        places = order[offsets[group] : offsets[group + 1]] - begin
        assert sorted(places.tolist()) == (document == token).nonzero()[:, 0].tolist()


def test_under_autocast_the_loss_stays_close():
    model = make(torch.float32)
    source, target = packed([5, 4], 1), packed([3, 2], 2)
    exact = model.loss(source, target, target.values, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model.loss(source, target, target.values, 0.1)
    assert narrow.item() == pytest.approx(exact.item(), rel=0.03)


def test_the_kernel_for_plain_models_does_not_take_it():
    assert not is_for(make(torch.float32))
    assert not is_for(EncoderDecoder(Shape(VOCABULARY, **SIZES, window=2)))
