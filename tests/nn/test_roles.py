"""The role labeller: rows against a plain formula, and sentences and predicates that do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regard
from regard import Packed
from regard.nn.roles import REACH, RoleLabeller, Rows


def made(layers=2, **options):
    torch.manual_seed(0)
    encoder = regard.nn.TextEncoder(20, dim=16, heads=2, hidden=32, layers=1)
    sizes = {"features": 9, "tags": 5, "heads": 2, "hidden": 24, "layers": layers, "dropout": 0.0, **options}
    return RoleLabeller(encoder, **sizes).eval()


def batch(lengths, predicates, seed=0):
    """Sentences of so many words, of one to three pieces each: pieces, starts, features, predicates."""
    rng = np.random.default_rng(seed)
    pieces, starts = [], []
    for length in lengths:
        sizes = rng.integers(1, 4, length)
        starts.append(torch.from_numpy(np.cumsum(sizes) - sizes))
        pieces.append(torch.from_numpy(rng.integers(0, 20, int(sizes.sum()))))
    features = torch.from_numpy(rng.integers(0, 9, (sum(lengths), 3)))
    return (
        Packed.pack(pieces),
        Packed.pack(starts),
        features,
        Packed.pack([torch.tensor(p, dtype=torch.int64) for p in predicates]),
    )


CASES = st.lists(st.integers(0, 5), min_size=1, max_size=4).flatmap(
    lambda lengths: st.tuples(
        st.just(lengths),
        st.tuples(
            *(st.lists(st.integers(0, n - 1), unique=True, max_size=3) if n else st.just([]) for n in lengths)
        ),
    )
)


@given(CASES)
def test_rows_are_the_words_of_each_predicates_sentence(case):
    lengths, predicates = case
    words = np.concatenate([[0], np.cumsum(lengths)])
    rows = Rows.of(words, Packed.pack([torch.tensor(p, dtype=torch.int64) for p in predicates]))
    expected = [
        (words[n] + w, w - p) for n, ps in enumerate(predicates) for p in ps for w in range(lengths[n])
    ]
    assert list(zip(rows.words, rows.distances - REACH, strict=True)) == expected
    assert rows.sentences.tolist() == [n for n, ps in enumerate(predicates) for _ in ps]


@given(CASES)
def test_every_predicate_is_labelled_as_if_alone(case):
    lengths, predicates = case
    model = made()
    pieces, starts, features, places = batch(lengths, predicates)
    with torch.no_grad():
        words = model(pieces, starts, features)
        together = model.rows(words, places).unpack()
        first = np.concatenate([[0], np.cumsum(lengths)])
        number = 0
        for n, ps in enumerate(predicates):
            part = [Packed.pack([packed.unpack()[n]]) for packed in (pieces, starts)]
            alone = model(*part, features[first[n] : first[n + 1]])
            for p in ps:
                row = model.rows(alone, Packed(torch.tensor([p]), [0, 1]))
                torch.testing.assert_close(together[number], row.values, atol=1e-5, rtol=1e-4)
                number += 1
    assert number == len(together)


def norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def turned(x, positions):
    """Rotary positions, (W, heads, head size)."""
    size = x.shape[-1]
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def test_a_block_is_its_formula():
    model = made(layers=1).double()
    predicate, length, heads = 3, REACH + 9, 2
    states = torch.randn(length, 16, dtype=torch.float64)
    rows = model.rows(Packed(states, [0, length]), Packed(torch.tensor([predicate]), [0, 1]))
    weight = {name: value.detach().numpy() for name, value in model.named_parameters()}
    words = states.numpy()
    away = np.clip(np.arange(length) - predicate, -REACH, REACH) + REACH
    x = words + 4 * weight["distance.weight"][away] + words[predicate] @ weight["predicate.weight"].T
    positions = np.arange(length)
    query = (norm(x) @ weight["blocks.0.attention.query.weight"].T).reshape(length, heads, 8)
    both = (words @ weight["blocks.0.attention.key_value.weight"].T).reshape(length, 2 * heads, 8)
    key, value = turned(norm(both[:, :heads]), positions), both[:, heads:]
    scores = np.einsum("thd,shd->hts", turned(norm(query), positions), key) / np.sqrt(8)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    context = np.einsum("hts,shd->thd", weights, value).reshape(length, 16)
    x = x + context @ weight["blocks.0.attention.output.weight"].T
    gate, up = np.split(norm(x) @ weight["blocks.0.feed_forward.gate_up.weight"].T, 2, -1)
    x = x + (gate / (1 + np.exp(-gate)) * up) @ weight["blocks.0.feed_forward.down.weight"].T
    np.testing.assert_allclose(rows.values.detach().numpy(), norm(x), atol=1e-6)


def test_a_words_features_reach_all_its_pieces():
    model = made()
    pieces, starts, features, _ = batch([3], [[]])
    changed = features.clone()
    changed[1] = (changed[1] + 1) % 9
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].detach()))
    model(pieces, starts, features)
    model(pieces, starts, changed)
    differs = (seen[0] != seen[1]).any(-1).nonzero().flatten().tolist()
    assert differs == list(range(int(starts.values[1]), int(starts.values[2])))


@pytest.mark.parametrize("predicates", [[[]], [[0, 2]]])
def test_gradients_reach_what_was_used(predicates):
    model = made().train()
    pieces, starts, features, places = batch([3], predicates)
    words = model(pieces, starts, features)
    (model.rows(words, places).values.sum() + words.values.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.features.weight.grad.abs().sum() > 0


def test_scores_are_logarithms_of_shares():
    model = made()
    scores = model.tag_scores(Packed(torch.randn(4, 16), [0, 4]))
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(4))
