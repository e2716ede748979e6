"""Planted leaks are found and named, and sound models are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regard
import regard.nn
from regard._check.probes import Tokens, future_probes, sequence_probes
from regard._errors import ConfigError, ShapeError

LENGTHS = [5, 1, 0, 7, 3]
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
TOTAL, DIM = int(OFFSETS[-1]), 8
REAL = torch.arange(7) < torch.tensor(LENGTHS)[:, None]


def packed(seed=0):
    return regard.Packed(torch.randn(TOTAL, DIM, generator=torch.Generator().manual_seed(seed)), OFFSETS)


def padded():
    return torch.randn(len(LENGTHS), 7, DIM, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sequences(x, function):
    """A function of (T, dim) on each sequence."""
    return x.with_values(torch.cat([function(one) for one in x.unpack()]))


def attend(x, mask=None):
    """Attention of (..., T, dim) with itself; `mask` is True where it may look."""
    scores = x @ x.mT / DIM**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num() @ x


def see(x, reach=1):
    """Each token up to `reach - 1` behind it."""
    count = x.shape[-2]
    return attend(x, torch.ones(count, count).tril(reach - 1).bool())


def wrong_offsets(x):
    shifted = regard.Packed(x.values, np.minimum(OFFSETS + (OFFSETS > 0) * (OFFSETS < TOTAL), TOTAL))
    return x.with_values(sequences(shifted, attend).values)


norm = nn.BatchNorm1d(DIM)
last_is_special = torch.zeros(TOTAL, DIM)
last_is_special[-1] = 1

PACKED_LEAKS = {
    "attention without mask": (lambda x: attend(x.values), {"sequence"}),
    "batch norm over all sequences": (lambda x: norm.train()(x.values), {"sequence"}),
    "roll over the end of a sequence": (lambda x: x.values.roll(1, 0), {"sequence"}),
    "wrong offsets": (wrong_offsets, {"sequence"}),
    "cumulative sum over all sequences": (lambda x: x.values.cumsum(0), {"sequence"}),
    "softmax over all sequences": (lambda x: x.values.softmax(0), {"sequence"}),
    "one pair of sequences": (lambda x: x.values + x.values[0] * last_is_special, {"sequence"}),
}
CAUSAL_LEAKS = {
    "no causal mask": (lambda x: sequences(x, attend), {"future"}),
    "off by one": (lambda x: sequences(x, lambda one: see(one, 2)), {"future"}),
    "mean over a sequence": (lambda x: sequences(x, lambda one: one + one.mean(0)), {"future"}),
    "roll within a sequence": (lambda x: sequences(x, lambda one: one.roll(-1, 0)), {"future"}),
    "both": (lambda x: attend(x.values), {"sequence", "future"}),
    "max pool": (lambda x: sequences(x, lambda one: one + one.cummax(0)[0] * 0 + one.amax(0) if len(one) else one), {"future"}),
}  # fmt: skip
PADDED_LEAKS = {
    "attention without mask": (attend, {"padding"}),
    "mean pool over padding": (lambda x: x.mean(1), {"padding"}),
    "max pool over padding": (lambda x: x.amax(1), {"padding"}),
    "norm over the batch": (lambda x: x / x.norm(dim=(0, 1)), {"sequence", "padding"}),
    "convolution past the end": (lambda x: x + x.roll(-1, 1), {"padding"}),
    "sum of masked tokens of all": (lambda x: x + (x * REAL[..., None]).sum((0, 1)), {"sequence"}),
}


def kinds(report):
    return {leak.kind for leak in report.found}


@pytest.mark.parametrize("name", PACKED_LEAKS)
def test_leaks_between_packed_sequences_are_found(name):
    model, expected = PACKED_LEAKS[name]
    report = regard.check(model, packed())
    assert kinds(report) == expected
    assert not report.ok
    assert all(leak.token[0] != leak.source[0] for leak in report.found)
    assert report.calls < 60
    assert "sequence" in str(report)


@pytest.mark.parametrize("name", CAUSAL_LEAKS)
def test_looks_into_the_future_are_found(name):
    model, expected = CAUSAL_LEAKS[name]
    report = regard.check(model, packed(), causal=True)
    assert kinds(report) == expected
    for leak in report.found:
        if leak.kind == "future":
            assert leak.token[0] == leak.source[0]
            assert leak.token[1] < leak.source[1]
    assert regard.check(model, packed()).ok == ("sequence" not in expected)


@pytest.mark.parametrize("name", PADDED_LEAKS)
def test_looks_into_padding_are_found(name):
    model, expected = PADDED_LEAKS[name]
    report = regard.check(model, padded(), lengths=LENGTHS)
    assert kinds(report) == expected
    for leak in report.found:
        if leak.kind == "padding":
            assert leak.source[1] >= LENGTHS[leak.source[0]]
    assert regard.check(model, padded(), lengths=REAL.numpy()).found == report.found


def test_the_culprit_is_named():
    def model(x):
        values = x.values.clone()
        values[OFFSETS[3] + 2] += 1e-3 * x.values[OFFSETS[0] + 4].tanh()
        return x.with_values(values)

    (leak,) = regard.check(model, packed()).found
    assert (leak.kind, leak.token, leak.source, leak.by, leak.touched) == (
        "sequence", (3, 2), (0, 4), "value", 1,
    )  # fmt: skip
    assert 0 < leak.change < 3e-3
    assert str(leak).startswith(
        "sequence: token 2 of sequence 3 sees token 4 of sequence 0: its output changes by "
    )


SOUND_PACKED = {
    "self-attention": regard.nn.SelfAttention(DIM, heads=2),
    "encoder": regard.nn.Encoder(2, DIM, heads=2, hidden=16),
    "recurrent encoder": regard.nn.RecurrentEncoder(1, DIM, heads=2, hidden=16),
    "linear layers": lambda x: x.with_values(nn.Linear(DIM, 3)(x.values) * 0 + x.values[:, :3]),
    "attention for each sequence": lambda x: sequences(x, attend),
    "the operator": lambda x: regard.attention(
        *(x.values[:, None] for _ in range(3)), cu_seqlens_q=x.offsets
    ),
    "batch norm that is trained": lambda x: norm.eval()(x.values),
    "the mean of each sequence": lambda x: torch.stack([one.sum(0) for one in x.unpack()]),
    "a constant": lambda x: torch.ones(TOTAL, 1),
}


@pytest.mark.parametrize("name", SOUND_PACKED)
def test_sound_packed_models_have_no_leak(name):
    report = regard.check(SOUND_PACKED[name], packed(), strict=True)
    assert report.ok, str(report)
    assert report.checked == ("sequence",)
    assert report.skipped["padding"] == "there is none"
    assert str(report).startswith(f"no leak in {report.calls} calls; looked for: sequence")


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_sound_causal_models_have_no_leak(kind):
    if kind == "attention":
        layer = regard.nn.SelfAttention(DIM, heads=2)
        model = lambda x: layer(x, mask=regard.Causal())  # noqa: E731 -- beside its twin
    else:
        model = regard.nn.Recurrence(DIM, causal=True)
    report = regard.check(model, packed(), causal=True, strict=True, thorough=True)
    assert report.ok, str(report)
    assert report.checked == ("sequence", "future")


def test_the_encoder_of_pytorch_has_no_leak_and_lets_nan_pass():
    layer = nn.TransformerEncoderLayer(DIM, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    kept = REAL[[0, 1, 3, 4]]
    batch = padded()[[0, 1, 3, 4]]
    for each in (model.train(), model.eval()):

        def called(x, each=each):
            return each(x, src_key_padding_mask=~kept)

        report = regard.check(called, batch, lengths=kept.numpy())
        assert report.ok, str(report)
        assert report.checked == ("sequence", "padding")
    strict = regard.check(lambda x: model.train()(x, src_key_padding_mask=~kept), batch, lengths=kept.numpy(), strict=True)  # fmt: skip
    assert {(leak.kind, leak.by) for leak in strict.found} == {("padding", "nan")}
    assert strict.found[0].change == np.inf
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    causal = regard.check(lambda x: model.eval()(x, mask=mask, is_causal=True), batch, causal=True)
    assert causal.ok, str(causal)
    assert causal.checked == ("sequence", "future")


def test_what_a_value_does_not_show_a_gradient_does():
    def model(x):  # saturated: the other sequence is rounded away, but for its slope
        other = x.values[OFFSETS[3]]
        return x.with_values(x.values + 1e-12 * other)

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad + grad.roll(1, 0)

    report = regard.check(lambda x: x.with_values(Slope.apply(x.values)), packed())
    leak = report.found[0]
    assert (leak.kind, leak.by) == ("sequence", "gradient")
    assert (OFFSETS[leak.source[0]] + leak.source[1] - 1) % TOTAL == OFFSETS[leak.token[0]] + leak.token[1]
    assert "has a gradient of" in str(leak)
    assert regard.check(lambda x: x.with_values(Slope.apply(x.values)), packed(), gradients=False).ok
    assert regard.check(model, packed(), gradients=False).ok


def test_ids_are_changed_to_others():
    table = nn.Embedding(20, DIM)
    ids = regard.Packed(torch.arange(TOTAL) % 5 + 3, OFFSETS)
    assert regard.check(lambda x: sequences(x.with_values(table(x.values)), attend), ids).ok
    report = regard.check(lambda x: attend(table(x.values)), ids)
    assert kinds(report) == {"sequence"}
    seen = []
    regard.check(lambda x: (seen.append(x.values), table(x.values))[1], ids)
    assert set(torch.cat(seen).tolist()) == {3, 4, 5, 6, 7}
    with pytest.raises(ConfigError, match="two different ones at least"):
        regard.check(lambda x: table(x.values), ids.with_values(torch.ones(TOTAL, dtype=torch.int64)))


def test_padding_that_the_model_knows_by_its_id_is_left_alone():
    table = nn.Embedding(9, DIM)
    ids = torch.where(REAL, torch.randint(1, 9, REAL.shape), 0)

    def model(x):
        real = x != 0
        return attend(table(x), real[:, None, :])

    assert kinds(regard.check(model, ids, lengths=LENGTHS)) == {"padding"}
    report = regard.check(model, ids, lengths=LENGTHS, pad=0)
    assert report.ok, str(report)
    assert report.skipped == {"padding": "the model knows it by its id"}


def test_numpy_and_half_precision():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(TOTAL, DIM))
    assert kinds(regard.check(lambda x: x - x.mean(0), values, offsets=OFFSETS)) == {"sequence"}
    assert regard.check(lambda x: x * 2, values.astype(np.float16), offsets=OFFSETS).ok
    narrow = packed().with_values(packed().values.bfloat16())
    assert regard.check(lambda x: sequences(x, attend), narrow).ok
    assert kinds(regard.check(lambda x: attend(x.values), narrow)) == {"sequence"}


def test_left_padding_and_what_a_row_is():
    real = np.arange(7) >= 7 - np.array(LENGTHS)[:, None]
    mask = torch.from_numpy(real)
    assert regard.check(lambda x: attend(x, mask[:, None]), padded(), lengths=real).ok
    square = torch.randn(4, 4, 4)
    pooled = lambda x: x.sum(1)  # noqa: E731 -- (4, 4), which might be tokens
    assert not regard.check(pooled, square, causal=True).ok
    report = regard.check(pooled, square, causal=True, per="sequence")
    assert report.ok
    assert "sees all of it" in report.skipped["future"]
    leak = regard.check(lambda x: x.sum((0, 1)).expand(4, 4), square, per="sequence").found[0]
    assert leak.token[1] is None
    assert str(leak).startswith(f"sequence: sequence {leak.token[0]} sees token ")


def test_what_cannot_be_checked_is_told():
    batch = packed()
    with pytest.raises(ConfigError, match="gives other numbers for the same batch"):
        regard.check(lambda x: nn.functional.dropout(x.values, 0.5), batch)
    with pytest.raises(ConfigError, match="NaN or infinity for the batch as it is"):
        regard.check(lambda x: x.values * torch.nan, batch)
    with pytest.raises(ConfigError, match="there is nothing to look for"):
        regard.check(lambda x: x.values, regard.Packed(torch.randn(3, 2), [0, 3]))
    with pytest.raises(ConfigError, match="must be Packed or an array"):
        regard.check(lambda x: x, [1, 2])
    with pytest.raises(ConfigError, match="per is 'token' or 'sequence'"):
        regard.check(lambda x: x.values, batch, per="row")
    with pytest.raises(ShapeError, match="expected an output of shape"):
        regard.check(lambda x: x.values[:3], batch)
    with pytest.raises(ShapeError, match=r"must give one array, or Packed\. Received tuple"):
        regard.check(lambda x: (x.values, 1), batch)
    for lengths in ([1, 2], [9, 1, 1, 1, 1], np.ones((2, 2), bool)):
        with pytest.raises(ShapeError):
            regard.check(lambda x: x, padded(), lengths=lengths)
    with pytest.raises(ShapeError, match=r"array \(N, T, ...\)"):
        regard.check(lambda x: x, torch.randn(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_probes_cover_every_pair(lengths):
    tokens = Tokens.of_lengths(np.array(lengths))
    covered = set()
    for probe in sequence_probes(tokens, tokens):
        changed, watched = (set(tokens.sequence[mask]) for mask in (probe.changed, probe.watched))
        assert not changed & watched
        covered |= {(a, b) for a in changed for b in watched}
    there = [n for n, length in enumerate(lengths) if length]
    assert covered == {(a, b) for a in there for b in there if a != b}
    seen = set()
    for probe in future_probes(tokens, None, thorough=True):
        for n, length in enumerate(lengths):
            mine = tokens.sequence == n
            changed, watched = tokens.place[mine & probe.changed], tokens.place[mine & probe.watched]
            assert set(changed) | set(watched) == set(range(length))
            assert not len(changed) or not len(watched) or watched.max() < changed.min()
            seen |= {(n, t) for t in watched if t + 1 in changed}
    assert seen == {(n, t) for n, length in enumerate(lengths) for t in range(length - 1)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=9).filter(lambda lengths: sum(lengths) > 1), st.data()
)
def test_any_one_leak_is_found_and_named(lengths, data):
    """From any token to any other that must not see it, in a sound causal model."""
    tokens = Tokens.of_lengths(np.array(lengths))
    place = {
        number: (int(tokens.sequence[number]), int(tokens.place[number])) for number in range(sum(lengths))
    }
    pairs = [
        (token, source)
        for token in place for source in place
        if place[token][0] != place[source][0] or place[token][1] < place[source][1]
    ]  # fmt: skip
    token, source = data.draw(st.sampled_from(pairs))
    values = np.random.default_rng(0).normal(size=(sum(lengths), 3))
    same = tokens.sequence[:, None] == tokens.sequence
    weights = (same & (tokens.place[:, None] >= tokens.place)).astype(float)
    weights[token, source] = 1e-6
    batch = regard.Packed(values, np.concatenate([[0], np.cumsum(lengths)]))
    (leak,) = regard.check(lambda x: weights @ x.values, batch, causal=True, thorough=True).found
    assert (leak.token, leak.source) == (place[token], place[source])
    assert leak.kind == ("future" if place[token][0] == place[source][0] else "sequence")
    weights[token, source] = 0
    if len(pairs) > 1 or place[token][0] != place[source][0]:
        assert regard.check(lambda x: weights @ x.values, batch, causal=True, thorough=True).ok
