from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from regard import Packed
from regard.decoding import Hypothesis, search
from regard.decoding.plain import PlainWriter, best_of
from regard.nn import EncoderDecoder, Shape

BOS, EOS = 0, 1


class Markov:
    """A source is a table: the log-probabilities of the next token given the last one."""

    def __init__(self, tables, refills=True):
        self.tables = np.asarray(tables)  # (sources, vocabulary, vocabulary)
        self.refills = refills
        self.histories = []  # of the rows of the last step: source and tokens
        self.steps = []  # hypotheses at every step
        self.lengths = []  # the lengths of the hypotheses at every step
        self.live = []  # the sources at every step

    def begin(self, sources):
        self.begun = list(sources)

    def step(self, tokens, sources, parents, count, end):
        self.steps.append(len(tokens))
        self.live.append(sorted(set(sources)))
        histories = []
        for token, source, parent in zip(tokens, sources, parents, strict=True):
            assert parent >= 0 or source in self.begun
            before = [] if parent < 0 else self.histories[parent]
            assert parent < 0 or before[0] == source
            histories.append([source, *before[1:], token])
        assert sum(a != b for a, b in itertools.pairwise(sources)) + 1 == len(set(sources))
        self.histories = histories
        self.lengths.append({len(history) - 1 for history in histories})
        return best_of(torch.from_numpy(self.tables[sources, tokens]), count, end)


def tables(seed, sources=1, vocabulary=4, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(
        sharpness * torch.randn(sources, vocabulary, vocabulary, generator=generator).double(), -1
    )


def exhaustive(table, limit, penalty):
    """The best of all token sequences with at most `limit` tokens, the end counted."""
    others = [token for token in range(len(table)) if token != EOS]
    found = []
    for length in range(limit):
        for tokens in itertools.product(others, repeat=length):
            path = [BOS, *tokens, EOS]
            total = sum(float(table[a, b]) for a, b in itertools.pairwise(path))
            found.append(Hypothesis(tokens, total))
    return sorted(found, key=lambda one: -one.score(penalty))


def run(table, limits, **options):
    return search(Markov(table), limits, bos=BOS, eos=EOS, **options)


@given(
    seed=st.integers(0, 10**6),
    penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    limit=st.integers(1, 4),
    sharpness=st.sampled_from([0.3, 1.0, 3.0]),
)
def test_a_beam_that_holds_everything_finds_the_best(seed, penalty, limit, sharpness):
    table = tables(seed, sharpness=sharpness)
    found = run(table, [limit], beam=4**limit, penalty=penalty)[0]
    expected = exhaustive(table[0], limit, penalty)
    # Two paths over the same pairs of tokens are equally likely: the one or the other is the best.
    totals = {one.tokens: one.log_probability for one in expected}
    assert abs(found[0].log_probability - totals[found[0].tokens]) < 1e-5
    assert abs(found[0].score(penalty) - expected[0].score(penalty)) < 1e-5
    scores = [one.score(penalty) for one in found]
    assert scores == sorted(scores, reverse=True)


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 9))
def test_greedy_follows_the_most_probable_token(seed, limit):
    table = tables(seed, vocabulary=6)
    path, total = [BOS], 0.0
    while len(path) <= limit:
        row = table[0, path[-1]]
        token = EOS if len(path) == limit else int(row.argmax())
        total += float(row[token])
        path.append(token)
        if token == EOS:
            break
    found = run(table, [limit], beam=1)[0]
    assert found[0].tokens == tuple(path[1:-1])
    assert abs(found[0].log_probability - total) < 1e-5


@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6), penalty=st.sampled_from([0.0, 1.0]))
def test_hypotheses_are_what_they_say(seed, beam, penalty):
    """At least one each, at most `beam`, all different, within the limit, with the probability of their tokens."""
    table, limits = tables(seed, sources=3), [1, 3, 7]
    for source, hypotheses in enumerate(run(table, limits, beam=beam, penalty=penalty)):
        assert 1 <= len(hypotheses) <= beam
        assert len({one.tokens for one in hypotheses}) == len(hypotheses)
        for one in hypotheses:
            assert len(one.tokens) < limits[source]
            assert not {EOS} & set(one.tokens)
            path = [BOS, *one.tokens, EOS]
            total = sum(float(table[source, a, b]) for a, b in itertools.pairwise(path))
            assert abs(one.log_probability - total) < 1e-5


@given(seed=st.integers(0, 10**6), beam=st.integers(1, 5))
def test_sources_do_not_depend_on_each_other(seed, beam):
    table, limits = tables(seed, sources=4, sharpness=2.0), [6, 2, 9, 4]
    together = run(table, limits, beam=beam)
    for source in range(4):
        alone = run(table[source : source + 1], limits[source : source + 1], beam=beam)[0]
        assert [one.tokens for one in alone] == [one.tokens for one in together[source]]


def test_a_wider_beam_never_scores_worse_on_this_example_and_greedy_is_beaten():
    table = torch.full((1, 4, 4), 1e-9).double()
    table[0, BOS, 2], table[0, BOS, 3] = 0.55, 0.45  # greedy takes 2, after which everything is improbable
    table[0, 2] = 0.25
    table[0, 3, EOS] = 1.0
    table = table.log()
    assert run(table, [5], beam=1, penalty=0.0)[0][0].tokens != (3,)
    assert run(table, [5], beam=2, penalty=0.0)[0][0].tokens == (3,)


def test_length_is_rewarded_by_the_penalty():
    one = Hypothesis((2, 3, 2), -4.0)
    assert one.score(0.0) == -4.0
    assert one.score(1.0) == -1.0
    assert one.score(0.5) == -2.0
    table = torch.zeros(1, 3, 3).double()
    table[0] = torch.tensor([0.01, 0.5, 0.49]).double().log()
    assert run(table, [8], beam=30, penalty=0.0)[0][0].tokens == ()
    assert len(run(table, [8], beam=30, penalty=3.0)[0][0].tokens) == 7


def test_the_limit_ends_what_would_never_end():
    table = torch.full((1, 3, 3), -1.0).double()
    table[0, :, EOS] = -50.0
    found = run(table, [4], beam=2)[0]
    assert all(len(one.tokens) == 3 for one in found)
    assert run(table, [0], beam=2)[0][0].tokens == ()


def test_the_finished_leave_the_batch():
    table = torch.full((3, 3, 3), -20.0).double()
    table[0, :, EOS] = -1e-3  # ends at once
    table[1, :, 2] = table[2, :, 2] = -1e-3  # go on to their limits
    for beam in (1, 3):
        stepper = Markov(table)
        search(stepper, [20, 3, 6], beam=beam, bos=BOS, eos=EOS, penalty=0.0)
        assert len(stepper.steps) == 6
        assert stepper.steps[0] == 3
        assert stepper.steps[2] <= 2 * beam
        assert stepper.steps[-1] <= beam


@given(
    seed=st.integers(0, 10**6),
    beam=st.integers(1, 4),
    together=st.integers(1, 6),
    refills=st.booleans(),
    limits=st.lists(st.integers(0, 9), max_size=7),
)
def test_a_queue_changes_no_result(seed, beam, together, refills, limits):
    table = tables(seed, sources=max(1, len(limits)), sharpness=2.0)
    stepper = Markov(table, refills)
    queued = search(stepper, limits, beam=beam, bos=BOS, eos=EOS, together=together)
    assert queued == run(table, limits, beam=beam)
    assert max(stepper.steps, default=0) <= together * beam
    if not refills:
        assert all(len(lengths) == 1 for lengths in stepper.lengths)


@given(
    seed=st.integers(0, 10**6),
    beam=st.integers(1, 3),
    refills=st.booleans(),
    sources=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=7),
    most=st.integers(1, 12),
)
def test_what_sources_take_together_is_bounded_and_changes_no_result(seed, beam, refills, sources, most):
    limits, sizes = [limit for limit, _ in sources], [size for _, size in sources]
    table = tables(seed, sources=max(1, len(limits)), sharpness=2.0)
    stepper = Markov(table, refills)
    found = search(stepper, limits, beam=beam, bos=BOS, eos=EOS, sizes=sizes, most=most)
    assert found == run(table, limits, beam=beam)
    assert all(len(live) == 1 or sum(sizes[one] for one in live) <= most for live in stepper.live)


def test_small_sources_stand_beside_a_large_one_where_they_fit():
    table = torch.full((4, 3, 3), -20.0).double()
    table[:, :, 2] = -1e-3
    stepper = Markov(table)
    search(stepper, [3] * 4, beam=1, bos=BOS, eos=EOS, sizes=[1, 1, 5, 9], most=7)
    assert stepper.live == [[0, 1, 2]] * 3 + [[3]] * 3


def test_others_begin_while_some_are_being_written():
    table = torch.full((4, 3, 3), -20.0).double()
    table[:, :, 2] = -1e-3
    stepper = Markov(table)
    search(stepper, [9, 3, 3, 3], beam=1, bos=BOS, eos=EOS, together=2)
    assert len(stepper.steps) == 9
    assert any(len(lengths) == 2 for lengths in stepper.lengths)


def test_impossible_tokens_are_never_written():
    table = tables(3, vocabulary=5)
    table[:, :, 3] = -torch.inf
    for beam in (1, 4, 50):
        for one in run(table, [6], beam=beam)[0]:
            assert 3 not in one.tokens
            assert np.isfinite(one.log_probability)


def test_nothing_to_write():
    assert run(tables(0), [], beam=3) == []


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 5])
def test_what_a_model_writes_is_what_it_scores_and_does_not_depend_on_the_batch(beam):
    torch.manual_seed(0)
    model = EncoderDecoder(
        Shape(vocabulary=12, dim=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=2)
    ).eval()
    model.embedding.weight *= 2  # decided enough that rounding decides nothing
    lengths = [5, 1, 9, 3, 5, 2]
    ids = torch.randint(2, 12, (sum(lengths),))
    sources = Packed(ids, np.concatenate([[0], np.cumsum(lengths)]))
    each = [source.tolist() for source in sources.unpack()]
    together = search(PlainWriter(model, each), [12] * 6, beam=beam, bos=BOS, eos=EOS)
    for source, hypotheses in zip(sources.unpack(), together, strict=True):
        single = Packed(source, [0, len(source)])
        (alone,) = search(PlainWriter(model, [source.tolist()]), [12], beam=beam, bos=BOS, eos=EOS)
        assert alone[0].tokens == hypotheses[0].tokens
        assert abs(alone[0].score(1.0) - hypotheses[0].score(1.0)) < 1e-5
        for one in hypotheses:
            read = torch.tensor([BOS, *one.tokens])
            written = torch.tensor([*one.tokens, EOS])
            log_p = F.log_softmax(model.scores(model(single, Packed(read, [0, len(read)]))), -1)
            assert abs(float(log_p.gather(1, written[:, None]).sum()) - one.log_probability) < 1e-4
