"""The encoder and the vocabulary that a recipe asks for, the same for every reading task."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.data.tokenizer import Tokenizer
from regard.nn.encoder import TextEncoder
from regard.nn.pretrained import PretrainedReader
from regard.nn.pretrained_shape import read_shape
from regard.training.fine_tuning import ENCODER
from regard.training.recipe import Recipe

TOKENIZER = "tokenizer.json"


def make_encoder(recipe: Recipe, vocabulary: int) -> TextEncoder | PretrainedReader:
    """An encoder of the recipe's size over so many token ids, or of the shape of the recipe's pretrained one."""
    if recipe.init is not None:
        return PretrainedReader(read_shape(Path(recipe.init)))
    sizes = (recipe.dim or 128, recipe.heads or 4, recipe.hidden or 256, recipe.encoder_layers or 4)
    return TextEncoder(vocabulary, *sizes, dropout=recipe.dropout or 0.0, kind=recipe.encoder)


def learn_tokenizer(texts: Iterable[str], recipe: Recipe) -> Tokenizer:
    """A vocabulary learned from the texts, or the one of the recipe's pretrained encoder."""
    if recipe.init is not None:
        return PretrainedTokenizer.load(recipe.init)
    return Tokenizer.train(texts, recipe.vocabulary or 4000, lowercase=recipe.lowercase)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The vocabulary in a run folder, of which `tokenizer.save(folder / "tokenizer.json")` wrote the file."""
    kind = PretrainedTokenizer if (folder / ENCODER).is_dir() else Tokenizer
    return kind.load(folder / TOKENIZER)
