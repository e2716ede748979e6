"""The kernel's decoder over sources that PyTorch encodes, against PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import regard
from regard._errors import ConfigError
from regard._lowering import kernel
from regard.decoding import search
from regard.decoding.engine import EngineWriter
from regard.decoding.sources import PlainSourceWriter, SourceEngine, can_write
from regard.nn import Captioner, PatchEncoder

pytestmark = pytest.mark.skipif(kernel() is None, reason="without the kernel there is no engine")
BOS, EOS = 1, 2


def make_model():
    torch.manual_seed(3)
    encoder = PatchEncoder(2, dim=16, heads=2, hidden=16, layers=1)
    model = Captioner(encoder, vocabulary=20, heads=2, hidden=24, layers=2).eval()
    torch.nn.init.normal_(model.embedding.weight)
    return model


def make_sources(count):
    """Encodings of several lengths, as a person would give them to a decoder without any encoder."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(1 + 3 * number % 7, 16, generator=generator) for number in range(count)]


def joined(sources):
    return regard.Packed(torch.cat(list(sources)), np.cumsum([0, *map(len, sources)]))


@pytest.mark.parametrize("beam", [1, 4])
def test_the_kernel_writes_what_pytorch_writes(beam):
    model, sources = make_model(), make_sources(9)
    engine = SourceEngine(model, joined)
    writers = EngineWriter(engine, sources, beam), PlainSourceWriter(model, sources, joined)
    ours, plain = (
        search(writer, [12] * len(sources), beam=beam, bos=BOS, eos=EOS, together=together)
        for writer, together in zip(writers, (4, None), strict=True)
    )
    for one, other in zip(ours, plain, strict=True):
        assert [found.tokens for found in one] == [found.tokens for found in other]
        assert [found.log_probability for found in one] == pytest.approx(
            [found.log_probability for found in other], abs=1e-4
        )


def test_what_the_kernel_cannot_run_is_refused():
    model = make_model()
    assert can_write(model)
    assert not can_write(model.double())
    with pytest.raises(ConfigError, match="the kernel cannot run this decoder"):
        SourceEngine(model, joined)
    with pytest.raises(ConfigError, match="there is no precision 'int4'"):
        SourceEngine(make_model(), joined, "int4")
