"""Folders of small random encoders as their publishers write them, and their hidden states in plain NumPy float64."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "dog",
    "##s",
    "who",
    "ran",
    "?",
    "cafe",
    "狗",
    "un",
    "##able",
    ".",
]
SIZES = {"vocab_size": len(WORDS), "max_position_embeddings": 20}
BERT = SIZES | {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}
CONFIGS = {
    "bert": BERT | {"model_type": "bert"},
    "roberta": BERT
    | {"model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": BERT | {"model_type": "xlm-roberta", "type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": SIZES
    | {
        "model_type": "distilbert",
        "dim": 12,
        "n_heads": 3,
        "n_layers": 2,
        "hidden_dim": 20,
        "activation": "gelu",
    }
    | {"dropout": 0.1, "attention_dropout": 0.1},
    "electra": BERT | {"model_type": "electra", "embedding_size": 8, "hidden_act": "gelu_new"},
}
PLACES = {"words": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings"}
TYPES, NORM, PROJECT = "embeddings.token_type_embeddings", "embeddings.LayerNorm", "embeddings_project"
LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "first": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "second": "output.LayerNorm",
}
DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "first": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "second": "output_layer_norm",
}


def layer_names(config: dict, number: int) -> dict[str, str]:
    """The modules of a layer by what they do."""
    names, stack = (DISTILBERT, "transformer") if config["model_type"] == "distilbert" else (LAYER, "encoder")
    return {part: f"{stack}.layer.{number}.{name}" for part, name in names.items()}


def sizes(config: dict) -> tuple[int, int, int, int]:
    """Width, heads, layers and hidden width."""
    if config["model_type"] == "distilbert":
        return config["dim"], config["n_heads"], config["n_layers"], config["hidden_dim"]
    return tuple(
        config[f"{key}"]
        for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    )


def random_tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """The float32 tensors of an encoder under their published names, without a prefix."""
    draw = np.random.default_rng(seed).normal
    dim, _, layers, hidden = sizes(config)
    width = config.get("embedding_size", dim)
    tensors = {
        f"{PLACES['words']}.weight": draw(size=(config["vocab_size"], width)),
        f"{PLACES['positions']}.weight": draw(size=(config["max_position_embeddings"], width)),
        f"{NORM}.weight": draw(1, 0.2, size=width),
        f"{NORM}.bias": draw(size=width),
    }
    if config["model_type"] != "distilbert":
        tensors[f"{TYPES}.weight"] = draw(size=(config["type_vocab_size"], width))
    if width != dim:
        tensors |= {f"{PROJECT}.weight": draw(0, 0.3, size=(dim, width)), f"{PROJECT}.bias": draw(size=dim)}
    shapes = dict.fromkeys(LAYER, (dim, dim)) | {"up": (hidden, dim), "down": (dim, hidden)}
    for number in range(layers):
        for part, name in layer_names(config, number).items():
            norm = part in ("first", "second")
            tensors[f"{name}.weight"] = draw(1, 0.2, size=dim) if norm else draw(0, 0.3, size=shapes[part])
            tensors[f"{name}.bias"] = draw(0, 0.3, size=shapes[part][0])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_folder(
    folder: Path, config: dict, tensors: dict[str, np.ndarray] | None = None, vocabulary: bool = True
) -> Path:
    """`config.json`, `model.safetensors` and `vocab.txt`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_tensors(config) if tensors is None else tensors, folder / "model.safetensors")
    if vocabulary:
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return folder


def hidden_states(config: dict, tensors: dict[str, np.ndarray], ids, types=None) -> list[np.ndarray]:
    """Embeddings and every layer's states of one sequence, by the formula of the papers."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    _, heads, layers, _ = sizes(config)
    eps = config.get("layer_norm_eps", 1e-12)
    start = config["pad_token_id"] + 1 if "roberta" in config["model_type"] else 0

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * t[f"{name}.weight"] + t[f"{name}.bias"]

    def attend(x, name):
        q, k, v = (linear(x, name[part]).reshape(len(x), heads, -1) for part in ("query", "key", "value"))
        scores = np.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return linear(np.einsum("hts,shd->thd", weights, v).reshape(len(x), -1), name["output"])

    gelu = _gelu if config.get("hidden_act", "gelu") == "gelu" else _gelu_tanh
    x = (
        t[f"{PLACES['words']}.weight"][list(ids)]
        + t[f"{PLACES['positions']}.weight"][start : start + len(ids)]
    )
    if f"{TYPES}.weight" in t:
        x = x + t[f"{TYPES}.weight"][list(types) if types is not None else [0] * len(ids)]
    x = norm(x, NORM)
    if f"{PROJECT}.weight" in t:
        x = linear(x, PROJECT)
    states = [x]
    for number in range(layers):
        name = layer_names(config, number)
        x = norm(x + attend(x, name), name["first"])
        x = norm(x + linear(gelu(linear(x, name["up"])), name["down"]), name["second"])
        states.append(x)
    return states


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
