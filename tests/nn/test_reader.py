from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import regard
from regard._errors import ConfigError, ShapeError
from regard.nn.attention import CrossAttention, SelfAttention
from regard.nn.reader import PassageReader, SpanScores, ragged, span_loss

LONGEST = 3


def make(abstains=True, layers=1, encoder=None, **options):
    torch.manual_seed(0)
    encoder = encoder or regard.nn.TextEncoder(50, dim=16, heads=2, hidden=16, layers=1)
    sizes = {"spellings": 4, "parts": [[0, 1], [2, 1], [2, 0]], "heads": 2, "hidden": 16, "layers": layers}
    return PassageReader(encoder, **sizes, longest=LONGEST, abstains=abstains, **options).eval()


def inputs(lengths, readings, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    texts = regard.Packed(torch.from_numpy(rng.integers(0, 50, offsets[-1])), offsets)
    spellings = torch.from_numpy(rng.integers(0, 4, offsets[-1]))
    pairs = np.array(readings).reshape(-1, 2)
    codes = torch.from_numpy(rng.integers(0, 3, int(np.array(lengths)[pairs].sum())))
    return texts, spellings, pairs, codes


@torch.no_grad()
def test_scores_are_those_of_the_formula():
    """Readings share texts; each token's states are those of the joint sequence by itself."""
    model = make()
    lengths, readings = [2, 1, 4, 1], [(0, 2), (0, 3), (1, 2)]
    texts, spellings, pairs, codes = inputs(lengths, readings)
    scores = model(texts, spellings, pairs, codes)
    assert scores.offsets.tolist() == [0, 4, 5, 9]
    begin = 0
    for number, (question, passage) in enumerate(readings):
        both = [slice(texts.offsets[i], texts.offsets[i + 1]) for i in (question, passage)]
        alone = [
            model.encoder(
                regard.Packed(texts.values[one], [0, lengths[i]]), model.spelling(spellings[one]) * 4
            )
            for one, i in zip(both, (question, passage), strict=True)
        ]
        states = torch.cat([one.values for one in alone])
        mine = codes[begin : begin + len(states)]
        begin += len(states)
        x = regard.Packed(states + model.common(model.table[mine]).sum(1) * 4, [0, len(states)])
        turns = model.rotary(torch.arange(len(states)), torch.float32)
        for block in model.blocks:
            x = block(x, turns=turns)
        h = model.norm(x.values)
        first = lengths[question]
        for start in range(lengths[passage]):
            for length in range(LONGEST):
                got = scores.spans[scores.offsets[number] + start, length]
                if start + length >= lengths[passage]:
                    assert got == -torch.inf
                    continue
                h_i, h_j = h[first + start], h[first + start + length]
                a, c = model.pair(h_i)[:32], model.pair(h_j)[32:]
                expected = h_i @ model.ends.weight[0] + h_j @ model.ends.weight[1] + a @ c / 32**0.5
                assert float(got) == pytest.approx(
                    float(expected + model.lengths.weight[length, 0]), abs=1e-4
                )
        assert float(scores.nothing[number]) == pytest.approx(
            float(h[first - 1] @ model.none.weight[0]), abs=1e-4
        )


@torch.no_grad()
def test_question_and_passage_meet_in_the_layers_that_a_pretrained_encoder_has_left():
    shape = regard.nn.PretrainedShape(50, dim=16, heads=2, layers=3, hidden=16, positions=10)
    model = make(layers=2, encoder=regard.nn.PretrainedReader(shape, upper=2))
    model.encoder.upper_gate.fill_(0.3)
    texts, spellings, pairs, codes = inputs([2, 4, 3], [(0, 1), (0, 2)])
    scores = model(texts, spellings, pairs, codes)
    assert len(model.blocks) == 0
    ends = [0, 4, 7]
    for number, (begin, size) in enumerate([(2, 4), (6, 3)]):
        states = [
            model.encoder(texts).values[first : first + length] for first, length in ((0, 2), (begin, size))
        ]
        mine = codes[6 * number : 6 * number + 2 + size]
        common = model.common(model.table[mine]).sum(1) * 4
        x = model.encoder.together(regard.Packed(torch.cat(states) + 0.3 * common, [0, 2 + size]))
        alone = model._scores(model.norm(x.values), np.array([2]), np.array([size]))
        torch.testing.assert_close(scores.spans[ends[number] : ends[number + 1]], alone.spans)
        torch.testing.assert_close(scores.nothing[number], alone.nothing[0])


@torch.no_grad()
def test_a_passage_without_pieces_has_no_spans():
    scores = make()(*inputs([2, 0], [(0, 1)]))
    assert scores.spans.shape == (0, LONGEST)
    assert scores.nothing.shape == (1,)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 3])
def test_the_control_attends_only_where_a_question_and_a_passage_meet(layers):
    """Against the formula: every token sees the other text of its reading, and LSTMs read both from end to end."""
    model, attentive = (make(layers=layers, kind=kind) for kind in ("recurrent", "attention"))
    assert not [one for one in model.blocks.modules() if isinstance(one, SelfAttention | CrossAttention)]
    counts = [sum(one.numel() for one in each.parameters()) for each in (model, attentive)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
    lengths, readings = [2, 1, 4, 1], [(0, 2), (0, 3), (1, 2)]
    texts, spellings, pairs, codes = inputs(lengths, readings)
    scores = model(texts, spellings, pairs, codes)
    states = model.encoder(texts, model.spelling(spellings) * 4).values
    begin, meeting = 0, model.meeting
    for number, reading in enumerate(readings):
        both = torch.cat([states[texts.offsets[one] : texts.offsets[one + 1]] for one in reading])
        mine = codes[begin : begin + len(both)]
        begin += len(both)
        both = both + model.common(model.table[mine]).sum(1) * 4
        first = lengths[reading[0]]
        halves = meeting.attention_norm(both).split([first, lengths[reading[1]]])
        found = [meeting.attention(halves[one][None], halves[1 - one][None])[0] for one in (0, 1)]
        x = both + torch.cat(found)
        x = regard.Packed(x + meeting.feed_forward(meeting.feed_forward_norm(x)), [0, len(x)])
        for block in model.blocks:
            x = block(x)
        h = model.norm(x.values)
        alone = model._scores(h, np.array([first]), np.array([lengths[reading[1]]]))
        rows = slice(scores.offsets[number], scores.offsets[number + 1])
        torch.testing.assert_close(scores.spans[rows], alone.spans, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores.nothing[number], alone.nothing[0], atol=1e-4, rtol=1e-4)


def test_a_kind_that_there_is_not():
    with pytest.raises(ConfigError, match="no layers of kind 'lstm'"):
        make(kind="lstm")


def test_codes_that_do_not_fit():
    texts, spellings, pairs, codes = inputs([2, 3], [(0, 1)])
    with pytest.raises(ShapeError, match=r"expected a code for each of 5 tokens\. Received 4"):
        make()(texts, spellings, pairs, codes[:-1])


def plain_loss(spans, offsets, nothing, asked, golds, rows, smoothing):
    total = 0.0
    for question in sorted(set(asked)):
        mine = [r for r in range(len(asked)) if asked[r] == question]
        every = [s for r in mine for s in spans[offsets[r] : offsets[r + 1]].ravel() if s > -np.inf]
        none = None if nothing is None else np.mean([nothing[r] for r in mine])
        whole = np.logaddexp.reduce([*every, *([] if none is None else [none])])
        right = [
            none if length == 0 else spans[row, length - 1]
            for (r, length), row in zip(golds, rows, strict=True)
            if r in mine
        ]
        if right:
            gold = whole - np.logaddexp.reduce(right)
            total += (1 - smoothing) * gold + smoothing * (whole - np.mean(every))
    return total


@settings(max_examples=40)
@given(st.data())
def test_the_loss_is_that_of_the_formula(data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    asked = np.sort(data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths))))
    asked = np.unique(asked, return_inverse=True)[1]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    spans = rng.normal(size=(offsets[-1], LONGEST)) * 3
    for r in range(len(lengths)):
        for start in range(lengths[r]):
            spans[offsets[r] + start, lengths[r] - start :] = -np.inf
    nothing = rng.normal(size=len(lengths)) if data.draw(st.booleans()) else None
    golds, rows = [], []
    for r in range(len(lengths)):
        for start in data.draw(st.sets(st.integers(0, lengths[r] - 1), max_size=2)):
            golds.append((r, data.draw(st.integers(1, min(LONGEST, lengths[r] - start)))))
            rows.append(offsets[r] + start)
    if nothing is not None and not golds:
        golds, rows = [(0, 0)], [0]
    smoothing = data.draw(st.sampled_from([0.0, 0.1]))
    scores = SpanScores(
        torch.from_numpy(spans).requires_grad_(),
        offsets,
        None if nothing is None else torch.from_numpy(nothing),
    )
    loss = span_loss(scores, asked, golds, smoothing, row=rows)
    expected = plain_loss(spans, offsets, nothing, asked, golds, rows, smoothing)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    loss.backward()
    assert torch.isfinite(scores.spans.grad).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3))))
def test_ragged_numbers(pairs):
    begins, lengths = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [number for begin, length in pairs for number in range(begin, begin + length)]
    assert ragged(begins, lengths).tolist() == expected
