"""The writer in PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from regard.decoding.plain import best_of


def test_the_best_are_normalized_and_in_order():
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    found = best_of(scores, 2, 0)
    log_p = torch.log_softmax(scores, -1).numpy()
    assert found.ids.tolist()[0] == [1, 2]
    assert found.ids[1, 0] == 2
    np.testing.assert_allclose(found.log_p, np.take_along_axis(log_p, found.ids, 1))
    np.testing.assert_allclose(found.end_log_p, log_p[:, 0])
    assert best_of(scores, 9, 0).ids.shape == (2, 3)
