from __future__ import annotations

import torch

from regard.data.packing import pack_ids, pack_streams


def test_ids_stand_one_sequence_after_the_other():
    packed = pack_ids([[3, 4], [], [5]])
    assert packed.values.tolist() == [3, 4, 5]
    assert packed.offsets.tolist() == [0, 2, 2, 3]


def test_no_sequences_are_no_ids():
    packed = pack_ids([])
    assert packed.values.dtype == torch.int64
    assert len(packed) == 0


def test_every_stream_is_a_batch():
    streams = pack_streams([([1], [2, 3]), ([4, 5], [6])], ("source", "target"))
    assert streams["source"].values.tolist() == [1, 4, 5]
    assert streams["target"].offsets.tolist() == [0, 2, 3]
