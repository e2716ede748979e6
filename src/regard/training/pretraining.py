"""Self-pretraining: before the task itself the encoder learns to restore tokens of the task's own texts that are hidden.

A task may make whole examples of these texts instead; then the same model learns them by the task's own loss.

Sources: Devlin et al. 2019, "BERT"; Joshi et al. 2020, "SpanBERT" (spans); Krishna et al. 2023, "Downstream Datasets Make
Surprisingly Good Pretraining Corpora".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._packed import Packed
from regard.data.permutation import derived, uniform
from regard.data.records import Record
from regard.data.store import TokenStore
from regard.nn.encoder import TextEncoder
from regard.nn.loss import vocabulary_loss
from regard.training.phases import Rehearsal, batches_of, packed
from regard.training.recipe import Recipe
from regard.training.task import Task

HIDDEN = 0.2  # share of the tokens
SPANS = (0.35, 0.65, 0.85, 1.0)  # how many of the spans have at most 1, 2, 3 and 4 tokens
FIELD = "text"
STARTS, LENGTHS = range(2)  # purposes of random numbers
PLACE = 1 << 24  # beyond the longest example


@dataclass(frozen=True)
class Masked:
    """Texts with hidden tokens: what the encoder reads, where it is asked, and what stood there."""

    tokens: Packed
    places: Tensor
    targets: Tensor


class Pretraining:
    """The phase of a model whose encoder alone is pretrained: the encoder's states at hidden places predict what was hidden, by the tied embedding.

    Which tokens are hidden is a function of the recipe's seed, the step and the example. The unknown token stands for what is
    hidden; marks of begin and end are not.
    """

    learns = "restores hidden pieces of"

    def __init__(self, task: Task, model: nn.Module, recipe: Recipe, store: TokenStore) -> None:
        self.encode, self.parts, self.embedding = reader(model)
        self.seed, self.store = recipe.seed, store
        self.unknown, self.marks = task.tokenizer.unk, (task.tokenizer.bos, task.tokenizer.eos)
        self.batches = batches_of(store.lengths, recipe)

    def parameters(self) -> Iterable[nn.Parameter]:
        return itertools.chain.from_iterable(part.parameters() for part in self.parts)

    def batch(self, indices: np.ndarray, step: int) -> Masked:
        texts = packed(self.store.gather(indices)[FIELD])
        hidden = hidden_places(texts.lengths, indices, derived(self.seed, step))
        hidden &= ~np.isin(texts.values.numpy(), self.marks)
        places = torch.from_numpy(np.flatnonzero(hidden))
        values = texts.values.clone()
        values[places] = self.unknown
        return Masked(texts.with_values(values), places, texts.values[places])

    def loss(self, batch: Masked, progress: float) -> Tensor:
        states = self.encode(batch.tokens).values[batch.places]
        return vocabulary_loss(states, self.embedding.weight, batch.targets)

    def counted(self, batch: Masked) -> int:
        return len(batch.targets)

    def tokens(self, batch: Masked) -> int:
        return len(batch.tokens.values)

    def size(self) -> tuple[int, int]:
        """How many texts there are, and how many tokens they have."""
        return len(self.store), int(self.store.lengths.sum(dtype=np.int64))


def reader(model: nn.Module) -> tuple[Callable[[Packed], Packed], list[nn.Module], nn.Embedding]:
    """How a model's encoder reads token ids, of which modules it is made, and its embedding.

    The encoder is a `TextEncoder` under the name `encoder`, or the model has `encode` and an `embedding` of its own.

    Raises:
        ConfigError: the model has no such encoder.
    """
    encoder: Any = getattr(model, "encoder", None)
    if isinstance(encoder, TextEncoder):
        return encoder, [encoder], encoder.embedding
    embedding, encode = getattr(model, "embedding", None), getattr(model, "encode", None)
    if isinstance(encoder, nn.Module) and isinstance(embedding, nn.Embedding) and callable(encode):
        return encode, [embedding, encoder], embedding
    raise ConfigError(
        f"pretrain needs an encoder over pieces that is trained from nothing. {type(model).__name__} has none. Leave pretrain and "
        "unlabelled out."
    )


def before(task: Task, model: nn.Module, recipe: Recipe, store: TokenStore) -> Pretraining | Rehearsal:
    """The phase that comes before the task itself."""
    return (Rehearsal if hasattr(task, "rehearsals") else Pretraining)(task, model, recipe, store)


def streams_of(task: Task) -> tuple[str, ...]:
    """The fields of what `texts_of` gives."""
    return task.streams if hasattr(task, "rehearsals") else (FIELD,)


def texts_of(
    task: Task, model: nn.Module, records: Iterable[Record], recipe: Recipe
) -> Iterator[tuple[Sequence[int], ...]]:
    """What the encoder reads of the training records, and then of the recipe's unlabelled texts; or what the task makes of them.

    Raises:
        ConfigError: the task reads no texts or can make no example of them, or its model has no encoder to pretrain.
    """
    if hasattr(task, "rehearsals"):
        made = iter(task.rehearsals(itertools.chain(records, unlabelled(task, recipe))))
        if (first := next(made, None)) is None:
            raise ConfigError(
                f"pretrain needs examples that the task {task.name} makes of texts, and of these it could make none. Set pretrain to 0."
            )
        return itertools.chain([first], made)
    reader(model)
    readings = getattr(task, "readings", None)
    if readings is None:
        raise ConfigError(f"the task {task.name} has no texts to pretrain on. Leave pretrain out.")
    return ((ids,) for ids in readings(itertools.chain(records, unlabelled(task, recipe))))


def unlabelled(task: Task, recipe: Recipe) -> Iterator[Record]:
    """The recipe's unlabelled records, checked: what predictions are made of, without answers, or what the task calls so."""
    if recipe.unlabelled is None:
        return iter(())
    if hasattr(task, "unlabelled"):
        found: Iterator[Record] = task.unlabelled(recipe.unlabelled, recipe.max_characters)
        return found
    return task.read(recipe.unlabelled, recipe.max_characters, answers=False)


def hidden_places(lengths: np.ndarray, examples: np.ndarray, key: int) -> np.ndarray:
    """(total,): which tokens of texts of these lengths are hidden, in spans of 1 to 4 that do not leave their text.

    About a fifth; every text has its own numbers, whatever others stand beside it.

    >>> hidden_places(np.array([6, 6]), np.array([0, 1]), key=1).shape
    (12,)
    """
    ends = np.cumsum(lengths)
    places = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    numbers = np.repeat(examples.astype(np.int64), lengths) * PLACE + places
    mean = sum(1 - share for share in (0.0, *SPANS[:-1]))
    begins = uniform(derived(key, STARTS), numbers) < 1 - (1 - HIDDEN) ** (1 / mean)
    sizes = np.searchsorted(SPANS, uniform(derived(key, LENGTHS), numbers), side="right")
    hidden = begins.copy()
    for reach in range(1, len(SPANS)):
        reached = np.zeros_like(hidden)
        reached[reach:] = (begins & (sizes >= reach))[:-reach]
        hidden |= reached & (places >= reach)
    return hidden
