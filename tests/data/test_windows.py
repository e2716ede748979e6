from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regard.data.batches import PackedBatches
from regard.data.store import TokenStore
from regard.data.windows import Windows, covering

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


def written(folder, lengths):
    """Documents whose tokens are all different."""
    starts = np.cumsum([0, *lengths])
    documents = [
        (list(range(start, start + size)),) for start, size in zip(starts[:-1], lengths, strict=True)
    ]
    return TokenStore.write(folder, documents, ("text",))


@example(lengths=[1], context=1, seed=0, epoch=0)
@given(lengths=LENGTHS, context=st.integers(1, 12), seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_an_epoch_predicts_every_token_with_one_before_it_once(
    tmp_path_factory, lengths, context, seed, epoch
):
    windows = Windows(written(tmp_path_factory.mktemp("store"), lengths), context, seed)
    sizes = windows.lengths(epoch)
    assert len(sizes) == len(windows)
    assert sizes.max(initial=0) <= context
    values, offsets = windows.gather(np.arange(len(windows)), epoch)["text"]
    sequences = np.split(values, offsets[1:-1]) if len(offsets) > 1 else []
    assert [len(one) - 1 for one in sequences if len(one)] == sizes[sizes > 0].tolist()
    predicted = np.concatenate([values[:0], *(one[1:] for one in sequences)])
    firsts = np.cumsum([0, *lengths[:-1]])[np.array(lengths) > 0]
    assert sorted(predicted.tolist()) == sorted(set(range(sum(lengths))) - set(firsts.tolist()))
    for one in sequences:  # no window has two documents, and none has a gap
        assert np.array_equal(one, np.arange(one[0], one[0] + len(one)))
        assert not set(firsts.tolist()) & set(one[1:].tolist())


def test_windows_lie_elsewhere_in_every_epoch_and_at_the_same_places_again(tmp_path):
    store = written(tmp_path, [1000, 30])
    windows = Windows(store, 64, seed=3)
    cuts = [tuple(windows.lengths(epoch)) for epoch in range(8)]
    assert len(set(cuts)) > 5
    assert cuts == [tuple(Windows(store, 64, seed=3).lengths(epoch)) for epoch in range(8)]
    assert cuts != [tuple(Windows(store, 64, seed=4).lengths(epoch)) for epoch in range(8)]
    assert {one[-1] for one in cuts} == {29}  # a short document stays whole


@pytest.mark.parametrize("steps", [3, 20, 41])
def test_batches_of_windows_go_on_where_they_stopped(tmp_path, steps):
    windows = Windows(written(tmp_path, [333, 20, 90]), 16, seed=1)

    def batches():
        return PackedBatches(windows.lengths, 64, seed=5)

    whole, again = batches(), batches()
    for _ in range(steps):
        next(whole)
    again.load_state_dict(whole.state_dict())
    for _ in range(30):
        one, other = next(whole), next(again)
        assert np.array_equal(one, other)
        assert whole.drawn == again.drawn
        gathered = windows.gather(one, whole.drawn)["text"]
        assert 0 < gathered[1][-1] - len(gathered[1]) + 1 <= 64  # predictions of a batch


@given(predictions=st.integers(0, 60), context=st.integers(1, 12), share=st.floats(0, 1))
def test_covering_windows_count_every_prediction_once(predictions, context, share):
    stride = max(1, round(context * share))
    found = covering(predictions, context, stride)
    assert [place for _, counted, end in found for place in range(counted, end)] == list(range(predictions))
    for begin, counted, end in found:
        assert begin <= counted < end <= begin + context
        if stride < context and counted:
            assert counted - begin >= context - stride
