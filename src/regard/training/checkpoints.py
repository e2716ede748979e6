"""The run folder: what a model needs to be used, and what a run needs to go on. Nothing in it is ever unpickled.

    model.safetensors   the weights to use
    config.toml         task, data and the resolved recipe
    tokenizer.json      the vocabulary
    metrics.jsonl       one line an event
    state/              for resuming: latest.json names the tensors that belong to it

Every file is written beside its place and then moved there, the one that names others last: a run that is killed at
any moment leaves a folder that loads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regard._errors import CheckpointError

MODEL, CONFIG, METRICS, STATE = "model.safetensors", "config.toml", "metrics.jsonl", "state"
LEARNED = (
    *("tokenizer.json", "labels.json", "reading.json", "classes.json"),
    *("captions.json", "words.json", "units.json"),
)
"""What tasks write beside the weights."""


def write_in_place(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that at every moment either the old or the new one stands at `path`, whole."""
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    # Some writers make files that only their owner may read; a model is as public as its folder.
    umask = os.umask(0)
    os.umask(umask)
    beside.chmod(0o666 & ~umask)
    beside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, as `write_in_place` does."""
    write_in_place(path, lambda beside: beside.write_text(text, encoding="utf8"))


def save_weights(folder: Path, model: nn.Module) -> None:
    """Write a model's parameters."""
    tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    write_in_place(folder / MODEL, lambda path: save_file(tensors, path))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Read a model's parameters; CheckpointError when they are missing, damaged or another model's."""
    tensors = read_tensors(folder / MODEL)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    received = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != received:
        differing = min(set(expected.items()) ^ set(received.items()))[0]
        raise CheckpointError(
            f"{folder / MODEL} belongs to another model: {differing!r} is {received.get(differing)} there, expected "
            f"{expected.get(differing)}. Use the config.toml that was written with it."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; expected the weights of a finished or interrupted run."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}). Restore it, or train again."
        ) from error


def save_state(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a run; `facts` is plain JSON with the number of the step under "step"."""
    state = folder / STATE
    state.mkdir(exist_ok=True)
    name = f"step-{facts['step']:08d}.safetensors"
    write_in_place(state / name, lambda path: save_file(tensors, path))
    write_text(state / "latest.json", json.dumps({**facts, "tensors": name}))
    for old in state.glob("*.safetensors*"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote last."""
    facts = _latest(folder)
    return read_tensors(folder / STATE / facts["tensors"]), facts


def saved_step(folder: Path) -> int:
    """The step whose state was saved last."""
    return int(_latest(folder)["step"])


def _latest(folder: Path) -> dict[str, Any]:
    path = folder / STATE / "latest.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        return {**facts, "tensors": str(facts["tensors"])}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist: the run saved no state to resume from. Train anew."
        ) from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Train anew, into another folder.") from error
