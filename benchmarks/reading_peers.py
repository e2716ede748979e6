"""Roles, answers and summaries by models of transformers, in as many minutes as ours had: one row of a table.

    python benchmarks/reading_peers.py roles --data DIR --minutes 20
    python benchmarks/reading_peers.py answer --train A,B --dev D --test T --minutes 20
    python benchmarks/reading_peers.py summarize --data DIR --minutes 20 --predictions mbart.jsonl
    python benchmarks/reading_peers.py roles --data DIR --minutes 10 --init FOLDER       # a pretrained encoder's
    python benchmarks/reading_peers.py roles --data DIR --tune --minutes 3 --rates 1e-3 2e-3 --tokens 1024 2048

DIR holds train, dev and test as `.jsonl.gz`. `--tune` trains one model for each combination of rates, tokens and dropouts, and scores dev
alone. What `--predictions` writes goes beside a run of ours: `regard compare RUN mbart.jsonl --data DIR/test.jsonl.gz`.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from reading_peers import source
from reading_peers.answer import Answers
from reading_peers.models import READERS, WRITERS
from reading_peers.roles import Roles
from reading_peers.summarize import Summaries
from reading_peers.training import Settings, Trained, train

from regard.cli._predictions import write_predictions
from regard.training.memory import keep_freed_memory

PEERS: dict[str, Any] = {"roles": Roles, "answer": Answers, "summarize": Summaries}
PARTS = ("train", "dev", "test")
SIZES = ("vocabulary", "dim", "heads", "hidden", "encoder_layers", "decoder_layers")
# Peak learning rates from scratch; `--tune` looks at others.
RATES = {
    "roles": {"bert": 1e-3, "modernbert": 2e-3},
    "answer": {"bert": 1e-3, "modernbert": 2e-3},
    "summarize": {"mbart": 3e-3, "bart": 1e-3, "t5": 3e-3},
}
FINE_TUNED = {"learning_rate": 1e-4, "schedule": "linear", "betas": (0.9, 0.999)}
HEAD = (
    "| | parameters | updates, epochs | useful tokens/s | padding | MiB | dev | test |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --- |"
)
TUNED = "| rate | tokens | dropout | updates | useful tokens/s | dev, every check |\n| --: | --: | --: | --: | --: | --- |"


def main() -> None:
    """Train, or tune, and print."""
    arguments = parse(sys.argv[1:])
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as ours; otherwise page faults cost time
    files = {part: getattr(arguments, part) or str(arguments.data / f"{part}.jsonl.gz") for part in PARTS}
    sizes = {name: getattr(arguments, name) for name in SIZES}
    given = {name: value for name, value in sizes.items() if value is not None}
    found = source.read(arguments.task, files, arguments.architecture, arguments.init, given)
    if arguments.tune:
        tune(arguments, *found)
    else:
        one(arguments, *found)


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=PEERS)
    parser.add_argument("--data", type=Path, help="a folder with train, dev and test as .jsonl.gz")
    for part in PARTS:
        parser.add_argument(f"--{part}", help="instead of DIR's; several files with commas between them")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int, help="updates, instead of minutes")
    parser.add_argument("--threads", type=int, default=_cores(), help="default: all cores")
    parser.add_argument(
        "--architecture", choices=(*READERS, *WRITERS), help="default: bert; for summarize mbart"
    )
    parser.add_argument("--init", type=Path, help="the folder of a pretrained encoder; not for summarize")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument(
        "--rates", "--lr", type=float, nargs="+", help="peak learning rates, one without --tune"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048], help="of an update, without padding")
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.1], help="of a new model")
    parser.add_argument("--order", choices=("sorted", "grouped", "random"), default="sorted")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--checks", type=int, default=10, help="on dev, while the clock stands still")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="default: that of our preset")
    parser.add_argument("--predictions", type=Path, help="what test got, FILE.jsonl, for regard compare")
    arguments = parser.parse_args(words)
    known = WRITERS if arguments.task == "summarize" else READERS
    arguments.architecture = arguments.architecture or known[0]
    if arguments.architecture not in known or (arguments.init and known is WRITERS):
        parser.error(
            f"{arguments.task} knows --architecture {', '.join(known)}{' and no --init' * (known is WRITERS)}"
        )
    if arguments.data is None and not all(getattr(arguments, part) for part in PARTS):
        parser.error("name --data, or all of --train, --dev and --test")
    if arguments.rates is None:
        usual = RATES[arguments.task][arguments.architecture]
        arguments.rates = [FINE_TUNED["learning_rate"] if arguments.init else usual]
    if not arguments.tune and any(
        len(one) > 1 for one in (arguments.rates, arguments.tokens, arguments.dropouts)
    ):
        parser.error("several rates, tokens or dropouts are for --tune")
    return arguments


def one(arguments: argparse.Namespace, found: source.Source, sizes: source.Sizes) -> None:
    """One training, and the score of test."""
    peer = _peer(arguments, found, sizes, arguments.dropouts[0])
    model = _seeded(peer, arguments.seed)
    trained = train(peer, model, _settings(arguments, arguments.rates[0], arguments.tokens[0]))
    if isinstance(peer, Summaries):
        print(f"search, by dev: {peer.settle(model)}", file=sys.stderr)
    records = found.records["test"]
    predictions = peer.predict(model, records)
    if arguments.predictions:
        write_predictions(arguments.predictions, arguments.task, predictions)
    scores = ", ".join(f"{score.name} {score.value:.2f}" for score in peer.task.score(predictions, records))
    print(f"{HEAD}\n{_row(arguments, model, trained)} {trained.dev:.2f} | {scores} |")


def tune(arguments: argparse.Namespace, found: source.Source, sizes: source.Sizes) -> None:
    """Short trainings, scored on dev."""
    print(TUNED, flush=True)
    for rate, tokens, dropout in product(arguments.rates, arguments.tokens, arguments.dropouts):
        peer = _peer(arguments, found, sizes, dropout)
        trained = train(peer, _seeded(peer, arguments.seed), _settings(arguments, rate, tokens))
        curve = " ".join(f"{score:.1f}" for score in trained.curve)
        print(f"| {rate:g} | {tokens} | {dropout:g} | {trained.updates:,} | {trained.useful / trained.seconds:,.0f} | {curve} |",
              flush=True)  # fmt: skip


def _peer(arguments: argparse.Namespace, found: source.Source, sizes: source.Sizes, dropout: float) -> Any:
    return PEERS[arguments.task](found, sizes.with_dropout(dropout), arguments.architecture)


def _seeded(peer: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return peer.model()


def _settings(arguments: argparse.Namespace, rate: float, tokens: int) -> Settings:
    other = {**FINE_TUNED, "learning_rate": rate} if arguments.init else {"learning_rate": rate}
    return Settings(
        minutes=None if arguments.steps else arguments.minutes, updates=arguments.steps, tokens=tokens, order=arguments.order,
        precision=arguments.precision, checks=arguments.checks, seed=arguments.seed, **other,
    )  # fmt: skip


def _row(arguments: argparse.Namespace, model: Any, trained: Trained) -> str:
    name = arguments.init.resolve().name if arguments.init else arguments.architecture
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"| {arguments.task}, {name} | {parameters:,} | {trained.updates:,}, {trained.epochs:.1f} | "
        f"{trained.useful / trained.seconds:,.0f} | {1 - trained.useful / trained.padded:.1%} | {trained.peak_mib:,} |"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
