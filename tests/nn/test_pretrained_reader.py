from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import regard
from regard.nn.pretrained_reader import even_parts

SHAPE = regard.nn.PretrainedShape(100, dim=8, heads=2, layers=1, hidden=8, positions=10)
LENGTHS = st.lists(st.integers(0, 21), max_size=5)


def reader(marks=([98], [99, 97])):
    torch.manual_seed(0)
    return regard.nn.PretrainedReader(SHAPE, marks).eval()


def packed(lengths):
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=int))])
    return regard.Packed(torch.randint(0, 90, (int(offsets[-1]),)), offsets)


@settings(max_examples=30, deadline=None)
@given(LENGTHS)
def test_states_are_those_of_each_part_between_its_marks(lengths):
    model, tokens = reader(), packed(lengths)
    extra = torch.randn(len(tokens.values), 8)
    with torch.no_grad():
        model.gate.fill_(0.3)
        found = model(tokens, extra)
        assert list(found.offsets) == list(tokens.offsets)
        rows = 0
        for size in even_parts(np.array(lengths, dtype=int), 7):
            ids = torch.cat([torch.tensor([98]), tokens.values[rows : rows + size], torch.tensor([99, 97])])
            added = torch.zeros(len(ids), 8)
            added[1 : 1 + size] = 0.3 * extra[rows : rows + size]
            alone = model.pretrained(regard.Packed(ids, [0, len(ids)]), extra=added).values[1 : 1 + size]
            torch.testing.assert_close(found.values[rows : rows + size], alone)
            rows += int(size)
    assert rows == len(tokens.values)


@given(LENGTHS, st.integers(1, 9))
def test_parts_are_few_and_even_and_make_up_their_sequence(lengths, longest):
    expected = []
    for length in lengths:
        count = max(1, -(-length // longest))
        expected += [len(part) for part in np.array_split(np.arange(length), count)]
    assert even_parts(np.array(lengths, dtype=int), longest).tolist() == expected


def test_the_gate_and_what_is_added_learn():
    model, tokens = reader(), packed([3, 0, 12])
    extra = torch.randn(len(tokens.values), 8, requires_grad=True)
    (model(tokens, extra).values ** 2).sum().backward()
    assert model.gate.grad.abs().min() > 0
    assert not extra.grad.any()  # the gate is shut at first


@given(st.lists(st.integers(0, 10), max_size=5), st.integers(0, 4))
def test_upper_layers_go_on_where_the_lower_ones_end(lengths, upper):
    torch.manual_seed(0)
    shape = regard.nn.PretrainedShape(100, dim=8, heads=2, layers=3, hidden=8, positions=10)
    whole, cut = (regard.nn.PretrainedReader(shape, upper=number).eval() for number in (0, upper))
    cut.pretrained.load_state_dict(whole.pretrained.state_dict())
    tokens = packed(lengths)
    with torch.no_grad():
        torch.testing.assert_close(cut.together(cut(tokens)).values, whole(tokens).values)
    assert len(cut.upper) == min(upper, 3)
