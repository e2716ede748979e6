"""The models of transformers: their small shapes from scratch, or a pretrained encoder with a new head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from reading_peers.vocabulary import Vocabulary

READERS = ("bert", "modernbert")
WRITERS = ("mbart", "bart", "t5")
HEADS = {"roles": "AutoModelForTokenClassification", "answer": "AutoModelForQuestionAnswering"}


@dataclass(frozen=True)
class Sizes:
    """What a model is built of; those of our preset for the same data."""

    dim: int
    heads: int
    hidden: int
    layers: int
    decoder_layers: int
    dropout: float

    def with_dropout(self, dropout: float) -> Sizes:
        """The same with another share of dropped entries."""
        return replace(self, dropout=dropout)


def reader(
    task: str,
    architecture: str,
    sizes: Sizes,
    vocabulary: Vocabulary,
    longest: int,
    init: Path | None,
    **config: Any,
) -> Any:
    """A model that labels tokens or finds spans; `longest` is its number of positions, `config` what its head needs."""
    auto = getattr(transformers, HEADS[task])
    if init is not None:
        model = auto.from_pretrained(init, attn_implementation="sdpa", **config)
        if model.config.vocab_size < vocabulary.size:
            model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
        return model
    shared = {
        "vocab_size": vocabulary.size, "hidden_size": sizes.dim, "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers, "intermediate_size": sizes.hidden, "max_position_embeddings": longest,
        "pad_token_id": vocabulary.pad, "initializer_range": sizes.dim**-0.5, **config,
    }  # fmt: skip
    if architecture == "bert":
        # Dropout inside attention would leave SDPA's fast path.
        dropout = {"hidden_dropout_prob": sizes.dropout, "attention_probs_dropout_prob": 0.0}
        made: Any = transformers.BertConfig(**shared, **dropout)
    else:
        # Gated feed-forward as ours. Every layer sees all tokens: there are few layers, and texts are short.
        dropout = {
            "embedding_dropout": sizes.dropout,
            "mlp_dropout": sizes.dropout,
            "classifier_dropout": sizes.dropout,
        }
        made = transformers.ModernBertConfig(
            **shared, **dropout, bos_token_id=vocabulary.begin, eos_token_id=vocabulary.end,
            cls_token_id=vocabulary.begin, sep_token_id=vocabulary.end,
            layer_types=["full_attention"] * sizes.layers,
        )  # fmt: skip
    return auto.from_config(made, attn_implementation="sdpa")


def writer(architecture: str, sizes: Sizes, vocabulary: Vocabulary, longest: int) -> Any:
    """An encoder-decoder; `longest` is its number of positions."""
    shared = {"vocab_size": vocabulary.size, "pad_token_id": vocabulary.pad, "eos_token_id": vocabulary.end}
    if architecture == "t5":
        # Version 1.1's gated feed-forward; relative positions, norms before.
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                **shared, d_model=sizes.dim, d_kv=sizes.dim // sizes.heads, d_ff=sizes.hidden, num_heads=sizes.heads,
                num_layers=sizes.layers, num_decoder_layers=sizes.decoder_layers, dropout_rate=sizes.dropout,
                feed_forward_proj="gated-gelu", tie_word_embeddings=True, decoder_start_token_id=vocabulary.pad,
            )
        )  # fmt: skip
    kind = {"mbart": "MBart", "bart": "Bart"}[architecture]
    config = getattr(transformers, f"{kind}Config")(
        **shared, d_model=sizes.dim, encoder_layers=sizes.layers, decoder_layers=sizes.decoder_layers,
        encoder_attention_heads=sizes.heads, decoder_attention_heads=sizes.heads,
        encoder_ffn_dim=sizes.hidden, decoder_ffn_dim=sizes.hidden, dropout=sizes.dropout,
        attention_dropout=0.0, activation_dropout=0.0, init_std=sizes.dim**-0.5, scale_embedding=True,
        max_position_embeddings=longest, decoder_start_token_id=vocabulary.end,
        # An end that is forced costs nothing, and would win over honest ones.
        bos_token_id=None, forced_eos_token_id=None, forced_bos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config)
