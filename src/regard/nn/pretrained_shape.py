"""The sizes of a pretrained encoder, and how they are read from the `config.json` of a BERT, RoBERTa, DistilBERT or ELECTRA folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regard._errors import CheckpointError, ConfigError, nearest

CONFIG = "config.json"

# Where an architecture keeps what others keep under the names of BERT.
BERT = {
    "vocabulary": "vocab_size",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "hidden": "intermediate_size",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
DISTILBERT = BERT | {
    "dim": "dim",
    "heads": "n_heads",
    "layers": "n_layers",
    "hidden": "hidden_dim",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
ARCHITECTURES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "distilbert": DISTILBERT,
    "electra": BERT,
}
# These count positions from the one behind the padding token's id.
COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")
GELU: dict[str, Literal["none", "tanh"]] = {
    "gelu": "none",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
# Settings under which an encoder computes something else; each is fine where it is missing or has this value.
PLAIN = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


@dataclass(frozen=True)
class PretrainedShape:
    """Sizes and settings of a `PretrainedEncoder`.

    Arguments:
        architecture: "bert", "roberta", "xlm-roberta", "camembert", "distilbert" or "electra".
        vocabulary: rows of the embedding table.
        dim: width of the tokens.
        heads: attention heads of each layer.
        layers: number of layers.
        hidden: width of each feed-forward.
        positions: rows of the position table.
        first_position: the row of a sequence's first token.
        token_types: rows of the table of token types; 0: none.
        embedding_dim: width of the tables, behind which a projection follows (ELECTRA); 0: `dim`, without one.
        approximate: "none" for the exact GELU, "tanh" for its approximation.
        eps: added to variances by the layer norms.
        dropout: share dropped behind embeddings, attention and feed-forward in training.
        attention_dropout: share of attention weights dropped in training.

    >>> regard.nn.PretrainedShape(vocabulary=30522, dim=384, heads=12, layers=6, hidden=1536).longest
    512
    """

    vocabulary: int
    dim: int
    heads: int
    layers: int
    hidden: int
    architecture: str = "bert"
    positions: int = 512
    first_position: int = 0
    token_types: int = 2
    embedding_dim: int = 0
    approximate: Literal["none", "tanh"] = "none"
    eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.positions - self.first_position


def read_shape(folder: Path) -> PretrainedShape:
    """The sizes in a folder's `config.json`.

    Raises:
        CheckpointError: the file is missing or no JSON.
        ConfigError: the architecture is another, or a key is missing, out of range, or asks for something else.
    """
    path = folder / CONFIG
    config = read_json(path)
    architecture = _taken(config, "model_type", path)
    keys = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if keys is None:
        raise ConfigError(
            f"{path}: no encoder of this kind can be loaded. Expected: model_type one of {', '.join(ARCHITECTURES)}. "
            f"Received: {architecture!r}{nearest(str(architecture), ARCHITECTURES)}. To mend it: choose a model of the BERT family."
        )
    for key, plain in PLAIN.items():
        if config.get(key, plain) not in (plain, None):
            raise _refused(path, key, repr(plain), config[key])
    sizes = {
        name: _whole(_taken(config, keys[name], path), keys[name], path)
        for name in ("vocabulary", "dim", "heads", "layers", "hidden", "positions")
    }
    if sizes["dim"] % sizes["heads"]:
        raise _refused(path, keys["heads"], f"a divisor of {keys['dim']}={sizes['dim']}", sizes["heads"])
    activation = _taken(config, keys["activation"], path)
    if not isinstance(activation, str) or activation not in GELU:
        raise _refused(path, keys["activation"], f"one of {', '.join(GELU)}", activation)
    padding = config.get("pad_token_id", 1) if architecture in COUNTED_FROM_PADDING else -1
    width = _taken(config, "embedding_size", path) if architecture == "electra" else 0
    bare = architecture == "distilbert"  # it has no token types, and one eps for all
    types = 0 if bare else config.get("type_vocab_size", 2)
    return PretrainedShape(
        **sizes,
        architecture=architecture,
        first_position=_whole(padding, "pad_token_id", path, least=-1) + 1,
        token_types=_whole(types, "type_vocab_size", path, least=0),
        embedding_dim=_whole(width, "embedding_size", path, least=0),
        approximate=GELU[activation],
        eps=1e-12 if bare else _share(config, "layer_norm_eps", 1e-12, path),
        dropout=_share(config, keys["dropout"], 0.1, path),
        attention_dropout=_share(config, keys["attention_dropout"], 0.1, path),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError where it is missing or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist. Expected: a folder with model.safetensors, config.json and tokenizer.json or vocab.txt. "
            "To mend it: name such a folder, or copy the file into it."
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Expected: JSON. To mend it: copy the file again."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path} is damaged. Expected: a JSON object. Received: {type(found).__name__}. To mend it: copy the file again."
        )
    return found


def _taken(config: dict[str, Any], key: str, path: Path) -> Any:
    if key not in config:
        raise ConfigError(
            f"{path}: the key {key!r} is missing. Expected: the config.json that was published with the weights. "
            f"Received the keys {', '.join(sorted(config)) or 'none'}. To mend it: add {key!r} as the model's card states it."
        )
    return config[key]


def _whole(value: Any, key: str, path: Path, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise _refused(path, key, f"an integer of at least {least}", value)
    return value


def _share(config: dict[str, Any], key: str, default: float, path: Path) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise _refused(path, key, "a number of at least 0 and below 1", value)
    return float(value)


def _refused(path: Path, key: str, expected: str, received: Any) -> ConfigError:
    return ConfigError(
        f"{path}: {key!r} cannot be used. Expected: {expected}. Received: {received!r}. "
        "To mend it: choose another model, or the config.json that was published with this one."
    )
