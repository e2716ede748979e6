from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Packed
from regard._errors import RegardError, ShapeError

BRING = {"numpy": np.asarray, "torch": torch.as_tensor}
every_framework = pytest.mark.parametrize("framework", list(BRING))
LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(lengths=LENGTHS, framework=st.sampled_from(list(BRING)))
def test_packing_and_padding_are_undone(lengths, framework):
    total = sum(lengths)
    values = np.arange(2.0 * total).reshape(total, 2)
    sequences = [BRING[framework](part) for part in np.split(values, np.cumsum(lengths)[:-1])]
    packed = Packed.pack(sequences)
    assert len(packed) == len(lengths)
    assert packed.lengths.tolist() == lengths
    assert packed.offsets.dtype == np.int32
    for expected, received in zip(sequences, packed.unpack(), strict=True):
        np.testing.assert_array_equal(np.asarray(received), np.asarray(expected))
    padded = packed.to_padded(-1)
    assert tuple(padded.shape) == (len(lengths), max(lengths), 2)
    for row, length in zip(padded, lengths, strict=True):
        assert (row[length:] == -1).all()
    again = Packed.from_padded(padded, lengths)
    np.testing.assert_array_equal(np.asarray(again.values), values)
    np.testing.assert_array_equal(again.offsets, packed.offsets)


@every_framework
def test_sequences_are_views(framework):
    packed = Packed(BRING[framework](np.zeros((5, 2))), [0, 2, 5])
    packed.unpack()[1][:] = 1
    assert packed.values[2:].sum() == 6


def test_gradients_pass_through_padding_and_packing():
    values = torch.randn(5, 2, requires_grad=True)
    packed = Packed(values, [0, 2, 2, 5])
    Packed.from_padded(packed.to_padded(), [2, 0, 3]).values.sum().backward()
    assert torch.equal(values.grad, torch.ones(5, 2))


@every_framework
def test_other_values_for_the_same_sequences(framework):
    packed = Packed(BRING[framework](np.zeros((5, 2))), [0, 2, 5])
    other = packed.with_values(BRING[framework](np.ones(5)))
    assert other.offsets is packed.offsets
    assert other.values.shape == (5,)
    with pytest.raises(ShapeError, match=r"expected values for 5 tokens. Received shape \(4,\)"):
        packed.with_values(BRING[framework](np.ones(4)))


def test_offsets_may_be_of_any_integers_and_of_any_framework():
    values = np.zeros(3)
    for offsets in ([0, 1, 3], (0, 1, 3), np.array([0, 1, 3], np.uint16), torch.tensor([0, 1, 3])):
        assert Packed(values, offsets).lengths.tolist() == [1, 2]
    assert len(Packed(np.zeros(0), [0])) == 0


WRONG = {
    "not from 0": (
        [1, 3],
        r"offsets must start at 0 and end at the number of tokens, 3. Received a first entry of 1",
    ),
    "not to the end": ([0, 2], "and a last entry of 2. Build them with numpy.cumsum"),
    "falling": ([0, 2, 1, 3], "offsets must never fall. Received 2 before 1"),
    "nothing": (
        np.zeros(0, int),
        r"offsets must be one-dimensional with N \+ 1 entries. Received shape \(0,\)",
    ),
    "two-dimensional": ([[0, 3]], r"Received shape \(1, 2\)"),
    "fractions": ([0.0, 3.0], "offsets must hold integers. Received dtype float64"),
    "truth values": (np.array([False, True]), "offsets must hold integers. Received dtype bool"),
}


@pytest.mark.parametrize("name", WRONG)
def test_offsets_that_cannot_be_are_refused(name):
    offsets, message = WRONG[name]
    with pytest.raises(RegardError, match=message):
        Packed(np.zeros((3, 2)), offsets)


def test_packing_nothing_and_wrong_lengths_are_refused():
    with pytest.raises(ShapeError, match="cannot pack no sequences at all"):
        Packed.pack([])
    for lengths in ([1], [1, 4], [-1, 2]):
        with pytest.raises(ShapeError, match="lengths must be 2 numbers between 0 and 3"):
            Packed.from_padded(np.zeros((2, 3)), lengths)


def test_packed_is_immutable():
    packed = Packed(np.zeros(3), [0, 3])
    with pytest.raises(AttributeError):
        packed.values = np.ones(3)


class Words:
    """The type of PyArrow's strings."""

    @property
    def bit_width(self):
        raise ValueError("Non-fixed width type")


class Arrow:
    """What `Packed.of` looks at of a PyArrow array."""

    def __init__(self, numbers, size=None, nulls=0):
        self.numbers, self.null_count = numbers, nulls
        kind = SimpleNamespace(bit_width=64) if numbers.dtype.kind == "f" else Words()
        self.type = SimpleNamespace(list_size=size) if size else kind

    def __getitem__(self, rows):
        return Arrow(self.numbers[rows], getattr(self.type, "list_size", None))

    def flatten(self):
        return Arrow(self.numbers.reshape(-1))

    def to_numpy(self, zero_copy_only):
        return self.numbers


@pytest.mark.parametrize("size", [None, 2])
def test_a_list_of_arrow_is_taken_as_it_lies(size):
    numbers = np.arange(10.0).reshape(-1, size) if size else np.arange(5.0)
    whole = SimpleNamespace(
        null_count=0, values=Arrow(numbers, size), offsets=np.array([1, 3, 3, 4], np.int32)
    )
    packed = Packed.of(whole)
    assert packed.offsets.tolist() == [0, 2, 2, 3]
    np.testing.assert_array_equal(packed.values, numbers[1:4])
    assert np.shares_memory(packed.values, numbers)
    whole.null_count = 1
    with pytest.raises(ShapeError, match=r"without nulls. Received SimpleNamespace"):
        Packed.of(whole)


def test_lists_of_text_and_chunks_of_arrow():
    words = SimpleNamespace(
        null_count=0, values=Arrow(np.array(["a", "b"])), offsets=np.array([0, 2]), type="list<string>"
    )
    with pytest.raises(ShapeError, match=r"lists of numbers .* Received SimpleNamespace of list<string>;"):
        Packed.of(words)
    numbers = SimpleNamespace(null_count=0, values=Arrow(np.arange(3.0)), offsets=np.array([0, 2, 3]))
    chunked = SimpleNamespace(null_count=0, num_chunks=1, chunk=[numbers].__getitem__)
    assert np.shares_memory(Packed.of(chunked).values, numbers.values.numbers)
    chunked = SimpleNamespace(null_count=0, num_chunks=2, combine_chunks=lambda: numbers)
    assert Packed.of(chunked).offsets.tolist() == [0, 2, 3]


def test_a_view_of_lists_has_offsets_that_mean_something_else():
    rows = Arrow(np.array([3.0, 1.0, 2.0]))
    view = SimpleNamespace(
        null_count=0, offsets=np.array([2, 0, 0]), sizes=np.array([1, 2, 0]), flatten=lambda: rows
    )
    packed = Packed.of(view)
    assert packed.offsets.tolist() == [0, 1, 3, 3]
    assert packed.values.tolist() == [3, 1, 2]


def test_real_arrays_of_arrow_where_it_is_installed():
    arrow = pytest.importorskip("pyarrow")
    lists = [[1.0, 2.0], [], [3.0]]
    view = arrow.ListViewArray.from_arrays([2, 0, 0], [1, 2, 0], arrow.array([1.0, 2.0, 3.0]))
    for lists_given, expected in (
        (arrow.array(lists), lists),
        (arrow.array(lists)[1:], lists[1:]),
        (arrow.array(lists, type=arrow.large_list(arrow.float32())), lists),
        (arrow.chunked_array([lists, lists]), lists * 2),
        (arrow.array([[[1.0, 2.0]], []], type=arrow.list_(arrow.list_(arrow.float64(), 2))), [[[1, 2]], []]),
        (view, [[3], [1, 2], []]),
    ):
        assert [part.tolist() for part in Packed.of(lists_given).unpack()] == expected
    text = arrow.array([["a"]])
    for lists_given in (
        text, arrow.chunked_array([text]), arrow.array([[1, None]]), arrow.array([[[1]]]), arrow.array([None, [1]])
    ):  # fmt: skip
        with pytest.raises(ShapeError, match=r"without nulls. Received .* of list<item:"):
            Packed.of(lists_given)


def test_a_jagged_tensor_with_holes_is_packed_without_them():
    whole = torch.arange(24.0).reshape(2, 4, 3).requires_grad_()
    nested = torch.nested.narrow(whole, 1, torch.tensor([0, 1]), torch.tensor([2, 3]), layout=torch.jagged)
    packed = Packed.of(nested)
    assert packed.offsets.tolist() == [0, 2, 5]
    assert torch.equal(packed.values, torch.cat([whole[0, :2], whole[1, 1:4]]))
    packed.values.sum().backward()
    assert whole.grad[:, :, 0].tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]


def test_a_transposed_jagged_tensor_is_refused():
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged)
    with pytest.raises(ShapeError, match=r"jagged layout, \(N, lengths, ...\), .* Received NestedTensor;"):
        Packed.of(nested.transpose(1, 2))


def test_a_jagged_tensor_is_taken_as_it_lies():
    parts = [torch.ones(2, 3), torch.ones(0, 3), torch.ones(1, 3)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    packed = Packed.of(nested)
    assert packed.lengths.tolist() == [2, 0, 1]
    assert packed.values.data_ptr() == nested.values().data_ptr()
    with pytest.raises(ShapeError, match="Received Tensor"):
        Packed.of(torch.ones(2, 3))
