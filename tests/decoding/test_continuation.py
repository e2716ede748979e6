from __future__ import annotations

import numpy as np
import pytest
import torch

from regard.data.packing import pack_ids
from regard.decoding.continuation import continued, log_probabilities, token_log_p
from regard.nn import LanguageModel

CONTEXT = 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return LanguageModel(15, 16, 2, 24, 2, context=CONTEXT).eval()


@torch.no_grad()
def plain(model, ids):
    return torch.log_softmax(model.scores(model(pack_ids([ids]))).double(), -1).numpy()


def likeliest(model, prompt, count):
    """Greedy writing by whole passes; a full context goes on with its last half."""
    held, found = list(prompt), []
    for _ in range(count):
        token = int(plain(model, held)[-1].argmax())
        found.append(token)
        held = [*held, token] if len(held) < CONTEXT else [*held, token][-CONTEXT // 2 :]
    return found


def written(model, prompts, rows, counts, limit=40):
    found = [[] for _ in rows]

    def choose(live, scores):
        done = [len(found[row]) + 1 >= counts[row] for row in live]
        return scores.argmax(axis=1), np.array(done)

    for live, tokens in continued(model, prompts, np.array(rows), choose, limit):
        for row, token in zip(live, tokens, strict=True):
            found[row].append(int(token))
    return found


def test_rows_of_all_lengths_are_what_whole_passes_write(model):
    prompts = [[1, 2, 3], [4], list(range(CONTEXT)), [7] * (CONTEXT - 1)]
    rows, counts = [0, 0, 1, 2, 3, 1], [30, 5, 26, 17, 40, 1]
    found = written(model, prompts, rows, counts)
    for row, prompt, count in zip(found, rows, counts, strict=True):
        assert row == likeliest(model, prompts[prompt], count)


def test_a_row_alone_is_the_same(model):
    prompts = [[1, 2, 3], [4, 5]]
    both = written(model, prompts, [0, 1], [25, 25])
    assert both == [written(model, [prompt], [0], [25])[0] for prompt in prompts]


def test_no_rows_are_no_work(model):
    assert written(model, [], [], []) == []


def test_candidates_are_scored_as_one_by_one(model):
    prompt, candidates = [3, 1, 4], [[1], [5, 9, 2], [6, 5], [5, 9, 2]]
    found = log_probabilities(model, prompt, candidates)
    for value, ids in zip(found, candidates, strict=True):
        table = plain(model, prompt + ids)
        expected = sum(table[len(prompt) - 1 + place, token] for place, token in enumerate(ids))
        assert value == pytest.approx(expected, abs=1e-5)
    assert found[1] == found[3]


def test_single_tokens_need_no_second_pass(model):
    found = log_probabilities(model, [3, 1], [[token] for token in range(15)])
    assert np.exp(found).sum() == pytest.approx(1)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_log_probabilities_by_parts(model, rows):
    states, chosen = model(pack_ids([[1, 2, 3, 4]])), torch.tensor([2, 3, 4, 5])
    expected = plain(model, [1, 2, 3, 4])[np.arange(4), chosen.numpy()]
    np.testing.assert_allclose(token_log_p(model, states, chosen, rows), expected, atol=1e-6)
    assert token_log_p(model, states[:0], chosen[:0]).shape == (0,)
