from __future__ import annotations

import numpy as np
import pytest
import torch

from regard._dropout import keep, keep_blocks, keep_run, philox4x32

# The known-answer vectors of Random123 (Salmon et al. 2011), file kat_vectors, philox4x32 with ten rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
@pytest.mark.parametrize(
    "bring", [lambda n: np.array([n]), lambda n: torch.tensor([n])], ids=["numpy", "torch"]
)
def test_known_answers(counter, key, answer, bring):
    out = philox4x32(tuple(bring(word) for word in words(counter)), tuple(words(key)))
    assert [int(word[0]) for word in out] == words(answer)


def grid(bring=np.asarray):
    return {
        "sequence": bring(np.arange(2)[:, None, None, None]),
        "head": bring(np.arange(3)[:, None, None]),
        "position": bring(np.arange(-2, 5)[:, None]),
    }


def test_word_number_key_modulo_four_of_the_counter_decides():
    seed, p = 0x299F31D0_A4093822, 0.3
    kept = keep(seed, **grid(), key=np.arange(11), p=p)
    assert kept.shape == (2, 3, 7, 11)
    counter = tuple(np.array([n]) for n in (9 // 4, (-2) % 2**32, 1, 1))
    word = philox4x32(counter, (0xA4093822, 0x299F31D0))[9 % 4][0]
    assert kept[1, 1, 0, 9] == (word >= int(p * 2**32))


@pytest.mark.parametrize("bring", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("length", [0, 1, 4, 10])
def test_runs_equal_single_keys(bring, length):
    key = bring(np.array([0, 8])[:, None, None, None] + np.arange(length))
    kept, run = (form(5, **grid(bring), key=key, p=0.5) for form in (keep, keep_run))
    np.testing.assert_array_equal(np.asarray(run), np.asarray(kept))


def test_blocks_equal_single_keys():
    kept = keep(5, **grid(), key=np.arange(12), p=0.5)
    runs = np.stack(keep_blocks(5, **grid(), block=np.arange(3), p=0.5), -1)
    np.testing.assert_array_equal(runs.reshape(2, 3, 7, 12), kept)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), np.int64(12)])
def test_torch_equals_numpy(seed):
    kept = keep(seed, **grid(), key=np.arange(9), p=0.4)
    tensors = keep(seed, **grid(torch.as_tensor), key=torch.arange(9), p=0.4)
    np.testing.assert_array_equal(tensors.numpy(), kept)
    traced = keep(torch.tensor(int(seed)), **grid(torch.as_tensor), key=torch.arange(9), p=0.4)
    np.testing.assert_array_equal(traced.numpy(), kept)


def test_the_share_that_is_dropped_is_p():
    coordinates = {"sequence": np.zeros(1, np.int64), "head": np.arange(4)[:, None, None]}
    kept = keep(1, **coordinates, position=np.arange(100)[:, None], key=np.arange(1000), p=0.1)
    assert abs(kept.mean() - 0.9) < 5 * (0.09 / kept.size) ** 0.5


def test_p_zero_keeps_everything():
    assert keep(1, **grid(), key=np.arange(9), p=0.0).all()
