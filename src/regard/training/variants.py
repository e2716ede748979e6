"""Several encodings of every example by byte-pair dropout, written one set after the other into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from regard._errors import ConfigError
from regard.data.dropping import DroppingTokenizer
from regard.data.records import Record
from regard.data.store import TokenStore
from regard.training.recipe import Recipe
from regard.training.task import Task


def encodings(
    task: Task, records: Callable[[], Iterable[Record]], recipe: Recipe
) -> Iterator[tuple[Sequence[int], ...]]:
    """What the store holds: all records encoded, `recipe.variants` times over where pieces are dropped.

    The task's tokenizer gives way to one that drops until everything is encoded; dev records and predictions have the task's own.

    Raises:
        ConfigError: the task has no byte-pair vocabulary; at once, before anything is encoded.
    """
    if not recipe.bpe_dropout:
        return iter(task.encode(records()))
    plain = getattr(task, "tokenizer", None)
    if plain is None:
        raise ConfigError(
            f"the task {task.name} has no pieces that could be cut otherwise. Leave bpe_dropout out."
        )
    return _dropped(task, records, recipe.variants, DroppingTokenizer(plain, recipe.bpe_dropout, recipe.seed))


def _dropped(
    task: Task, records: Callable[[], Iterable[Record]], variants: int, dropping: DroppingTokenizer
) -> Iterator[tuple[Sequence[int], ...]]:
    plain = task.tokenizer
    task.tokenizer = dropping
    try:
        for dropping.variant in range(variants):
            yield from task.encode(records())
    finally:
        task.tokenizer = plain


def variants_of(store: TokenStore, recipe: Recipe) -> int:
    """How many encodings of each example a store holds.

    A task may make more examples of a record that is cut into more pieces; then the rows of a store are each for themselves.
    """
    several = recipe.bpe_dropout > 0 and len(store) % recipe.variants == 0
    return recipe.variants if several else 1
