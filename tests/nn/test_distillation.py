from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regard._errors import ConfigError, ShapeError
from regard.nn import consistent, taught, teaching
from regard.nn.chances import of_vocabulary
from regard.nn.loss import vocabulary_loss


def plain(states, weight, targets, smoothing, share, teacher):
    """Hinton's mixture by PyTorch's operations."""
    logits = states @ weight.T
    truth = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    log_p, log_q = torch.log_softmax(teacher, -1), torch.log_softmax(logits, -1)
    return (1 - share) * truth + share * F.kl_div(log_q, log_p, log_target=True, reduction="sum")


def said_by(states, weight, targets):
    with teaching() as said:
        loss = vocabulary_loss(states, weight, targets)
        assert loss == 0
        assert not loss.requires_grad
    return said


@pytest.mark.parametrize("rows", [1, 5, 300])  # one, less and more than a block
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_loss_and_gradients_are_those_of_the_formula(rows, share):
    torch.manual_seed(rows)
    states, weight = torch.randn(rows, 6).double(), torch.randn(11, 6).double()
    wide, table = torch.randn(rows, 9).double().requires_grad_(), torch.randn(11, 9).double()
    targets = torch.randint(11, (rows,))
    said = said_by(wide, table, targets)
    ours, theirs = ([t.clone().requires_grad_() for t in (states, weight)] for _ in range(2))
    with taught(said, share):
        loss = vocabulary_loss(*ours, targets, 0.1)
    expected = plain(*theirs, targets, 0.1, share, (wide @ table.T).detach())
    torch.testing.assert_close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert wide.grad is None


def test_beside_two_passes_the_divergence_is_the_mean_of_both():
    torch.manual_seed(0)
    states, weight, targets = torch.randn(8, 4), torch.randn(5, 4), torch.tensor([0, 3, 2, 4]).repeat(2)
    said = said_by(torch.randn(8, 4), weight, targets)
    with taught(said, 0.5):
        alone = vocabulary_loss(states, weight, targets)
    with taught(said, 0.5), consistent(1e-9):
        beside = vocabulary_loss(states, weight, targets)
    torch.testing.assert_close(beside, alone / 2)


def test_every_loss_hears_its_own():
    torch.manual_seed(0)
    weight, targets = torch.randn(5, 4), torch.tensor([0, 3])
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    with teaching() as said:
        for states in (first, second):
            vocabulary_loss(states, weight, targets)
    with taught(said, 1.0):
        assert [float(vocabulary_loss(states, weight, targets)) for states in (first, second)] == [0, 0]
    assert vocabulary_loss(first, weight, targets) > 0  # heard no longer


def test_chances_are_those_of_a_softmax_block_by_block():
    torch.manual_seed(0)
    states, weight = torch.randn(600, 4), torch.randn(7, 4)
    chances = of_vocabulary(states, weight)
    found = torch.cat([chances.log_p(number) for number in range(chances.blocks)])
    torch.testing.assert_close(found, torch.log_softmax(states @ weight.T, -1))
    assert of_vocabulary(states[:0], weight).blocks == 0


def test_other_vocabularies_and_other_losses_are_refused():
    states, weight, targets = torch.randn(2, 4), torch.randn(5, 4), torch.tensor([0, 3])
    said = said_by(states, torch.randn(6, 4), targets)
    with (
        pytest.raises(ShapeError, match=r"Received: \(2, 6\) of the teacher, \(2, 5\) of the student"),
        taught(said, 0.5),
    ):
        vocabulary_loss(states, weight, targets)
    with pytest.raises(ConfigError, match="Received: 0 of the student, 1 of the teacher"), taught(said, 0.5):
        pass
    with pytest.raises(ConfigError, match="Received: 0 of the student, 0 of the teacher"), taught([], 0.5):
        pass
    with pytest.raises(ConfigError, match="Received: 1 of the student, 0 of the teacher"), taught([], 0.5):
        vocabulary_loss(states, weight, targets)
