"""A recipe's open options, filled from the size of the data, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass

from regard.training.recipe import Recipe


@dataclass(frozen=True)
class Facts:
    """What the size of the data is."""

    examples: int
    characters: int


@dataclass(frozen=True)
class Choice:
    """An option that was filled in."""

    option: str
    value: float
    reason: str


def fill(recipe: Recipe, facts: Facts) -> tuple[Recipe, list[Choice]]:
    """The recipe with nothing left open, and what was chosen."""
    choices = []
    if recipe.minutes is None and recipe.steps is None:
        choices.append(Choice("minutes", 20.0, "the default budget"))
    for option, value in _size(facts).items():
        if getattr(recipe, option) is None:
            choices.append(Choice(option, value, f"for {facts.examples:,} examples"))
    return recipe.replace(**{choice.option: choice.value for choice in choices}), choices


def _size(facts: Facts) -> dict[str, float]:
    if facts.examples < 5_000:
        return _preset(vocabulary=2000, dim=96, heads=3, hidden=192, layers=(2, 2), dropout=0.3, tokens=1024)
    if facts.examples < 100_000:
        return _preset(vocabulary=4000, dim=128, heads=4, hidden=256, layers=(4, 2), dropout=0.1, tokens=2048)
    return _preset(vocabulary=8000, dim=256, heads=8, hidden=768, layers=(6, 3), dropout=0.1, tokens=4096)


def _preset(
    *,
    vocabulary: int,
    dim: int,
    heads: int,
    hidden: int,
    layers: tuple[int, int],
    dropout: float,
    tokens: int,
) -> dict[str, float]:
    encoder, decoder = layers
    sizes = {
        "vocabulary": vocabulary,
        "dim": dim,
        "heads": heads,
        "hidden": hidden,
        "encoder_layers": encoder,
    }
    return {**sizes, "decoder_layers": decoder, "dropout": dropout, "tokens": tokens}
