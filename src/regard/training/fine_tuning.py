"""Beginning with a pretrained encoder: `init`, layer-wise learning rates and frozen layers of a recipe.

A run folder keeps the encoder's `config.json`, so that it can be loaded wherever the pretrained folder is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from regard._errors import ConfigError
from regard.data.pretrained import load_encoder, local_folder, transformer_folder
from regard.nn.pretrained import PretrainedEncoder, parameter_groups
from regard.nn.pretrained_shape import CONFIG, read_shape
from regard.training import checkpoints
from regard.training.options import refuse_options
from regard.training.presets import fine_tuning_rate
from regard.training.recipe import Recipe

ENCODER = "encoder"  # in the run folder
UPPER = 3  # layers in which texts that were read each for itself meet, at most half of all
SET_BY_FOLDER = (
    "vocabulary",
    "dim",
    "heads",
    "hidden",
    "encoder_layers",
)  # and what was meant to go with them


def located(recipe: Recipe) -> Recipe:
    """The recipe with `init` as the folder itself, which has been looked at: downloaded, and of an architecture that is known.

    Raises:
        CheckpointError: there is no such folder, or its config.json is missing or damaged.
        ConfigError: an architecture that cannot be used, or more frozen layers than it has.
    """
    if recipe.init is None:
        return recipe
    folder = transformer_folder(local_folder(recipe.init)).resolve()
    layers = read_shape(folder).layers
    if (recipe.frozen_layers or 0) > layers:
        raise ConfigError(
            f"{recipe.init} has {layers} layers. Expected: at most as many frozen_layers. Received: {recipe.frozen_layers}."
        )
    return recipe.replace(init=str(folder))


def width(recipe: Recipe) -> int | None:
    """That of the recipe's pretrained encoder, where there is one."""
    return None if recipe.init is None else read_shape(Path(recipe.init)).dim


def sizes_beside(recipe: Recipe, sizes: dict[str, Any]) -> dict[str, Any]:
    """A task's sizes without those that a pretrained encoder decides, whose upper layers are the blocks above it."""
    if recipe.init is None:
        return sizes
    kept = {name: size for name, size in sizes.items() if name not in SET_BY_FOLDER}
    if "decoder_layers" in kept:
        kept["decoder_layers"] = min(UPPER, read_shape(Path(recipe.init)).layers // 2)
        for name in ("dropout", "pretrain"):
            kept.pop(name, None)
    return kept


def refuse_beside(recipe: Recipe) -> None:
    """ConfigError where sizes are given for blocks whose place a pretrained encoder's upper layers take, or no layer is left below."""
    if recipe.init is None:
        return
    names = [name for name in ("heads", "hidden", "dropout") if getattr(recipe, name) is not None]
    refuse_options(
        recipe,
        names,
        "a pretrained encoder's upper layers have their own",
        "decoder_layers, how many they are",
    )
    layers = read_shape(Path(recipe.init)).layers
    if layers < 2:
        raise ConfigError(
            f"the pretrained encoder cannot be used. Expected: 2 layers at least, some below and some in which questions and "
            f"predicates are told. Received: {layers} in {recipe.init}. To mend it: take a larger encoder."
        )
    if recipe.decoder_layers is not None and recipe.decoder_layers >= layers:
        refuse_options(
            recipe, ["decoder_layers"], f"the pretrained encoder has {layers} layers", f"at most {layers - 1}"
        )


def pretrained_encoder(model: nn.Module) -> PretrainedEncoder | None:
    """The pretrained encoder inside a model, where there is one."""
    return next((module for module in model.modules() if isinstance(module, PretrainedEncoder)), None)


def check_place(model: nn.Module, recipe: Recipe) -> None:
    """ConfigError where the recipe names a pretrained encoder and the model does not read with one."""
    if recipe.init is not None and pretrained_encoder(model) is None:
        raise ConfigError(
            f"init {recipe.init} cannot be used: {type(model).__name__} has no place for a pretrained encoder. Leave it out."
        )


def fill_encoder(model: nn.Module, recipe: Recipe) -> None:
    """Give the model's encoder the weights that lie in the recipe's folder."""
    encoder = pretrained_encoder(model)
    if encoder is not None and recipe.init is not None:
        encoder.load_state_dict(load_encoder(recipe.init)[0].state_dict())


def keep_shape(recipe: Recipe, folder: Path) -> None:
    """Write the encoder's config.json into the run folder."""
    if recipe.init is not None:
        (folder / ENCODER).mkdir(exist_ok=True)
        text = (Path(recipe.init) / CONFIG).read_text(encoding="utf8")
        checkpoints.write_text(folder / ENCODER / CONFIG, text)


def kept(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a run with `init` as what its folder keeps of it."""
    return recipe if recipe.init is None else recipe.replace(init=str(folder / ENCODER))


def pretrained_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Freeze what the recipe says; groups of the encoder's other parameters with their learning rates, for `make_optimizers`."""
    encoder = pretrained_encoder(model)
    if encoder is None:
        return []
    encoder.freeze(recipe.frozen_layers)
    rate = recipe.init_learning_rate or fine_tuning_rate(encoder.shape.dim)
    return parameter_groups(encoder, rate, recipe.layer_decay)
