"""The kernel's decoder against the same model in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from regard import Causal, Packed
from regard._errors import ConfigError
from regard._lowering import kernel
from regard.decoding import engine as engine_module
from regard.decoding import search
from regard.decoding.engine import Engine, EngineWriter, pack_stack
from regard.decoding.plain import PlainWriter
from regard.decoding.shortlist import Shortlist
from regard.nn import Decoder, EncoderBlock, EncoderDecoder, Shape

pytestmark = [pytest.mark.usefixtures("instruction_set")]
BOS, EOS = 0, 1
SHAPES = [
    Shape(vocabulary=300, dim=64, heads=4, hidden=48, encoder_layers=2),
    Shape(
        vocabulary=12, dim=12, heads=2, hidden=10, encoder_layers=1, decoder_layers=1
    ),  # no whole vector anywhere
    Shape(vocabulary=700, dim=40, heads=1, hidden=100, encoder_layers=1, qk_norm=False),
]
LENGTHS = (5, 1, 9, 3, 17, 2, 40)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"dim{shape.dim}")
def model(request):
    return made(request.param)


def made(shape, seed=0):
    torch.manual_seed(seed)
    model = EncoderDecoder(shape).eval()
    with torch.no_grad():
        model.embedding.weight *= 2  # decided enough that rounding decides nothing
    return model


def drawn(vocabulary, lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, vocabulary, length).tolist() for length in lengths]


def packed(sources):
    return Packed(
        torch.tensor([token for source in sources for token in source]), np.cumsum([0, *map(len, sources)])
    )


def written(engine, sources, beam, limit=12, **options):
    writer = EngineWriter(engine, sources, beam)
    return search(writer, [limit] * len(sources), beam=beam, bos=BOS, eos=EOS, **options)


@torch.no_grad()
def test_the_encoder_gives_what_pytorch_gives(model):
    sources = drawn(model.shape.vocabulary, (*LENGTHS, 0, 130))
    hidden, offsets = Engine(model).encode(sources)
    wide = made(model.shape).double().encode(packed(sources)).values
    single = model.encode(packed(sources)).values
    error = float((single - wide).abs().max())
    assert np.abs(hidden - wide.numpy()).max() <= 2 * error
    np.testing.assert_array_equal(offsets, np.cumsum([0, *map(len, sources)]))
    assert Engine(model).encode([])[0].shape == (0, model.shape.dim)


@pytest.mark.parametrize("beam", [1, 5])
def test_the_search_finds_what_it_finds_in_pytorch(model, beam):
    sources = drawn(model.shape.vocabulary)
    plain = search(PlainWriter(model, sources), [12] * len(sources), beam=beam, bos=BOS, eos=EOS)
    for expected, found in zip(plain, written(Engine(model), sources, beam), strict=True):
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.06), ("int8", 0.2)])
@pytest.mark.parametrize("native", [True, False])
def test_scores_are_those_of_the_tokens(model, precision, bound, native):
    sources = drawn(model.shape.vocabulary)
    for source, found in zip(
        sources, written(Engine(model, precision, native=native), sources, 3), strict=True
    ):
        for one in found:
            states = model(packed([source]), packed([[BOS, *one.tokens]]))
            log_p = F.log_softmax(model.scores(states), -1)
            total = float(log_p.gather(1, torch.tensor([*one.tokens, EOS])[:, None]).sum())
            assert abs(total - one.log_probability) < bound * (len(one.tokens) + 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_results_depend_neither_on_the_batch_nor_on_threads(model, precision, monkeypatch):
    """Bit for bit: alone, in company, in a queue, on one thread and on three."""
    sources, engine = drawn(model.shape.vocabulary, LENGTHS * 4), Engine(model, precision)
    together = written(engine, sources, 2)
    assert written(engine, sources, 2, together=3) == together
    assert [written(engine, [source], 2)[0] for source in sources] == together
    monkeypatch.setattr(engine_module, "threads", lambda: 3)
    assert written(engine, sources, 2) == together
    assert [written(engine, [source], 2)[0] for source in sources[:7]] == together[:7]


def test_whole_numbers_are_the_same_on_every_way(model):
    """Bytes multiplied by the machine's own instruction and widened give the same sums, so the same results."""
    sources = drawn(model.shape.vocabulary)
    with_own, widened = (Engine(model, "int8", native=native).encode(sources)[0] for native in (True, False))
    np.testing.assert_array_equal(with_own, widened)


@given(lengths=st.lists(st.integers(1, 60), max_size=9), beam=st.integers(1, 7), together=st.integers(1, 5))
def test_any_lengths(instruction_set, lengths, beam, together):
    model = made(SHAPES[1])
    sources = drawn(12, lengths)
    found = written(Engine(model), sources, beam, limit=40, together=together)
    for source, hypotheses in zip(sources, found, strict=True):
        (alone,) = written(Engine(model), [source], beam, limit=40)
        assert alone == hypotheses
        read, ends = [BOS, *hypotheses[0].tokens], [*hypotheses[0].tokens, EOS]
        with torch.no_grad():
            log_p = F.log_softmax(model.scores(model(packed([source]), packed([read]))), -1)
        assert sum(float(log_p[t, token]) for t, token in enumerate(ends)) == pytest.approx(
            hypotheses[0].log_probability, abs=1e-3
        )


def test_many_positions_and_slots(model):
    """Beyond one page of positions and one table of ancestors, with hypotheses that change places."""
    sources = drawn(model.shape.vocabulary, (4, 30))
    plain = search(PlainWriter(model, sources), [90, 70], beam=4, bos=BOS, eos=EOS, penalty=3.0)
    writer = EngineWriter(Engine(model), sources, 4)
    found = search(writer, [90, 70], beam=4, bos=BOS, eos=EOS, penalty=3.0)
    for expected, one in zip(plain, found, strict=True):
        assert one[0].log_probability == pytest.approx(expected[0].log_probability, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_only_allowed_tokens_are_candidates(model, precision):
    sources, engine = drawn(model.shape.vocabulary), Engine(model, precision)
    everything = written(engine, sources, 3)
    writer = EngineWriter(engine, sources, 3)
    writer.allow(range(model.shape.vocabulary))
    assert search(writer, [12] * 7, beam=3, bos=BOS, eos=EOS) == everything
    few = EngineWriter(engine, sources, 3)
    few.allow([9, EOS, 4])
    for found in search(few, [12] * 7, beam=3, bos=BOS, eos=EOS):
        assert found
        assert all(set(one.tokens) <= {9, 4} for one in found)
    few.allow([])
    assert few.candidates == model.shape.vocabulary


def test_a_shortlist_follows_the_live_sources(model):
    """Candidates are those of the sources that are being written; alone, each writes only its own."""
    vocabulary = model.shape.vocabulary
    sources, engine = drawn(vocabulary), Engine(model)
    candidates = (np.arange(vocabulary)[:, None] + np.arange(3)) % vocabulary
    shortlist = Shortlist(candidates.astype(np.int32), np.array([5], np.int32))
    writer = EngineWriter(engine, sources, 2, shortlist)
    search(writer, [12] * 7, beam=2, bos=BOS, eos=EOS, together=1)
    assert writer.candidates == len(shortlist.allowed([sources[-1]], [EOS]))
    writer = EngineWriter(engine, sources, 2, shortlist)
    for source, found in zip(
        sources, search(writer, [12] * 7, beam=2, bos=BOS, eos=EOS, together=1), strict=True
    ):
        assert set(found[0].tokens) <= set(shortlist.allowed([source]).tolist())
    everything = Shortlist(np.full((vocabulary, 1), -1, np.int32), np.arange(vocabulary, dtype=np.int32))
    writer = EngineWriter(engine, sources, 2, everything)
    assert search(writer, [12] * 7, beam=2, bos=BOS, eos=EOS) == written(engine, sources, 2)


def grouped():
    """Blocks with biases and grouped heads."""
    torch.manual_seed(1)
    blocks = [EncoderBlock(48, 6, 20, kv_heads=2) for _ in range(2)]
    for block in blocks:
        for name in ("query_key_value", "output"):
            linear = getattr(block.attention, name)
            linear.bias = torch.nn.Parameter(0.1 * torch.randn(linear.out_features))
        for linear in (block.feed_forward.gate_up, block.feed_forward.down):
            linear.bias = torch.nn.Parameter(0.1 * torch.randn(linear.out_features))
    return blocks


@torch.no_grad()
@pytest.mark.parametrize("prompt", [0, 1, 60])
def test_a_decoder_alone_reads_a_prompt_and_goes_on(instruction_set, prompt):
    """No context, grouped heads, biases: a language model. What is read at once is what is written token by token."""
    blocks, table = grouped(), torch.randn(33, 48)
    weights = pack_stack(blocks, table, table)
    tokens = np.random.default_rng(0).integers(0, 33, prompt + 5)
    x = table[tokens] * 48**0.5
    for block in blocks:
        x = block(x, mask=Causal(), turns=block.attention.rotary(torch.arange(len(tokens))))
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    expected = torch.log_softmax(x @ table.T, -1).numpy()
    writer = kernel().Writer(weights, 1)
    writer.admit(np.array([7]), None, None, 1)
    writer.read(7, tokens[:prompt].astype(np.int32))
    for step in range(prompt, prompt + 5):
        ids, log_p, end = np.empty((1, 33), np.int32), np.empty((1, 33), np.float32), np.empty(1, np.float32)
        parent = np.array([-1 if step == prompt else 0])
        writer.step(tokens[step : step + 1], np.array([7]), parent, 2, ids, log_p, end, 2)
        np.testing.assert_allclose(log_p[0], expected[step, ids[0]], atol=2e-5)
        np.testing.assert_allclose(end[0], expected[step, 2], atol=2e-5)
        assert (np.diff(log_p[0]) <= 0).all()


def test_the_done_are_forgotten(model):
    writer = EngineWriter(Engine(model), drawn(model.shape.vocabulary), 2)
    writer.begin(np.arange(7))
    assert writer.writer.sources == 7
    two = np.array([2, 5])
    writer.step(np.zeros(2, np.int64), two, np.full(2, -1), 2, EOS)
    assert writer.writer.sources == 2
    writer.begin(np.array([0, 1]))
    assert writer.writer.sources == 4


@pytest.mark.parametrize(
    ("tokens", "sources", "parents", "message"),
    [
        ([-1], [0], [-1], "in the vocabulary"),
        ([10**6], [0], [-1], "in the vocabulary"),
        ([0], [3], [-1], "not admitted"),
        ([0, 0, 0], [0, 1, 0], [-1, -1, -1], "stand together"),
        ([0, 0, 0], [0, 0, 0], [-1, -1, -1], "more rows than slots"),
        ([0], [0], [0], "of the step before"),
        ([0, 0], [0], [-1], "as many sources"),
    ],
)
def test_broken_steps_are_refused(model, tokens, sources, parents, message):
    writer = EngineWriter(Engine(model), drawn(model.shape.vocabulary), 2)
    writer.begin(np.arange(2))
    with pytest.raises(ValueError, match=message):
        writer.step(*map(np.array, (tokens, sources, parents)), 2, EOS)


def test_what_cannot_be_run_is_refused(model, monkeypatch):
    with pytest.raises(ConfigError, match="no precision 'fp16'"):
        Engine(model, "fp16")
    with pytest.raises(ConfigError, match="another model"):
        Engine(made(SHAPES[1]).double())
    assert not engine_module.is_for(Decoder(1, 16, 2, 16))
    for recurrent in ({"encoder": "recurrent"}, {"decoder": "recurrent"}):
        assert not engine_module.is_for(EncoderDecoder(Shape(vocabulary=30, dim=16, heads=2, **recurrent)))
    monkeypatch.setattr(engine_module, "kernel", lambda: None)
    with pytest.raises(ConfigError, match="was not built"):
        Engine(model)
