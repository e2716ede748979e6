"""The encoder and the vocabulary that a recipe asks for, the same for every reading task."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.data.tokenizer import Tokenizer
from regard.nn.encoder import TextEncoder
from regard.nn.pretrained_reader import PretrainedReader
from regard.nn.pretrained_shape import read_shape
from regard.training.fine_tuning import ENCODER
from regard.training.recipe import Recipe

TOKENIZER = "tokenizer.json"


def make_encoder(recipe: Recipe, tokenizer: Tokenizer, upper: int = 0) -> TextEncoder | PretrainedReader:
    """An encoder of the recipe's size over a vocabulary, or of the shape of the recipe's pretrained one, which leaves `upper` layers."""
    if recipe.init is not None and isinstance(tokenizer, PretrainedTokenizer):
        return PretrainedReader(read_shape(Path(recipe.init)), tokenizer.marks, upper)
    sizes = (recipe.dim or 128, recipe.heads or 4, recipe.hidden or 256, recipe.encoder_layers or 4)
    return TextEncoder(len(tokenizer), *sizes, dropout=recipe.dropout or 0.0, kind=recipe.encoder)


def upper_sizes(recipe: Recipe, encoder: Any) -> dict[str, int]:
    """Heads and hidden width of what reads an encoder's states; above a pretrained one they follow from its width."""
    if isinstance(encoder, PretrainedReader):
        return {"heads": recipe.heads or encoder.heads, "hidden": recipe.hidden or 2 * encoder.dim}
    return {"heads": recipe.heads or 4, "hidden": recipe.hidden or 256}


def learn_tokenizer(texts: Iterable[str], recipe: Recipe, **options: Any) -> Tokenizer:
    """A vocabulary learned from the texts, with options of `Tokenizer.train`, or the one of the recipe's pretrained encoder."""
    if recipe.init is not None:
        deque(texts, maxlen=0)  # a task may note what passes by
        return PretrainedTokenizer.load(recipe.init)
    return Tokenizer.train(texts, recipe.vocabulary or 4000, **({"lowercase": recipe.lowercase} | options))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The vocabulary in a run folder, of which `tokenizer.save(folder / "tokenizer.json")` wrote the file."""
    kind = PretrainedTokenizer if (folder / ENCODER).is_dir() else Tokenizer
    return kind.load(folder / TOKENIZER)
