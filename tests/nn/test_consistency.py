from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regard import Packed
from regard._errors import ConfigError, ShapeError
from regard.nn import consistent, consistent_loss, twice
from regard.nn.loss import vocabulary_loss


def plain(states, weight, targets, smoothing, coefficient):
    """The paper's formula by PyTorch's operations, halved."""
    half = len(states) // 2
    first, second = (F.log_softmax(part @ weight.T, -1) for part in (states[:half], states[half:]))
    entropy = sum(
        F.cross_entropy(part @ weight.T, targets[:half], label_smoothing=smoothing, reduction="sum")
        for part in (states[:half], states[half:])
    )
    apart = F.kl_div(second, first, log_target=True, reduction="sum")
    apart = apart + F.kl_div(first, second, log_target=True, reduction="sum")
    return (entropy + coefficient * apart / 2) / 2


@pytest.mark.parametrize("rows", [0, 1, 5, 300])  # none, one, less and more than a block
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_formula(rows, smoothing):
    torch.manual_seed(rows)
    states, weight = torch.randn(2 * rows, 6).double(), torch.randn(11, 6).double()
    targets = torch.randint(11, (rows,)).repeat(2)
    ours, theirs = ([t.clone().requires_grad_() for t in (states, weight)] for _ in range(2))
    loss = consistent_loss(*ours, targets, smoothing, 5.0)
    expected = plain(*theirs, targets, smoothing, 5.0)
    torch.testing.assert_close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_bfloat16_products_come_close():
    torch.manual_seed(0)
    states, weight = torch.randn(1200, 16), torch.randn(40, 16)
    targets = torch.randint(40, (600,)).repeat(2)
    expected = consistent_loss(states, weight, targets, 0.1, 2.0)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = consistent_loss(states, weight, targets, 0.1, 2.0)
    loss.backward()
    assert abs(float(loss.detach()) / float(expected) - 1) < 0.01
    assert weight.grad.dtype == torch.float32


def test_every_vocabulary_loss_inside_is_compared_and_none_outside():
    torch.manual_seed(0)
    states, weight = torch.randn(8, 4), torch.randn(5, 4)
    targets = torch.tensor([0, 3, 2, 4]).repeat(2)
    with consistent(5.0):
        inside = vocabulary_loss(states, weight, targets, 0.1)
    assert float(inside) == pytest.approx(float(plain(states, weight, targets, 0.1, 5.0)), rel=1e-5)
    outside = vocabulary_loss(states, weight, targets, 0.1)
    assert float(outside) == pytest.approx(float(2 * plain(states, weight, targets, 0.1, 0.0)), rel=1e-5)


def test_passes_that_nothing_compares_are_refused():
    with pytest.raises(ConfigError, match="nothing compared them"), consistent(1.0):
        pass


def test_an_error_inside_is_told_as_it_is():
    with pytest.raises(ZeroDivisionError), consistent(1.0):
        _ = 1 / 0
    vocabulary_loss(torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2]))  # compared no longer


@pytest.mark.parametrize("targets", [[0, 1, 1, 0], [0, 1, 0]])
def test_rows_that_are_not_pairs_are_refused(targets):
    with pytest.raises(ShapeError, match="not two passes of one batch"):
        consistent_loss(torch.randn(len(targets), 4), torch.randn(5, 4), torch.tensor(targets), 0.0, 1.0)


@pytest.mark.parametrize("lengths", [[], [0], [1], [2, 0, 1]])
def test_twice_is_every_sequence_and_again(lengths):
    values = torch.arange(sum(lengths))
    found = twice(Packed(values, np.cumsum([0, *lengths])))
    assert found.lengths.tolist() == 2 * lengths
    assert found.values.tolist() == 2 * values.tolist()
