"""Pretrained encoders against the formula in NumPy float64: packed lengths, types, gradients, dropout, freezing."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import pretrained_folders as folders
import regard
from regard.nn import PretrainedEncoder, PretrainedShape, SelfAttention, mean_pool, parameter_groups, watch

SMALL = PretrainedShape(vocabulary=16, dim=12, heads=3, layers=3, hidden=20, positions=20)


@pytest.fixture(scope="module", params=folders.CONFIGS)
def loaded(request, tmp_path_factory):
    """A configuration, its tensors, and the encoder loaded from their folder."""
    config = folders.CONFIGS[request.param]
    tensors = folders.random_tensors(config)
    folder = folders.write_folder(tmp_path_factory.mktemp("encoder") / "m", config, tensors)
    return config, tensors, PretrainedEncoder.load(folder)


def ids_of(lengths, seed=0):
    draw = np.random.default_rng(seed).integers
    return regard.Packed.pack([torch.from_numpy(draw(0, 16, length)) for length in lengths])


def relative(found, expected):
    return np.linalg.norm(found.detach().numpy() - expected) / max(np.linalg.norm(expected), 1e-30)


@given(lengths=st.lists(st.integers(0, 18), min_size=1, max_size=5))
@example(lengths=[0, 1, 18, 0])
@example(lengths=[0])
def test_hidden_states_are_those_of_the_formula(loaded, lengths):
    config, tensors, encoder = loaded
    ids = ids_of(lengths)
    with torch.no_grad():
        states = encoder(ids, all_layers=True)
        exact = copy.deepcopy(encoder).double()(ids).unpack()
    assert all(layer.values.shape == (sum(lengths), 12) for layer in states)
    for number, sequence in enumerate(ids.unpack()):
        if not len(sequence):
            continue
        expected = folders.hidden_states(config, tensors, sequence.tolist())
        assert relative(exact[number], expected[-1]) < 1e-11
        for found, layer in zip(states, expected, strict=True):
            assert relative(found.unpack()[number], layer) < 1e-5


def test_token_types_change_what_they_should(loaded):
    config, tensors, encoder = loaded
    ids, kinds = ids_of([5, 7]), encoder.shape.token_types
    types = torch.tensor([0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]) % max(kinds, 1)
    found = encoder(ids, types).unpack()
    assert torch.equal(found[0], encoder(ids, ids.with_values(types)).unpack()[0])
    for states, sequence, own in zip(found, ids.unpack(), types.split([5, 7]), strict=True):
        expected = folders.hidden_states(config, tensors, sequence.tolist(), own.tolist())
        assert relative(states, expected[-1]) < 1e-5


def test_gradients_are_those_of_float64_and_reach_every_parameter(loaded):
    _, _, encoder = loaded
    ids = ids_of([0, 3, 1, 9])
    grads = []
    for model in (copy.deepcopy(encoder), copy.deepcopy(encoder).double()):
        states = model(ids).values
        weights = torch.linspace(-1, 1, states.numel(), dtype=torch.float64).view_as(states).to(states.dtype)
        (states * weights).sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, exact in grads[1].items():
        assert grads[0][name] is not None, name
        # A key's bias moves no weight, so that its gradient is rounding alone.
        scale = max(float(exact.norm()), 0.1)
        assert float((grads[0][name].double() - exact).norm()) / scale < 2e-5, name


def test_dropout_is_at_work_in_training_only():
    torch.manual_seed(0)
    encoder, ids = PretrainedEncoder(SMALL), ids_of([6, 4])
    assert not torch.equal(encoder(ids).values, encoder(ids).values)
    torch.manual_seed(1)
    once = encoder(ids).values
    torch.manual_seed(1)
    assert torch.equal(encoder(ids).values, once)
    encoder.eval()
    assert torch.equal(encoder(ids).values, encoder(ids).values)


def test_states_of_other_layers_survive_the_work_in_place():
    torch.manual_seed(0)
    encoder, ids = PretrainedEncoder(SMALL).eval(), ids_of([6, 4])
    with torch.no_grad():
        quick = encoder(ids, all_layers=True)
    for found, expected in zip(quick, encoder(ids, all_layers=True), strict=True):
        torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_frozen_layers_stay_and_the_others_learn(layers):
    torch.manual_seed(0)
    encoder, ids = PretrainedEncoder(SMALL), ids_of([6, 4])
    before = copy.deepcopy(encoder.state_dict())
    encoder.freeze(layers)
    groups = parameter_groups(encoder, 0.1, 0.5)
    assert [group["lr"] for group in groups] == [0.025, 0.05, 0.1][layers:]
    head = torch.nn.Parameter(torch.ones(12))
    (encoder(ids).values.square() * head).sum().backward()
    torch.optim.SGD([*groups, {"params": [head], "lr": 0.1}]).step()
    after = encoder.state_dict()
    moved = {
        name.split(".")[1]
        for name in before
        if name.startswith("blocks") and not torch.equal(before[name], after[name])
    }
    assert moved == {str(number) for number in range(layers, 3)}
    assert torch.equal(before["words.weight"], after["words.weight"])
    encoder.freeze(None)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_groups_hold_every_parameter_once():
    encoder = PretrainedEncoder(SMALL)
    groups = parameter_groups(encoder, 1e-3, 0.5)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, encoder.parameters()))
    assert [group["lr"] for group in groups] == [1.25e-4, 2.5e-4, 5e-4, 1e-3]


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_mean_of_each_sequence(lengths):
    states = regard.Packed.pack(
        [torch.randn(length, 4, dtype=torch.float64, requires_grad=True) for length in lengths]
    )
    pooled = mean_pool(states)
    for found, sequence in zip(pooled, states.unpack(), strict=True):
        expected = sequence.mean(0) if len(sequence) else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(found, expected)
    (grad,) = torch.autograd.grad(pooled.sum(), [states.values])
    expected = np.repeat([1 / max(length, 1) for length in lengths], lengths)
    np.testing.assert_allclose(grad.numpy(), np.repeat(expected[:, None], 4, 1))


def test_watching_shows_every_layer():
    encoder = PretrainedEncoder(SMALL).eval()
    with watch(encoder, SelfAttention) as seen, torch.no_grad():
        encoder(ids_of([5]))
    assert [weights.shape for weights in seen] == [(5, 3, 5)] * 3
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(5, 3))


def test_it_can_be_copied_and_pickled_after_use():
    encoder, ids = PretrainedEncoder(SMALL).eval(), ids_of([5])
    with torch.no_grad():
        expected = encoder(ids).values
        for again in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            torch.testing.assert_close(again(ids).values, expected, rtol=0, atol=0)


def test_it_compiles_as_one_graph():
    torch._dynamo.reset()
    encoder, ids = PretrainedEncoder(SMALL).eval(), ids_of([5, 3])
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).values, encoder(ids).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e(torch.zeros(2, 5, dtype=torch.int64)), r"must be Packed.*\(2, 5\)"),
        (lambda e: e(ids_of([21])), "at most 20 tokens.*Received: 21"),
        (lambda e: e(ids_of([5]), torch.zeros(4, dtype=torch.int64)), r"each of 5 tokens.*\(4,\)"),
        (lambda e: e(ids_of([5]).with_values(torch.full((5,), 16))), "0 to 15. Received: 16 to 16"),
        (lambda e: e(ids_of([5]).with_values(torch.full((5,), -1))), "0 to 15. Received: -1"),
        (lambda e: e(ids_of([5]), torch.full((5,), 2)), "token type is out of range. Expected: 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(regard.ShapeError, match=message):
        call(PretrainedEncoder(SMALL))


def test_options_out_of_range_are_refused():
    with pytest.raises(regard.ConfigError, match=r"has 3 layers.*Received: 4"):
        PretrainedEncoder(SMALL).freeze(4)
    with pytest.raises(regard.ConfigError, match=r"decay must be.*Received 1\.5"):
        parameter_groups(PretrainedEncoder(SMALL), 1e-3, 1.5)
