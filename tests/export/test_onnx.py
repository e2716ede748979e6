"""The two graphs compute what the model computes, in ONNX Runtime where it is installed, and as ONNX itself says."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from regard._errors import ConfigError
from regard.data.packing import pack_ids
from regard.decoding import search
from regard.decoding.plain import best_of
from regard.export import export
from regard.nn import EncoderDecoder, Shape

SHAPES = [{}, {"qk_norm": False}]


def session(path, runner):
    """Names of the outputs, and a function from named arrays to a list of arrays."""
    if runner == "reference":
        model = onnx.load(path)
        return [output.name for output in model.graph.output], ReferenceEvaluator(model).run
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make install")
    found = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [output.name for output in found.get_outputs()], found.run


class Exported:
    """A pair of graphs that writes translations."""

    def __init__(self, folder, runner, shape):
        (self.context_names, self.encode), (self.names, self.decode) = (
            session(folder / f"{name}.onnx", runner) for name in ("encoder", "decoder")
        )
        self.empty = (shape.heads, 0, shape.dim // shape.heads)
        self.past = {}

    def begin(self, sources):
        lengths = np.array([len(source) for source in sources])
        padded = np.full((len(sources), lengths.max()), 7)
        for row, source in zip(padded, sources, strict=True):
            row[: len(source)] = source
        context = self.encode(None, {"source": padded, "lengths": lengths})
        self.fixed = {"lengths": lengths, **dict(zip(self.context_names, context, strict=True))}
        self.past = {}
        return self

    def more(self, tokens, sources):
        """Log-probabilities (hypotheses, new, vocabulary) after some more tokens of each hypothesis."""
        past = self.past or {
            name.replace("present", "past"): np.zeros((len(tokens), *self.empty), np.float32)
            for name in self.names
            if name.startswith("present")
        }
        found = self.decode(None, {"tokens": tokens, "sources": sources, **self.fixed, **past})
        named = dict(zip(self.names, found, strict=True))
        self.past = {
            name.replace("present", "past"): array for name, array in named.items() if "present" in name
        }
        return named["log_probabilities"]


class Stepper:
    """It, as `regard.decoding.search` asks for."""

    refills = False

    def __init__(self, exported, sources):
        self.exported, self.sources = exported, sources

    def begin(self, sources):
        self.exported.begin([self.sources[number] for number in sources])

    def step(self, tokens, sources, parents, count, end):
        past = self.exported.past
        self.exported.past = {name: array[parents] for name, array in past.items()}
        log_p = self.exported.more(tokens[:, None], sources)[:, 0]
        return best_of(torch.from_numpy(log_p), count, end)


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("runner", ["onnxruntime", "reference"])
def test_any_target_has_the_same_scores_however_it_is_cut(usual, tmp_path, runner, sizes):
    torch.manual_seed(0)
    model = EncoderDecoder(Shape(50, dim=32, hidden=48, encoder_layers=2, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # far from even
    sources, targets = (
        [[5, 6, 7, 8, 9, 2], [4, 2], [2]],
        [[1, 11, 3, 4, 12], [1, 9, 8, 7, 6], [1, 9, 8, 7, 6]],
    )
    readers = np.array([1, 0, 2])
    with torch.no_grad():
        packed = model.decoder(
            model._embedded(pack_ids(targets)), model.encode(pack_ids(sources)), key_sequence=readers
        )
        expected = torch.log_softmax(model.scores(packed.values), -1).unflatten(0, (3, 5)).numpy()
    export(SimpleNamespace(model=model, task=usual.task), "onnx", tmp_path / "model")
    exported = Exported(tmp_path / "model", runner, model.shape)
    for cuts in ([0, 5], [0, 1, 2, 3, 4, 5], [0, 2, 5]):
        exported.begin(sources)
        found = [
            exported.more(np.array(targets)[:, begin:end], readers) for begin, end in itertools.pairwise(cuts)
        ]
        np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-4)


@pytest.mark.parametrize("beam", [1, 5])
def test_translations_are_the_same(usual, beam, sentences, tmp_path):
    predictor = usual
    tokenizer = predictor.task.tokenizer
    export(predictor, "onnx", tmp_path)
    sources = [[*tokenizer.encode(text), tokenizer.eos] for text in sentences]
    limits = [2 * len(source) + 10 for source in sources]
    exported = Stepper(Exported(tmp_path, "onnxruntime", predictor.model.shape), sources)
    found = search(exported, limits, beam=beam, bos=tokenizer.bos, eos=tokenizer.eos)
    ours = predictor.task.predict(predictor.model, sentences, beam=beam)
    for (best, *_), one in zip(found, ours, strict=True):
        assert best.tokens == one.pieces
        assert best.score(1.0) == pytest.approx(one.score, abs=1e-4)


def test_sizes_are_free_and_begin_and_end_are_told(usual, tmp_path):
    files = export(usual, "onnx", tmp_path)
    assert [path.name for path in files] == ["encoder.onnx", "decoder.onnx", "tokenizer.json"]
    decoder = onnx.load(files[1])
    assert {entry.key: entry.value for entry in decoder.metadata_props} == {"begin": "1", "end": "2"}
    (tokens,) = (value for value in decoder.graph.input if value.name == "tokens")
    assert [size.dim_param for size in tokens.type.tensor_type.shape.dim] == ["hypotheses", "new"]


def test_without_the_package_the_remedy_is_told(usual, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"onnx is not installed.*pip install 'regard\[export\]'"):
        export(usual, "onnx", tmp_path / "model")
    assert not (tmp_path / "model").exists()
