"""A translation model as CTranslate2 reads it: model.bin, config.json, a vocabulary, and our tokenizer.json beside them.

Norms, positions, scaled embeddings, and queries to the source that are normalized before they are split into heads, are what we compute too.

Source: https://opennmt.net/CTranslate2/conversion.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regard.export.files import TOKENIZER, needed, prepare
from regard.export.weights import EPSILON, ROTARY_BASE, Weights

FILES = ("model.bin", "config.json", "shared_vocabulary.json", TOKENIZER)


def write(predictor: Any, folder: Path) -> list[Path]:
    """Write the folder that `ctranslate2.Translator` loads; sources are given to it as pieces, without an end.

    Raises:
        ConfigError: ctranslate2 is not installed, the folder holds other files, or the model cannot be expressed.
    """
    specs = needed("ctranslate2.specs", "ctranslate2")
    weights, tokenizer = Weights(predictor.model), predictor.task.tokenizer
    spec = _spec(specs, weights)
    weights.finish()
    pieces = tokenizer.pieces(range(len(tokenizer)))
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = EPSILON
    spec.validate()
    spec.optimize()  # source, target and output share one table
    prepare(folder, FILES)
    spec.save(str(folder))
    tokenizer.save(folder / TOKENIZER)
    return [folder / name for name in FILES]


def _spec(specs: Any, weights: Weights) -> Any:
    shape = weights.shape
    options = {
        "pre_norm": True,
        "rms_norm": True,
        "ffn_glu": True,
        "activation": specs.common_spec.Activation.SWISH,
        "rotary_dim": weights.head_dim,
        "rotary_interleave": True,
        "rotary_base": ROTARY_BASE,
        "qk_norm": shape.qk_norm,
    }
    encoder = specs.transformer_spec.TransformerEncoderSpec(shape.encoder_layers, shape.heads, **options)
    decoder = specs.transformer_spec.TransformerDecoderSpec(shape.decoder_layers, shape.heads, **options)
    del encoder.position_encodings  # positions are rotary
    for number, layer in enumerate(encoder.layer):
        _block(layer, weights, f"encoder.blocks.{number}")
    for number, layer in enumerate(decoder.layer):
        _block(layer, weights, f"decoder.blocks.{number}")
        _context_attention(layer.attention, weights, f"decoder.blocks.{number}.context_attention")
    table = weights.take("embedding.weight", shape.vocabulary, shape.dim)
    encoder.embeddings[0].weight = decoder.embeddings.weight = decoder.projection.weight = table
    _gain(encoder.layer_norm, shape.dim)
    _gain(decoder.layer_norm, shape.dim)
    return specs.transformer_spec.TransformerSpec(encoder, decoder)


def _block(layer: Any, weights: Weights, name: str) -> None:
    dim, hidden, head_dim = weights.shape.dim, weights.shape.hidden, weights.head_dim
    attention = layer.self_attention
    _gain(attention.layer_norm, dim)
    attention.linear[0].weight = weights.take(f"{name}.attention.query_key_value.weight", 3 * dim, dim)
    attention.linear[1].weight = weights.take(f"{name}.attention.output.weight", dim, dim)
    if weights.shape.qk_norm:
        _gain(attention.q_norm, head_dim)
        _gain(attention.k_norm, head_dim)
    _gain(layer.ffn.layer_norm, dim)
    gate, up = np.split(weights.take(f"{name}.feed_forward.gate_up.weight", 2 * hidden, dim), 2)
    layer.ffn.linear_0.weight, layer.ffn.linear_0_noact.weight = gate, up
    layer.ffn.linear_1.weight = weights.take(f"{name}.feed_forward.down.weight", dim, hidden)


def _context_attention(attention: Any, weights: Weights, name: str) -> None:
    dim = weights.shape.dim
    _gain(attention.layer_norm, dim)
    attention.linear[0].weight = weights.take(f"{name}.query.weight", dim, dim)
    attention.linear[1].weight = weights.take(f"{name}.key_value.weight", 2 * dim, dim)
    attention.linear[2].weight = weights.take(f"{name}.output.weight", dim, dim)
    if weights.shape.qk_norm:
        _gain(attention.q_norm, dim)  # over all heads: they are split after it
        _gain(attention.k_norm, weights.head_dim)


def _gain(norm: Any, size: int) -> None:
    norm.gamma = np.ones(size, np.float32)
