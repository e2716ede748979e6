"""The weights of a pretrained encoder: the names that the BERT family gives its tensors, and how they are read, checked and joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regard._errors import CheckpointError

MODEL, PICKLED, PARTS = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
ANCHOR = "embeddings.word_embeddings.weight"  # what stands before it stands before every name

EMBEDDINGS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "project": "embeddings_project",
}
# The three projections of attention are one here.
BERT = {
    "attention.query_key_value": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "feed_forward_norm": ("output.LayerNorm",),
}
DISTILBERT = {
    "attention.query_key_value": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.output": ("attention.out_lin",),
    "attention_norm": ("sa_layer_norm",),
    "up": ("ffn.lin1",),
    "down": ("ffn.lin2",),
    "feed_forward_norm": ("output_layer_norm",),
}
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


def read_weights(folder: Path, architecture: str, places: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `folder` in float32, for the parameters `places` of an encoder, of which only names and shapes are read.

    Raises:
        CheckpointError: the file is missing, pickled or damaged; a tensor is missing, left over, of another shape or type.
    """
    path = _file(folder)
    try:
        with safe_open(path, framework="pt") as file:
            stored = _stored_names(path, list(file.keys()))
            wanted = {name: _sources(name, architecture) for name in places}
            _check_left_over(path, stored, {source for sources in wanted.values() for source in sources})
            return {
                name: torch.cat(
                    [_read(file, path, stored, source, tensor, len(wanted[name])) for source in wanted[name]]
                )
                for name, tensor in places.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}). Expected: a whole safetensors file. To mend it: copy or download it again."
        ) from error


def _file(folder: Path) -> Path:
    path = folder / MODEL
    if path.is_file():
        return path
    if (folder / PARTS).is_file():
        received, remedy = f"{PARTS}, weights in several files", f"save the model anew in one {MODEL}"
    elif (folder / PICKLED).is_file():
        received = f"{PICKLED}, which is pickled: to read it may run a stranger's code, so it is not read"
        remedy = (
            f"take {MODEL} from a newer revision of the model, or write it from a file that you trust with "
            "`transformers`: AutoModel.from_pretrained(folder).save_pretrained(folder)"
        )
    else:
        received, remedy = "no weights at all", "name the folder that holds the weights"
    raise CheckpointError(
        f"{folder} holds no {MODEL}. Expected: the weights as safetensors. Received: {received}. To mend it: {remedy}."
    )


def _stored_names(path: Path, names: list[str]) -> dict[str, str]:
    """The names in the file by the bare names of today, without what a head's class puts before them."""
    before = [name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR)]
    if len(before) != 1:
        raise CheckpointError(
            f"{path} holds {len(before)} encoders of the BERT family. Expected: one tensor {ANCHOR!r}, with or without a prefix. "
            f"Received: {', '.join(sorted(names)[:5]) or 'no tensors'}. To mend it: name the folder of an encoder."
        )
    bare = {}
    for name in names:
        if name.startswith(before[0]):
            key = name.removeprefix(before[0])
            for old, new in OLD_NAMES.items():
                key = key.removesuffix(old) + new if key.endswith(old) else key
            bare[key] = name
    return bare


def _sources(name: str, architecture: str) -> tuple[str, ...]:
    """The tensors of the file that make up a parameter."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return (f"{EMBEDDINGS[module]}.{kind}",)
    _, number, inside = module.split(".", 2)
    stack, table = ("transformer", DISTILBERT) if architecture == "distilbert" else ("encoder", BERT)
    return tuple(f"{stack}.layer.{number}.{source}.{kind}" for source in table[inside])


def _check_left_over(path: Path, stored: dict[str, str], wanted: set[str]) -> None:
    """Weights of the encoder itself that `config.json` knows nothing of: another number of layers, or another formula."""
    inside = ("embeddings.", "embeddings_project.", "encoder.", "transformer.")
    for key in sorted(stored):
        if key.startswith(inside) and key not in wanted and not key.endswith("position_ids"):
            raise CheckpointError(
                f"{path}: the tensor {stored[key]!r} has no place in the encoder that config.json describes. Expected: the layers "
                "and tables that it names. Received: one more. To mend it: use the config.json that was published with the weights."
            )


def _read(file: Any, path: Path, stored: dict[str, str], source: str, whole: Tensor, count: int) -> Tensor:
    expected = (whole.shape[0] // count, *whole.shape[1:])
    if source not in stored:
        raise CheckpointError(
            f"{path}: the tensor {source!r} is missing. Expected: shape {expected}, by config.json. Received: none of that name. "
            "To mend it: copy the file again, or use the config.json that was published with it."
        )
    received = tuple(file.get_slice(stored[source]).get_shape())
    if received != expected:
        raise CheckpointError(
            f"{path}: the tensor {stored[source]!r} does not fit. Expected: shape {expected}, by config.json. "
            f"Received: {received}. To mend it: use the config.json that was published with the weights."
        )
    tensor: Tensor = file.get_tensor(stored[source])
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{path}: the tensor {stored[source]!r} cannot be used. Expected: floating-point numbers. Received: {tensor.dtype}. "
            "To mend it: take the weights that are not quantized."
        )
    return tensor.float()
