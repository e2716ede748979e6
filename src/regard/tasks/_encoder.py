"""The encoder that a recipe asks for, the same for every reading task."""

from __future__ import annotations

from regard.nn.encoder import TextEncoder
from regard.training.recipe import Recipe


def make_encoder(recipe: Recipe, vocabulary: int) -> TextEncoder:
    """An encoder of the recipe's size over so many token ids."""
    sizes = (recipe.dim or 128, recipe.heads or 4, recipe.hidden or 256, recipe.encoder_layers or 4)
    return TextEncoder(vocabulary, *sizes, dropout=recipe.dropout or 0.0, kind=recipe.encoder)
