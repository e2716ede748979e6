from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regard.nn import loss as module
from regard.nn.loss import vocabulary_loss


def arrays(rows, dtype=torch.float32):
    torch.manual_seed(0)
    states = torch.randn(rows, 8, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 8, dtype=dtype).requires_grad_()
    return states, weight, torch.randint(11, (rows,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 9])
def test_loss_and_gradients_are_those_of_cross_entropy(smoothing, rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 3)
    states, weight, targets = arrays(rows)
    ours = vocabulary_loss(states, weight, targets, smoothing)
    theirs = F.cross_entropy(states @ weight.T, targets, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    up = torch.tensor(0.37)
    for received, expected in zip(
        torch.autograd.grad(ours, (states, weight), up),
        torch.autograd.grad(theirs, (states, weight), up),
        strict=True,
    ):
        torch.testing.assert_close(received, expected)


def test_no_rows_at_all():
    states, weight, targets = arrays(0)
    loss = vocabulary_loss(states, weight, targets, 0.1)
    loss.backward()
    assert loss == 0
    assert states.grad.shape == (0, 8)
    assert (weight.grad == 0).all()


def test_one_of_the_two_may_be_frozen():
    states, weight, targets = arrays(4)
    loss = vocabulary_loss(states.detach(), weight, targets)
    loss.backward()
    expected = torch.autograd.grad(F.cross_entropy(states @ weight.T, targets, reduction="sum"), weight)[0]
    torch.testing.assert_close(weight.grad, expected)
    loss = vocabulary_loss(states, weight.detach(), targets)
    loss.backward()
    assert states.grad.abs().sum() > 0


def test_without_gradients_nothing_is_kept():
    states, weight, targets = arrays(4)
    with torch.no_grad():
        loss = vocabulary_loss(states, weight, targets, 0.1)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, vocabulary_loss(states, weight, targets, 0.1).detach())


def test_gradients_of_states_pass_on_to_what_made_them():
    _, weight, targets = arrays(5)
    x = torch.randn(5, 8, requires_grad=True)
    vocabulary_loss(torch.tanh(x), weight, targets, 0.1).backward()
    expected = torch.autograd.grad(
        F.cross_entropy(torch.tanh(x) @ weight.T, targets, label_smoothing=0.1, reduction="sum"), x
    )[0]
    torch.testing.assert_close(x.grad, expected)


def test_large_scores_give_finite_losses():
    states, weight, targets = arrays(4)
    states = (states * 1e4).detach().requires_grad_()
    loss = vocabulary_loss(states, weight, targets, 0.1)
    loss.backward()
    expected = F.cross_entropy(states @ weight.T, targets, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert states.grad.isfinite().all()


def test_bfloat16_products_sum_in_float32():
    states, weight, targets = arrays(400)
    expected = vocabulary_loss(states, weight, targets, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary_loss(states, weight, targets, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)
    loss.backward()
    assert states.grad.dtype == weight.grad.dtype == torch.float32


def test_the_gradient_cannot_be_differentiated_again_in_silence():
    states, weight, targets = arrays(3)
    grad = torch.autograd.grad(vocabulary_loss(states, weight, targets), states, create_graph=True)[0]
    with pytest.raises(RuntimeError):
        grad.sum().backward()
