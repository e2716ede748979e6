"""Training on CIDEr-D: what is drawn, what it is worth, and which way the gradient points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regard.data.packing import pack_streams
from regard.metrics.captions import cider
from regard.nn import Captioner, PatchEncoder
from regard.tasks import _rewards
from regard.tasks._caption import STREAMS, sizes_of
from regard.tasks._rewards import DRAWN, draw, reward_loss

END = 2


@pytest.fixture
def model():
    torch.manual_seed(5)
    encoder = PatchEncoder(2, dim=16, heads=2, hidden=16, layers=1)
    model = Captioner(encoder, vocabulary=6, heads=2, hidden=16, layers=1, dropout=0.1)
    torch.nn.init.normal_(model.embedding.weight)
    return model


def make_batch():
    """Two pictures: one with two captions in language 0, one with a caption in each of two languages."""
    rng = np.random.default_rng(0)
    patches = [rng.integers(256, size=(count, 12), dtype=np.uint8) for count in (4, 2)]
    examples = [
        ([4, 3], [0, 3, 4, END, 0, 3, END], (2, 2), patches[0]),
        ([4, 3], [0, 4, 4, END, 1, 5, END], (1, 2), patches[1]),
    ]
    return pack_streams(examples, STREAMS)


def test_what_is_drawn_has_the_models_own_distribution(model):
    batch = make_batch()
    model.train()
    encoded = model.encode(batch["patches"], sizes_of(batch))
    count = 4000
    owners = torch.arange(2).repeat_interleave(count)
    found = draw(model, encoded, owners, torch.zeros(2 * count, dtype=torch.long), END, 3)
    assert model.training
    assert max(map(len, found)) == 3
    model.eval()
    with torch.no_grad():
        first = model.step(_tokens([0, 0]), encoded, model.decoder.caches(), torch.arange(2))
        expected = torch.softmax(model.scores(first), dim=-1).numpy()
    for picture in range(2):
        part = found[picture * count : (picture + 1) * count]
        counts = np.bincount([one[0] if one else END for one in part], minlength=6)
        error = ((counts - count * expected[picture]) ** 2 / (count * expected[picture])).sum()
        assert error < 25  # chi-square, five degrees of freedom: one in 7,000


def _tokens(ids):
    import regard

    return regard.Packed(torch.tensor(ids), np.arange(len(ids) + 1))


def test_the_gradient_is_that_of_the_plain_formula(model, monkeypatch):
    batch = make_batch()
    model.eval()
    captions = [[3, 4], [3], [], [4, 4, 4], [3, 4], [4, 4], [4], [3], [4, 4], [5], [5], [5], [], [5, 5], [3]]
    assert len(captions) == 3 * DRAWN
    monkeypatch.setattr(_rewards, "draw", lambda *_: captions)
    reward_loss(model, batch, END, 5).backward()
    found = model.embedding.weight.grad.clone()

    # By hand: groups are (picture 0, language 0), (1, 0), (1, 1); rarity within each language.
    def reward(rows, references):
        texts = [" ".join(map(str, [*ids, END])) for ids in rows]
        return cider(texts, references, "none").statistics[:, 0]

    zero = reward(captions[:10], [["3 4 2", "3 2"]] * DRAWN + [["4 4 2"]] * DRAWN)
    one = reward(captions[10:], [["5 2"]] * DRAWN)
    rewards = np.concatenate([zero, one]).reshape(3, DRAWN)
    model.zero_grad()
    total = 0.0
    for group, (picture, begin) in enumerate([(0, 0), (1, 0), (1, 1)]):
        encoded = model.encode(batch["patches"], sizes_of(batch))
        for place in range(DRAWN):
            ids = captions[group * DRAWN + place]
            others = (rewards[group].sum() - rewards[group, place]) / (DRAWN - 1)
            states = model.read(encoded, _one([begin, *ids]), torch.tensor([picture]))
            log_p = torch.log_softmax(model.scores(states), dim=-1)
            chosen = log_p[torch.arange(len(ids) + 1), torch.tensor([*ids, END])].sum()
            total = total - (rewards[group, place] - others) * chosen / DRAWN
    total.backward()
    torch.testing.assert_close(found, model.embedding.weight.grad, atol=1e-4, rtol=1e-3)


def _one(ids):
    import regard

    return regard.Packed(torch.tensor(ids), [0, len(ids)])


def test_captions_that_are_rewarded_become_likelier(model):
    batch, optimizer = make_batch(), torch.optim.Adam(model.parameters(), lr=0.02)

    def likeness():
        encoded = model.encode(batch["patches"], sizes_of(batch))
        drawn = draw(
            model, encoded, torch.zeros(200, dtype=torch.long), torch.zeros(200, dtype=torch.long), END, 4
        )
        return np.mean([ids in ([3, 4], [3]) for ids in drawn])

    torch.nn.init.normal_(model.embedding.weight, std=0.1)  # anything is about as likely at first
    torch.manual_seed(6)
    before = likeness()
    for _ in range(30):
        optimizer.zero_grad()
        reward_loss(model, batch, END, 4).backward()
        optimizer.step()
    assert likeness() > before + 0.3
