"""A stack in one step of autograd, on every instruction set, against its own blocks."""

from __future__ import annotations

import weakref
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Causal, Packed, Window
from regard.nn import Decoder, Encoder, EncoderBlock, SelfAttention, _stack, watch
from twins import assert_close

pytestmark = pytest.mark.usefixtures("instruction_set")
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=4)


def packed(lengths, dim, seed):
    values = torch.randn(sum(lengths), dim, generator=torch.Generator().manual_seed(seed))
    return Packed(values.requires_grad_(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def encoder(layers=2, dim=24, heads=4, hidden=20, **options):
    torch.manual_seed(layers)
    return Encoder(layers, dim, heads, hidden, **options)


def decoder(layers=2, dim=24, heads=4, hidden=20, **options):
    torch.manual_seed(layers)
    return Decoder(layers, dim, heads, hidden, **options)


def by_blocks():
    """Compute without the one step."""
    return mock.patch.object(_stack, "is_fused", return_value=False)


def learned(stack, *sequences, **options):
    """The output, and the gradients of all inputs and weights; dropout is drawn alike in every call."""
    torch.manual_seed(7)
    out = stack(*sequences, **options).values
    leaves = [*(one.values for one in sequences), *stack.parameters()]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    return [out, *torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True)]


def assert_one_step(stack, *sequences, **options):
    """One step is taken, and gives what the blocks give."""
    with mock.patch.object(_stack.Steps, "apply", wraps=_stack.Steps.apply) as taken:
        found = learned(stack, *sequences, **options)
    assert taken.call_count == 1
    with by_blocks():
        expected = learned(stack, *sequences, **options)
    # Normalizing rows of few numbers near 0 makes gradients, and their rounding, as large as it likes.
    largest = [max(1.0, float(one.detach().abs().max())) for one in expected]
    assert_close(
        *([one / size for one, size in zip(some, largest, strict=True)] for some in (found, expected))
    )


def assert_by_blocks(stack, *sequences, **options):
    with mock.patch.object(_stack.Steps, "apply") as taken:
        stack(*sequences, **options)
    assert not taken.called


@given(
    lengths=LENGTHS.filter(any),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2)]),
    size=st.sampled_from([2, 6, 8]),
)
def test_an_encoder_of_any_lengths(lengths, heads, size):
    dim = heads[0] * size
    stack = encoder(dim=dim, heads=heads[0], kv_heads=heads[1], dropout=0.3, hidden=11)
    assert_one_step(stack, packed(lengths, dim, 1))


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=4))
def test_a_decoder_of_any_lengths(pairs):
    targets, sources = zip(*pairs, strict=True)
    if any(targets) and any(sources):
        assert_one_step(decoder(dropout=0.2), packed(targets, 24, 1), packed(sources, 24, 2))


@pytest.mark.parametrize("mask", [Causal(), Window(1), Window(2) & Causal()])
def test_a_mask(mask):
    assert_one_step(encoder(), packed([3, 1, 0, 6], 24, 1), mask=mask)


def test_sources_that_several_targets_read():
    assert_one_step(
        decoder(), packed([3, 2, 4], 24, 1), packed([5, 6], 24, 2), key_sequence=np.array([1, 0, 1])
    )


def test_without_normalized_queries():
    assert_one_step(encoder(qk_norm=False), packed([3, 4], 24, 1))
    assert_one_step(decoder(qk_norm=False), packed([3, 4], 24, 1), packed([2, 5], 24, 2))


def test_under_bfloat16_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert_one_step(encoder(dim=32, dropout=0.1), packed([3, 9], 32, 1))
        assert_one_step(decoder(dim=32), packed([3, 9], 32, 1), packed([2, 5], 32, 2))


def test_weights_that_do_not_learn_get_no_gradient():
    stack, x = encoder(), packed([3, 4], 24, 1)
    whole = learned(stack, x)
    for name, parameter in stack.named_parameters():
        parameter.requires_grad_("feed_forward" in name)
    (
        stack(x).values * torch.randn(whole[0].shape, generator=torch.Generator().manual_seed(3))
    ).sum().backward()
    assert_close([x.values.grad], [whole[1]])
    for parameter, expected in zip(stack.parameters(), whole[2:], strict=True):
        if parameter.requires_grad:
            assert_close([parameter.grad], [expected])
        else:
            assert parameter.grad is None


def test_a_source_that_does_not_learn():
    stack, x, source = decoder(), packed([3, 4], 24, 1), packed([2, 5], 24, 2)
    expected = learned(stack, x, source)[1]
    found = learned(stack, x, source.with_values(source.values.detach().requires_grad_()))[1]
    fixed = stack(x, source.with_values(source.values.detach())).values
    (grad,) = torch.autograd.grad(fixed.sum(), [x.values])
    with by_blocks():
        same = stack(x, source.with_values(source.values.detach())).values
        assert_close([grad], torch.autograd.grad(same.sum(), [x.values]))
    assert_close([found], [expected])


@pytest.mark.parametrize("stack", [encoder(1, dropout=0.3), decoder(1, dropout=0.3)])
def test_second_derivatives(stack):
    sequences = [packed([3, 4], 24, 1), packed([2, 5], 24, 2)][: 1 + isinstance(stack, Decoder)]
    leaves = [*(one.values for one in sequences), *stack.parameters()]

    def penalty():
        torch.manual_seed(7)
        out = stack(*sequences).values
        grads = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        return [*grads, *torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)]

    found = penalty()
    with by_blocks():
        for one, other in zip(found, penalty(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_second_derivative_by_weights_that_were_exchanged():
    stack, x = encoder(1), packed([3, 4], 24, 1)
    others = {name: torch.nn.Parameter(weight.detach() * 1.5) for name, weight in stack.named_parameters()}

    def penalty():
        out = torch.func.functional_call(stack, others, (x,)).values
        (grad,) = torch.autograd.grad(out.square().sum(), [x.values], create_graph=True)
        return torch.autograd.grad(grad.square().sum(), list(others.values()))

    found = penalty()
    with by_blocks():
        for one, other in zip(found, penalty(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_graph_that_is_kept_gives_the_same_twice():
    stack, x = encoder(), packed([3, 4], 24, 1)
    out = stack(x).values.sum()
    first = torch.autograd.grad(out, list(stack.parameters()), retain_graph=True)
    assert_close(first, torch.autograd.grad(out, list(stack.parameters())))


def test_weights_changed_before_the_gradient_are_noticed():
    stack, x = encoder(), packed([3, 4], 24, 1)
    out = stack(x).values.sum()
    with torch.no_grad():
        next(stack.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_who_looks_into_layers_sees_them_called():
    stack, x, seen = encoder(), packed([3, 4], 24, 1), []
    handle = stack.blocks[1].feed_forward.register_forward_hook(lambda *given: seen.append(given[-1]))
    assert_by_blocks(stack, x)
    assert len(seen) == 1
    handle.remove()
    with watch(stack, SelfAttention) as weights:
        stack(x)
    assert len(weights) == 2
    assert_one_step(stack, x)


@torch.no_grad()
def test_without_gradients_blocks_compute():
    assert_by_blocks(encoder(), packed([3, 4], 24, 1))


def test_other_arrays_and_layers_go_by_blocks():
    x = packed([3, 4], 24, 1)
    assert_by_blocks(encoder().double(), x.with_values(x.values.double()))
    assert_by_blocks(encoder(), x.values)
    assert_by_blocks(encoder(), packed([0], 24, 1))
    stack = encoder()
    stack.blocks[0].feed_forward.down = torch.nn.Linear(20, 24)
    assert_by_blocks(stack, x)


def test_another_width_is_refused_as_by_the_blocks():
    for stack, sequences in (
        (encoder(), [packed([3, 4], 25, 1)]),
        (decoder(), [packed([3], 24, 1), packed([2], 25, 2)]),
    ):
        with pytest.raises(RuntimeError, match="shape"):
            stack(*sequences)


def test_blocks_of_another_kind_compute_what_they_say():
    called = []

    class Counted(EncoderBlock):
        def forward(self, x, **options):
            called.append(x)
            return super().forward(x, **options)

    class Counting(Encoder):
        block = Counted

    assert_by_blocks(Counting(2, 24, 4, 20), packed([3, 4], 24, 1))
    assert len(called) == 2


def test_what_is_saved_may_lie_elsewhere_meanwhile():
    stack, x, source = decoder(dropout=0.2), packed([3, 4], 24, 1), packed([2, 5], 24, 2)
    expected = learned(stack, x, source)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensor.clone(), lambda tensor: tensor.clone()
    ):
        assert_close(learned(stack, x, source), expected)


def second_derivatives(leaves, computed):
    """First gradients, and those of their sum of squares."""
    torch.manual_seed(7)
    grads = torch.autograd.grad(computed().square().sum(), leaves, create_graph=True)
    return [*grads, *torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)]


def assert_second_derivatives(leaves, computed):
    found = second_derivatives(leaves, computed)
    with by_blocks():
        expected = second_derivatives(leaves, computed)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_second_derivatives_of_inputs_that_come_from_each_other():
    stack, x, layer = decoder(1), packed([3, 4], 24, 1), torch.nn.Linear(24, 24)
    leaves = [x.values, *stack.parameters()]
    assert_second_derivatives(leaves, lambda: stack(x, x).values)
    leaves += layer.parameters()
    assert_second_derivatives(leaves, lambda: stack(x, x.with_values(layer(x.values))).values + layer.bias)


def test_second_derivatives_of_layers_that_are_shared():
    stack, x = encoder(), packed([3, 4], 24, 1)
    stack.blocks[1].feed_forward.down = stack.blocks[0].feed_forward.down
    assert_second_derivatives([x.values, *stack.parameters()], lambda: stack(x).values)
    stack.blocks[1] = stack.blocks[0]
    assert_second_derivatives([x.values, *stack.parameters()], lambda: stack(x).values)


def test_a_mode_changed_before_a_second_derivative():
    stack, x = encoder(dropout=0.3), packed([3, 4], 24, 1)

    def computed():
        out = stack.train()(x).values
        stack.eval()
        return out

    assert_second_derivatives([x.values, *stack.parameters()], computed)


def test_a_forward_that_was_replaced_is_called():
    for place in (lambda stack: stack.blocks[0], lambda stack: stack.blocks[1].feed_forward):
        stack, x, called = encoder(), packed([3, 4], 24, 1), []
        module = place(stack)
        own = module.forward
        module.forward = lambda *given, own=own, called=called, **options: (
            called.append(1) or own(*given, **options)
        )
        assert_by_blocks(stack, x)
        assert called == [1]


def test_turns_changed_before_the_gradient_are_noticed():
    stack, x = encoder(), packed([3, 4], 24, 1)
    turns = stack.rotary(torch.tensor([0, 1, 2, 0, 1, 2, 3]))
    out = stack(x, turns=turns).values.sum()
    turns.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_inputs_are_let_go_with_the_gradient():
    stack, x = encoder(), packed([3, 4], 24, 1)
    values = x.values * 2
    known = weakref.ref(values)
    out = stack(x.with_values(values)).values.sum()
    del values
    out.backward()
    assert known() is None


def test_weights_with_a_sign_yet_to_come_and_stacks_that_do_not_learn_go_by_blocks():
    x = packed([3, 4], 24, 1)
    stack = encoder()
    layer = stack.blocks[0].feed_forward.down
    layer.weight = torch.nn.Parameter(torch._neg_view(layer.weight.detach()))
    assert_by_blocks(stack, x)
    assert_by_blocks(encoder().requires_grad_(False), x.with_values(x.values.detach()))


def test_neither_sums_nor_gated_rows_are_kept():
    rows, dim, hidden, layers = 512, 32, 48, 3
    with mock.patch.object(_stack.Steps, "apply", wraps=_stack.Steps.apply) as taken:
        encoder(layers=layers, dim=dim, hidden=hidden)(packed([rows], dim, 1))
    kept = sum(taken.call_args.args[0].made.kept)
    # What both halves read; queries, keys, values and what attention found; gate and value. The last sum alone.
    numbers = layers * (2 * dim + 4 * dim + 2 * hidden) + dim
    # And a root mean square for each row and head that is normalized, and the sums of the softmax.
    assert numbers < kept / (4 * rows) < 1.2 * numbers
