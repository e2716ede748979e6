"""Translation, ours against its peers: speed of training, quality by the minute, decoding; one table.

    make peers                                                     their environments, under build/peers
    python benchmarks/peers.py train-speed --data DIR              interleaved rounds of updates
    python benchmarks/peers.py quality --data DIR --steps 1000     dev loss after equal updates
    python benchmarks/peers.py quality --data DIR --minutes 5 20   BLEU after equal minutes
    python benchmarks/peers.py decode --data DIR                   with the weights of the longest `quality` run
    python benchmarks/peers.py tune --data DIR --only mbart        short runs over learning rates, by dev loss
    python benchmarks/peers.py table --data DIR                    what was measured so far

`make bench-peers DATA=DIR` does all of it. DIR holds train, dev and test as `.jsonl.gz`. Everything is kept in --work, and every command prints the whole table. A contender's
name may carry variants: `mbart-bf16-grouped`, `ours-168-fp32`, `ctranslate2-ours-int8`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from peers import contenders, corpus, results, runs
from peers.protocol import Contender, PeerError

SETTINGS = {"greedy 64": (1, 64), "beam 5 64": (5, 64), "greedy 1": (1, 1), "beam 5 1": (5, 1)}


def main() -> int:
    """Run one command, and print the table."""
    arguments = parse(sys.argv[1:])
    folder = arguments.work.resolve() / arguments.data.resolve().name
    if not (folder / corpus.FILE).exists():
        corpus.write(arguments.data, folder, arguments.vocabulary)
    commands = {"train-speed": train_speed, "quality": quality, "decode": decode, "tune": tune}
    failures = commands[arguments.command](arguments, folder) if arguments.command in commands else 0
    print("\n" + results.table(results.read(folder)))
    return int(failures > 0)


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", type=Path, required=True)
    shared.add_argument("--work", type=Path, default=contenders.BENCHMARKS.parent / "runs" / "peers")
    shared.add_argument("--only", nargs="+", default=[], help="contenders by name")
    shared.add_argument("--threads", type=int, default=_cores(), help="default: all cores")
    shared.add_argument(
        "--vocabulary", type=int, default=4000, help="of the corpus, when it is exported first"
    )
    shared.add_argument(
        "--tokens", type=int, default=2048, help="of an update, source and target, without padding"
    )
    shared.add_argument("--seed", type=int, default=1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("train-speed", parents=[shared])
    speed.add_argument("--rounds", type=int, default=15)
    speed.add_argument("--updates", type=int, default=10, help="of each contender in a round")
    speed.add_argument("--warmup", type=int, default=10, help="updates that are not timed")
    learned = commands.add_parser("quality", parents=[shared])
    budget = learned.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, nargs="+", default=[])
    budget.add_argument("--steps", type=int, nargs="+", default=[])
    learned.add_argument("--limit", type=int, default=0, help="test sentences to translate; 0: all")
    decoded = commands.add_parser("decode", parents=[shared])
    decoded.add_argument("--weights", help='a budget of `quality`, such as "20 min"; default: the longest')
    decoded.add_argument("--rounds", type=int, default=5)
    decoded.add_argument("--limit", type=int, default=0, help="sentences of a batched round; 0: all")
    decoded.add_argument("--single", type=int, default=100, help="sentences that are translated one by one")
    tuned = commands.add_parser("tune", parents=[shared])
    tuned.add_argument(
        "--scales", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="of the learning rate"
    )
    tuned.add_argument("--minutes", type=float, default=2.5)
    tuned.add_argument("--steps", type=int)
    commands.add_parser("table", parents=[shared])
    return parser.parse_args(words)


def train_speed(arguments: argparse.Namespace, folder: Path) -> int:
    """Rounds in which the contenders take turns, each with the same number of updates."""
    names = contenders.chosen(contenders.TRAINING, arguments.only)
    options = {"tokens": arguments.tokens, "seed": arguments.seed}
    with started(names, folder, arguments.threads, dict.fromkeys(names, options)) as running:
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
        for contender in running.values():
            contender.ask("train", updates=arguments.warmup)
        for _ in range(arguments.rounds):
            for name, contender in running.items():
                rounds[name].append(contender.ask("train", updates=arguments.updates))
        rates = {name: [one["useful"] / one["seconds"] for one in found] for name, found in rounds.items()}
        for name, found in rounds.items():
            results.add(folder, name, "speed", runs.speed(found, rates[name], rates.get("ours")))
        return len(names) - len(running)


def quality(arguments: argparse.Namespace, folder: Path) -> int:
    """Whole trainings, one contender after the other, nothing else beside it."""
    failures = 0
    budgets = [
        *({"minutes": number} for number in arguments.minutes),
        *({"updates": number} for number in arguments.steps),
    ]
    for budget in budgets:
        for name in contenders.chosen(contenders.QUALITY, arguments.only):
            title = runs.title(budget)
            with started([name], folder, arguments.threads, {name: runs.options(arguments)}) as running:
                failures += not running
                for contender in running.values():
                    where = runs.emptied(runs.place(folder, title, name))
                    found = contender.ask("learn", folder=str(where), **budget)
                    scores = runs.scores(contender, folder, "test", arguments.limit)
                    results.add(folder, name, "quality", {title: {**found, **scores}})
                    print(f"{title}, {name}: dev loss {found['dev_loss']:.3f}, {found['updates']} updates, "
                          f"BLEU {scores['bleu']:.2f} / {scores['greedy_bleu']:.2f} greedy", file=sys.stderr)  # fmt: skip
    return failures


def decode(arguments: argparse.Namespace, folder: Path) -> int:
    """Rounds in which the contenders take turns, each with the same sentences."""
    title = arguments.weights or runs.longest(folder)
    names = contenders.chosen(contenders.DECODING, arguments.only)
    options, missing = runs.weights(names, folder, title)
    with started(list(options), folder, arguments.threads, options) as running:
        for setting, (beam, batch) in SETTINGS.items():
            count = arguments.single if batch == 1 else arguments.limit
            question = {"beam": beam, "batch": batch}
            for contender in running.values():  # warm
                contender.ask("translate", **question, count=min(batch, 8))
            seconds: dict[str, list[list[float]]] = {name: [] for name in running}
            for _ in range(arguments.rounds):
                for name, contender in running.items():
                    answer = contender.ask("translate", **question, count=count)
                    seconds[name].append(answer["seconds"])
                    peak, sentences = answer["peak_mib"], len(answer["ids"])
                    results.add(folder, name, "decode", {"peak_mib": peak, "weights": title})
            for name, taken in seconds.items():
                found = {
                    "rate": median(sentences / sum(one) for one in taken),
                    "milliseconds": 1e3 * median(median(one) for one in taken),
                }
                results.add(folder, name, "decode", {setting: found})
        # Who has no weights is a failure only where it was asked for.
        return bool(arguments.only) * missing + len(options) - len(running)


def tune(arguments: argparse.Namespace, folder: Path) -> int:
    """Short trainings over multiples of the learning rate; printed, and not kept."""
    failures = 0
    budget = {"updates": arguments.steps} if arguments.steps else {"minutes": arguments.minutes}
    print("| | scale | updates | dev loss | dev BLEU, greedy |\n| --- | --: | --: | --: | --: |", flush=True)
    for name in contenders.chosen(contenders.QUALITY, arguments.only):
        for scale in arguments.scales:
            options = {**runs.options(arguments), **runs.scaled(name, scale)}
            with started([name], folder, arguments.threads, {name: options}) as running:
                failures += not running
                for contender in running.values():
                    found = contender.ask(
                        "learn", folder=str(runs.emptied(runs.place(folder, "tune", name))), **budget
                    )
                    score = runs.scores(contender, folder, "dev", 0, beams=(1,))["greedy_bleu"]
                    print(
                        f"| {name} | {scale:g} | {found['updates']} | {found['dev_loss']:.3f} | {score:.2f} |",
                        flush=True,
                    )
    return failures


@contextmanager
def started(
    names: list[str], folder: Path, threads: int, options: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Contender]]:
    """Those of the contenders that start; the others are named with the reason."""
    running: dict[str, Contender] = {}
    try:
        for name in names:
            try:
                running[name], facts = contenders.start(name, folder, threads, **options[name])
            except (PeerError, FileNotFoundError) as error:
                print(f"{name} does not take part: {error}", file=sys.stderr)
                continue
            results.add(folder, name, "facts", facts)
        yield running
    finally:
        for contender in running.values():
            contender.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
