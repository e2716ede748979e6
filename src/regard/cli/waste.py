"""`regard waste`: what padding would cost on the lengths of a file, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from regard._errors import ConfigError
from regard.cli._output import give, give_json
from regard.metrics.words import CHARACTER

if TYPE_CHECKING:
    from regard.data.waste import Waste

Unit = Literal["words", "characters"]
Several = Parameter(consume_multiple=True)


def _words(text: str) -> int:
    return len(CHARACTER.sub(r" \g<0> ", text).split())


COUNTERS: dict[str, Callable[[str], int]] = {"words": _words, "characters": len}
TOKENS = (1024, 4096)
SENTENCES = (64,)


def waste(
    file: str,
    /,
    *,
    field: Annotated[tuple[str, ...] | None, Several] = None,
    run: Path | None = None,
    unit: Unit = "words",
    tokens: Annotated[tuple[int, ...] | None, Several] = None,
    sentences: Annotated[tuple[int, ...] | None, Several] = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Say what padding would cost on a file, by how batches are formed.

    Args:
        file: The examples: .jsonl, .csv, .tsv (or with .gz), two text files "a.en,a.de", or one text file with one --field.
        field: The fields that a model reads, the one it writes last. Default: source target.
        run: Count pieces of this run's tokenizer, ends included, in the fields of its task.
        unit: Without --run, what is counted: words, each Chinese character and kana being one, or characters. Default: words.
        tokens: Batch sizes: the most tokens of a field in a batch, padding included. Default: 1024 4096.
        sentences: Batch sizes in examples. Default: 64.
        seed: Decides the random order. Default: 0.
        json: One JSON object.
    """
    from regard.data import waste as room

    names, counted, lengths = _counted(file, field, run, unit)
    if tokens is None and sentences is None:
        tokens, sentences = TOKENS, SENTENCES
    sizes = [("tokens", size) for size in tokens or ()] + [("sentences", size) for size in sentences or ()]
    rows = [
        (kind, size, room.waste(lengths, order, seed=seed, **{kind: size}))
        for kind, size in sizes
        for order in room.ORDERS
    ]
    facts = {
        name: {"mean": float(column.mean()), "longest": int(column.max())}
        for name, column in zip(names, lengths.T, strict=True)
    }
    if json:
        batches = [{kind: size, **vars(row)} for kind, size, row in rows]
        give_json({"examples": len(lengths), "unit": counted, "fields": facts, "batches": batches})
    else:
        give(_text(len(lengths), counted, facts, rows, room.ORDERS))


def _counted(
    file: str, field: tuple[str, ...] | None, run: Path | None, unit: Unit
) -> tuple[Sequence[str], str, Any]:
    """Names of the fields, what is counted, and the lengths (examples, fields)."""
    import numpy as np

    from regard.data.records import read_records

    if run is None:
        names: Sequence[str] = field or ("source", "target")
        records = read_records(file, names)
        count = COUNTERS[unit]
        rows: Iterable[Sequence[int]] = ([count(record.fields[name]) for name in names] for record in records)
        counted: str = unit
    else:
        if field is not None:
            raise ConfigError(
                "the fields are those of the run's task. Expected: --run or --field. Received: both."
            )
        names, rows = _pieces(file, run)
        counted = "pieces"
    return names, counted, np.array(list(rows))


def _pieces(file: str, run: Path) -> tuple[Sequence[str], Iterator[Sequence[int]]]:
    from regard.tasks import make_task
    from regard.training import runs

    config = runs.read_config(run)
    task = make_task(config["run"].get("task", ""))
    task.load(run)
    limit = runs.recipe_of(config, run).max_characters
    encoded = task.encode(task.read(file, limit))
    return task.streams, ([len(ids) for ids in streams] for streams in encoded)


def _text(
    examples: int,
    counted: str,
    facts: dict[str, dict[str, Any]],
    rows: list[tuple[str, int, Waste]],
    orders: dict[str, str],
) -> str:
    described = [
        f"{name} {fact['mean']:.1f} on average, {fact['longest']:,} at most" for name, fact in facts.items()
    ]
    lines = [f"{examples:,} examples in {counted}: {'; '.join(described)}", ""]
    lines.append(
        f"{'batch':<17}{'order':<9}{'batches':>8}{'padding':>9}{'activations':>13}{'pairs':>8}{'largest':>10}"
    )
    for kind, size, row in rows:
        lines.append(
            f"{f'{size:,} {kind}':<17}{row.order:<9}{row.batches:>8,}{row.padding:>8.1%} "
            f"{row.activations:>12.2f}x{row.pairs:>7.2f}x{row.largest:>10,}"
        )
    lines += ["", *(f"{name:<9}{meaning}" for name, meaning in orders.items())]
    lines.append(
        "activations and pairs of query and key: computed for each that is not padding; largest batch in tokens"
    )
    return "\n".join(lines)
