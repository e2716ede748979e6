"""A pretrained encoder and its vocabulary, from a folder or from the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from regard._errors import CheckpointError
from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.nn.pretrained import PretrainedEncoder

MODULES = "modules.json"
# Rows of the embedding table that no piece has: tables are rounded up, or keep room for marks of their own.
SPARE = 128
FILES = ["*.json", "*.txt", "*model.safetensors"]  # also in folders of sentence-transformers


def load_encoder(folder: str | Path) -> tuple[PretrainedEncoder, PretrainedTokenizer]:
    """The encoder and the tokenizer in a folder of the BERT family; nothing in it is unpickled or run.

    Arguments:
        folder: a folder with `config.json`, `model.safetensors` and `tokenizer.json` or `vocab.txt`, also in the layout of
            sentence-transformers; or the name of a model on the Hugging Face hub, which is downloaded.

    Returns:
        A `PretrainedEncoder`, ready to be used, and a `PretrainedTokenizer`.

    Raises:
        CheckpointError: a file is missing, pickled or damaged, does not fit the others, or cannot be downloaded.
        ConfigError: an architecture, key or value of `config.json` that cannot be used.
    """
    folder = transformer_folder(local_folder(folder))
    encoder, tokenizer = PretrainedEncoder.load(folder), PretrainedTokenizer.load(folder)
    rows = encoder.shape.vocabulary
    if not rows - SPARE < len(tokenizer) <= rows:
        raise CheckpointError(
            f"{folder}: vocabulary and weights belong to different models. Expected: a vocabulary of {rows} pieces, as config.json "
            f"says, or up to {SPARE - 1} fewer. Received: {len(tokenizer)}. To mend it: copy vocabulary and weights from one folder."
        )
    return encoder, tokenizer


def local_folder(folder: str | Path) -> Path:
    """The folder itself, or where the hub's model of that name was downloaded to."""
    if Path(folder).is_dir():
        return Path(folder)
    name = str(folder)
    if Path(folder).exists() or not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", name):
        raise CheckpointError(
            f"{name} is no folder. Expected: a folder of a pretrained encoder, or a model's name on the hub as owner/name. "
            "To mend it: look at the path."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{name} is no folder, and to look for it on the hub a package is missing. Expected: a folder, or huggingface-hub. "
            "To mend it: look at the path, or run: pip install 'regard[hub]'."
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # its own errors, those of the network beneath, and those of the disk
        raise CheckpointError(
            f"{name} is no folder, and the hub did not give a model of that name ({type(error).__name__}: {error}). Expected: a "
            "folder, or a network. To mend it: look at the path, or download the model elsewhere and name its folder."
        ) from error


def transformer_folder(folder: Path) -> Path:
    """Where the encoder lies in a folder of sentence-transformers; elsewhere the folder itself."""
    modules = read_modules(folder)
    return folder / modules[0][1] if modules else folder


def read_modules(folder: Path) -> list[tuple[str, str]]:
    """Kind and sub-folder of each step that `modules.json` names; none where there is no such file."""
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        modules: Any = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}). Expected: a JSON list of modules with type and path. To mend it: copy the file again."
        ) from error
    if not found or found[0][0] != "Transformer":
        raise CheckpointError(
            f"{path} does not begin with an encoder. Expected: Transformer first. Received: "
            f"{', '.join(kind for kind, _ in found) or 'no modules'}. To mend it: choose a model that encodes text."
        )
    return found
