from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ways
from regard._errors import ShapeError
from regard._lowering import kernel
from regard.nn import loss as module
from regard.nn.loss import DTYPES, vocabulary_loss


@pytest.fixture(autouse=True, params=ways.WAYS)
def way_of_loss(request, monkeypatch):
    """PyTorch's operations, then the kernel on every instruction set."""
    with ways.used(request.param):
        if request.param == "plain":
            monkeypatch.setattr(module, "is_fused", lambda logits: False)
        yield


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vocabulary", [1, 2, 15, 16, 17, 127, 128, 129, 300])
def test_vocabularies_of_any_size(vocabulary, dtype):
    torch.manual_seed(vocabulary)
    states = torch.randn(5, 8, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, 8, dtype=dtype).requires_grad_()
    targets = torch.randint(vocabulary, (5,))
    ours = vocabulary_loss(states, weight, targets, 0.2)
    wide = [tensor.detach().double().requires_grad_() for tensor in (states, weight)]
    theirs = F.cross_entropy(wide[0] @ wide[1].T, targets, label_smoothing=0.2, reduction="sum")
    assert ours.dtype == dtype
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(ours.double(), theirs, **tolerance)
    for received, expected in zip(
        torch.autograd.grad(ours, (states, weight)), torch.autograd.grad(theirs, wide), strict=True
    ):
        torch.testing.assert_close(received.double(), expected, **tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_against_numpy_in_float64(dtype, smoothing):
    """Each gradient is the nearest number of its kind to the exact one, but for the error of a float32 exponential."""
    if not module.is_fused(torch.zeros(1)):
        pytest.skip("PyTorch's operations give no gradient in bfloat16")
    torch.manual_seed(0)
    logits = (3 * torch.randn(37, 301)).to(dtype)
    targets = torch.randint(301, (37,))
    exact = logits.double().numpy().copy()  # the gradient takes the logits' place
    powers = np.exp(exact - exact.max(-1, keepdims=True))
    lse = exact.max(-1) + np.log(powers.sum(-1))
    hit = exact[np.arange(37), targets.numpy()]
    expected = powers / powers.sum(-1, keepdims=True) - smoothing / 301
    expected[np.arange(37), targets.numpy()] -= 1 - smoothing
    loss, slope = module._piece(logits, targets, smoothing, True)
    assert loss == pytest.approx((lse - (1 - smoothing) * hit - smoothing * exact.mean(-1)).sum(), rel=1e-6)
    assert slope.data_ptr() == logits.data_ptr()
    digits = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2**-8}[dtype]
    np.testing.assert_allclose(slope.double().numpy(), expected, rtol=digits, atol=1e-9)


def test_bfloat16_is_rounded_to_the_nearest_even():
    """With one large logit a share is an exponential, which is compared with PyTorch's own rounding of it."""
    if not module.is_fused(torch.zeros(1)):
        pytest.skip("PyTorch's operations give no gradient in bfloat16")
    logits = torch.cat([torch.zeros(1), torch.linspace(-9, -2, 299)])[None].bfloat16()
    shares = torch.softmax(logits.double(), -1)
    _, slope = module._piece(logits, torch.tensor([0]), 0.0, True)
    expected = shares[0, 1:].to(torch.bfloat16)
    nearest = (slope[0, 1:] == expected).double().mean()
    assert nearest > 0.99  # the rest lie half way within the exponential's own error


def test_nan_is_not_hidden_and_minus_infinity_weighs_nothing():
    logits = torch.zeros(2, 40)
    logits[0, 3], logits[1, 5:] = torch.nan, -torch.inf
    loss, slope = module._piece(logits, torch.tensor([0, 0]), 0.0, True)
    assert torch.as_tensor(loss).isnan()
    assert slope[0, 1].isnan()
    torch.testing.assert_close(slope[1, :5], torch.full((5,), 0.2) - torch.eye(5)[0])
    assert (slope[1, 5:] == 0).all()


def test_threads_do_not_change_the_result(monkeypatch):
    torch.manual_seed(0)
    found = []
    for count in (1, 2, 5):
        monkeypatch.setenv("REGARD_NUM_THREADS", str(count))
        states, weight, targets = arrays(100)
        loss = vocabulary_loss(states, weight, targets, 0.1)
        found.append((loss.detach(), *torch.autograd.grad(loss, (states, weight))))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_a_second_backward_pass_gives_the_same_again():
    states, weight, targets = arrays(4)
    loss = vocabulary_loss(states, weight, targets)
    first = torch.autograd.grad(loss, (states, weight), retain_graph=True)
    again = torch.autograd.grad(3 * loss, (states, weight))
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(3 * one, other)


@pytest.mark.parametrize("target", [-100, -1, 11])
def test_a_target_outside_the_vocabulary_is_refused(target):
    states, weight, targets = arrays(4)
    targets[2] = target
    if not module.is_fused(torch.zeros(1)):
        with pytest.raises(RuntimeError):
            vocabulary_loss(states, weight, targets)
        return
    with pytest.raises(ShapeError, match=rf"outside the vocabulary. Expected: 0 to 10. Received: {target}."):
        vocabulary_loss(states, weight, targets)


def test_targets_of_another_length_are_refused():
    states, weight, targets = arrays(4)
    with pytest.raises(ShapeError, match=r"Received: states \(4, 8\) and targets \(3,\)"):
        vocabulary_loss(states, weight, targets[:3])


@pytest.mark.skipif(kernel() is None, reason="there is no kernel")
def test_the_kernel_refuses_broken_calls():
    targets, logits = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3)
    good = {"dtype": "float32", "stride": 3, "count": 2, "vocabulary": 3, "threads": 1}
    for broken in ({"dtype": "int8"}, {"stride": 2}, {"count": -1}, {"vocabulary": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="must"):
            kernel().loss_rows(
                logits=logits.data_ptr(),
                targets=targets.data_ptr(),
                smoothing=0.0,
                gradient=False,
                **(good | broken),
            )
