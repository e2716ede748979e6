from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ways
from regard._lowering import kernel
from regard.nn import CrossAttention, EncoderDecoder, SelfAttention, Shape
from regard.training import muon
from regard.training.muon import (
    COEFFICIENTS,
    MARGIN,
    Muon,
    _height,
    heights_of_heads,
    make_optimizers,
    orthogonal,
    split_parameters,
)


@pytest.mark.parametrize("shape", [(16, 16), (40, 16), (16, 40), (3, 100), (128, 96)])
def test_singular_values_come_close_to_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(4, *shape) * torch.tensor([1e-3, 1.0, 50.0, 1e6])[:, None, None]
    values = torch.linalg.svdvals(orthogonal(matrices).float())
    assert values.max() < 1.35
    # The smallest singular values of a square random matrix are small; the iterations lift most of them.
    assert (values > 0.5).float().mean() > 0.9


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_singular_vectors_stay(shape):
    """U V^T of the matrix: the result times the polar factor's transpose is nearly symmetric and positive."""
    torch.manual_seed(0)
    matrix = torch.randn(1, *shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = (left.mT @ orthogonal(matrix).float() @ right.mT)[0]
    off = inside - inside.diag().diag()
    assert off.abs().max() < 0.05
    assert inside.diag().min() > 0.4


def by_singular_values(matrix):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt(np.sqrt((values**4).sum()) * MARGIN)
    for a, b, c in COEFFICIENTS:
        values = a * values + b * values**3 + c * values**5
    return left * values @ right


SIDES = st.sampled_from([1, 2, 5, 23, 24, 25, 31, 32, 48, 70, 128])


@given(
    shape=st.tuples(st.integers(0, 3), SIDES, SIDES), size=st.sampled_from([1e-8, 1.0, 1e6]),
    way=st.sampled_from(["plain", *ways.INSTRUCTION_SETS]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_way_is_the_polynomial_of_the_singular_values(shape, size, way, seed):
    torch.manual_seed(seed)
    matrices = torch.randn(shape) * size
    expected = np.array([by_singular_values(one) for one in matrices.double().numpy()]).reshape(shape)
    np.testing.assert_allclose(orthogonal(matrices.double()).numpy(), expected, atol=1e-9)
    with ways.used(way), mock.patch.object(muon, "is_fused", return_value=way != "plain"):
        np.testing.assert_allclose(orthogonal(matrices).numpy(), expected, atol=3e-3)


@pytest.mark.skipif(kernel() is None, reason="there is no kernel")
def test_results_of_the_kernel_do_not_depend_on_threads():
    matrices = torch.randn(5, 40, 70)
    with mock.patch.object(muon, "threads", return_value=1):
        alone = orthogonal(matrices)
    with mock.patch.object(muon, "threads", return_value=3):
        assert torch.equal(orthogonal(matrices), alone)


@pytest.mark.skipif(kernel() is None, reason="there is no kernel")
@pytest.mark.parametrize("broken", [{"threads": 0}, {"count": -1}, {"columns": -1}, {"steps": []}])
def test_the_kernel_refuses_what_is_no_call(broken):
    good = {"count": 1, "rows": 1, "columns": 1, "steps": COEFFICIENTS, "margin": MARGIN, "threads": 1}
    matrix = torch.ones(1)
    with pytest.raises(ValueError, match="must"):
        kernel().orthogonal(matrices=matrix.data_ptr(), out=matrix.data_ptr(), **{**good, **broken})


def test_a_zero_gradient_is_no_direction():
    assert (orthogonal(torch.zeros(2, 4, 6)) == 0).all()


def test_matrices_of_several_squares_are_cut_into_them():
    assert [_height(torch.zeros(rows, 4)) for rows in (12, 10, 4, 3)] == [4, 10, 4, 3]


def test_projections_to_heads_are_cut_into_heads():
    model = nn.ModuleList([SelfAttention(8, heads=2), CrossAttention(8, heads=4, kv_heads=2)])
    self_attention, cross = model
    heights = heights_of_heads(model)
    assert heights == {
        id(self_attention.query_key_value.weight): 4,
        id(cross.query.weight): 2,
        id(cross.key_value.weight): 2,
    }


def test_a_piece_of_some_height_moves_as_if_it_stood_alone():
    torch.manual_seed(0)
    start, grad = torch.randn(6, 4), torch.randn(6, 4)
    together = nn.Parameter(start.clone())
    together.grad = grad.clone()
    Muon([together], lr=0.1, heights={id(together): 2}).step()
    for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
        alone = nn.Parameter(start[rows].clone())
        alone.grad = grad[rows].clone()
        Muon([alone], lr=0.1).step()
        torch.testing.assert_close(together[rows], alone, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("has_instructions", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_for_cpus_that_have_instructions_for_it(monkeypatch, has_instructions, dtype):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_instructions)
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    assert Muon([weight], lr=0.1)._directions([weight], (2, 2), 0.9).dtype == dtype


def test_a_step_is_momentum_made_orthogonal(monkeypatch):
    # Rounding to bfloat16 would be seen in matrices so small.
    monkeypatch.setattr("regard.training.muon.has_bfloat16", lambda: False)
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4))
    muon = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum, expected = torch.zeros(6, 4), weight.detach().clone()
    for _ in range(3):
        weight.grad = torch.randn(6, 4)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        turn = orthogonal((0.1 * weight.grad + 0.9 * momentum)[None])[0].float()
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * (6 / 4) ** 0.5 * turn
        muon.step()
    torch.testing.assert_close(weight.detach(), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(muon.state[weight]["momentum"], momentum)


def test_matrices_of_one_shape_go_together_and_alone_alike():
    torch.manual_seed(0)
    start, grads = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    together = [nn.Parameter(part.clone()) for part in start]
    for weight, grad in zip(together, grads, strict=True):
        weight.grad = grad.clone()
    Muon(together, lr=0.1).step()
    for weight, part, grad in zip(together, start, grads, strict=True):
        alone = nn.Parameter(part.clone())
        alone.grad = grad.clone()
        Muon([alone], lr=0.1).step()
        torch.testing.assert_close(weight, alone, atol=1e-3, rtol=0)


def test_momenta_stay_with_their_matrices_when_others_learn_and_after_a_restart():
    """Which matrices move together must not count."""
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4, 4), torch.randn(4, 3, 4, 4)
    learning = [(0, 1, 2), (1,), (0, 2), (0, 1, 2)]

    def moved(numbers, restarts):
        matrices = [torch.nn.Parameter(start[number].clone()) for number in range(3)]
        muon = Muon([matrices[number] for number in numbers], lr=0.1)
        for step, some in enumerate(learning):
            for number in numbers:
                matrices[number].grad = gradients[step, number].clone() if number in some else None
            muon.step()
            if restarts:
                for state in muon.state.values():
                    state["momentum"] = state["momentum"].clone()
        return {number: matrices[number].detach() for number in numbers}

    together = moved((0, 1, 2), False)
    for number in range(3):
        assert torch.allclose(together[number], moved((number,), False)[number], atol=1e-6)
    assert all(torch.equal(together[number], one) for number, one in moved((0, 1, 2), True).items())


def test_a_matrix_without_gradient_stays():
    weight = nn.Parameter(torch.randn(4, 4))
    before = weight.detach().clone()
    Muon([weight], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(weight, before)


def test_linear_layers_go_to_muon_and_the_rest_to_adam():
    model = EncoderDecoder(Shape(vocabulary=20, dim=8, heads=2, hidden=8))
    matrices, rest = split_parameters(model)
    assert all(matrix.ndim == 2 for matrix in matrices)
    assert [tuple(parameter.shape) for parameter in rest] == [(20, 8)]
    assert len(matrices) + len(rest) == len(list(model.parameters()))
    muon, adam = make_optimizers(model, 0.02, 3e-3, 0.1)
    assert muon.param_groups[0]["weight_decay"] == 0.1
    assert adam.param_groups[0]["weight_decay"] == 0.0
    assert (muon.param_groups[0]["lr"], adam.param_groups[0]["lr"]) == (0.02, 3e-3)


def test_pretrained_parameters_go_to_adam_with_rates_of_their_own():
    model = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 3)}
    )
    lower, upper = model["encoder"]
    lower.requires_grad_(False)
    groups = [{"params": list(upper.parameters()), "lr": 1e-5}]
    muon, adam = make_optimizers(model, 0.02, 3e-3, 0.1, pretrained=groups)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(model["head"].weight)]
    rest, *pretrained = adam.param_groups
    assert [id(p) for p in rest["params"]] == [id(model["head"].bias)]
    assert [[id(p) for p in group["params"]] for group in pretrained] == [
        [id(upper.bias)],
        [id(upper.weight)],
    ]
    assert [group["weight_decay"] for group in (rest, *pretrained)] == [0.0, 0.0, 0.1]
    rates = [group["initial_lr"] for group in (*muon.param_groups, *adam.param_groups)]
    assert rates == [0.02, 3e-3, 1e-5, 1e-5]
    _, together = make_optimizers(model, 0.02, 3e-3, 0.0, pretrained=groups)
    assert len(together.param_groups) == 2


def test_embeddings_that_were_pretrained_do_not_decay():
    model = nn.ModuleDict({"words": nn.Embedding(5, 4), "layer": nn.Linear(4, 4)})
    _, adam = make_optimizers(
        model, 0.02, 3e-3, 0.1, pretrained=[{"params": list(model.parameters()), "lr": 1e-5}]
    )
    decays = {id(p): group["weight_decay"] for group in adam.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.0, 0.1, 0.0]


def test_a_model_without_matrices_of_its_own_still_learns():
    encoder = nn.Linear(4, 4)
    muon, adam = make_optimizers(
        encoder, 0.02, 0.1, 0.0, pretrained=[{"params": list(encoder.parameters()), "lr": 0.1}]
    )
    before = encoder.weight.detach().clone()
    encoder(torch.ones(1, 4)).sum().backward()
    for optimizer in (muon, adam):
        optimizer.step()
    assert not torch.equal(encoder.weight, before)


def test_the_matrices_of_lstms_go_to_muon_and_their_biases_to_adam():
    model = EncoderDecoder(Shape(vocabulary=20, dim=8, heads=2, hidden=8, encoder="recurrent"))
    matrices, rest = split_parameters(model)
    assert all(matrix.ndim == 2 for matrix in matrices)
    assert {tuple(parameter.shape) for parameter in rest if parameter.ndim == 2} == {(20, 8)}
    lstm = model.encoder.blocks[0].attention.layers[0]
    held = {id(matrix) for matrix in matrices}
    assert {id(lstm.weight_ih_l0), id(lstm.weight_hh_l0)} <= held
    assert len(matrices) + len(rest) == len(list(model.parameters()))
