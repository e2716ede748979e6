"""Does attention reach further than recurrence? The same questions to both, of equal size and budget.

    python experiments/distance.py synthetic --out runs/distance               agreement, copying, recall, by gap
    python experiments/distance.py listops --data DIR --out runs/distance      DIR holds train, dev and test .jsonl.gz
    python experiments/distance.py roles --gold FILE --attention P.. --recurrent P.. --out runs/distance
    python experiments/distance.py translation --gold FILE --attention P.. --recurrent P.. --out runs/distance
    python experiments/distance.py report --out runs/distance                  tables and figures of all points so far

P are what `regard predict RUN --input FILE --json` wrote, one file for each seed. `--quick` takes less than a minute for
each model that is trained. Every command adds to OUT/points.jsonl, writes OUT/EXPERIMENT.svg and prints the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from distance import listops, points, predictions, report, synthetic
from distance.examples import Example
from distance.labeller import KINDS, Budget, Labeller, answers, train
from distance.points import Point

GAPS = (0, 4, 8, 16, 32, 64, 128)
SHORT, FAR = 16, 128  # the longest gap of the training data, in the two settings
SIZES: dict[str, Any] = {"dim": 64, "heads": 4, "hidden": 128, "layers": 2, "dropout": 0.0}
TOGETHER = 32  # synthetic examples of an update
TOKENS = 8192  # ListOps' tokens of an update
UPDATES = 4000
QUICK = {"synthetic": 300, "listops": 50}  # updates that take less than a minute


def main() -> int:
    """Run one command, and report."""
    arguments = parse(sys.argv[1:])
    torch.set_num_threads(arguments.threads)
    commands = {"synthetic": ask_synthetic, "listops": ask_listops, "roles": read, "translation": read}
    if arguments.command in commands:
        commands[arguments.command](arguments)
    write_report(arguments.out)
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, required=True)
    shared.add_argument("--threads", type=int, default=1)
    trained = argparse.ArgumentParser(add_help=False, parents=[shared])
    budget = trained.add_mutually_exclusive_group()
    budget.add_argument("--updates", type=int, help=f"of each model; default: {UPDATES}, few with --quick")
    budget.add_argument("--minutes", type=float, help="of each model, instead of updates")
    trained.add_argument("--seeds", type=int, nargs="+", help="default: 0 to 4, 0 and 1 with --quick")
    trained.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    trained.add_argument("--quick", action="store_true", help="a short look, no result")
    finished = argparse.ArgumentParser(add_help=False, parents=[shared])
    finished.add_argument("--gold", type=Path, required=True)
    finished.add_argument("--lowercase", action="store_true", help="BLEU without case")
    for kind in KINDS:
        finished.add_argument(f"--{kind}", type=Path, nargs="+", default=[])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    questions = commands.add_parser("synthetic", parents=[trained])
    questions.add_argument(
        "--only", nargs="+", choices=synthetic.QUESTIONS, default=list(synthetic.QUESTIONS)
    )
    questions.add_argument("--gaps", type=int, nargs="+", choices=(SHORT, FAR), help="longest in training")
    commands.add_parser("listops", parents=[trained]).add_argument("--data", type=Path, required=True)
    for name in ("roles", "translation"):
        commands.add_parser(name, parents=[finished])
    commands.add_parser("report", parents=[shared])
    return parser.parse_args(words)


def ask_synthetic(arguments: argparse.Namespace) -> None:
    """Every question, once with short gaps in training and once with all."""
    count = 200 if arguments.quick else 1000
    for name in arguments.only:
        question = synthetic.QUESTIONS[name]
        tests = {gap: synthetic.held_out(question, count, gap) for gap in GAPS}
        for longest in arguments.gaps or ([SHORT] if arguments.quick else [SHORT, FAR]):
            for kind, seed in _runs(arguments):
                batches = synthetic.endless(question, TOGETHER, seed, longest)
                title = f"{name}, gaps to {longest}"
                sizes = question.vocabulary, question.labels
                _measure(arguments, title, kind, seed, sizes, batches, tests)


def ask_listops(arguments: argparse.Namespace) -> None:
    """ListOps by length."""
    splits, vocabulary = listops.read(arguments.data)
    tests = listops.by_length(splits["test"][: 200 if arguments.quick else None])
    for kind, seed in _runs(arguments):
        batches = listops.batches(splits["train"], TOKENS, seed)
        _measure(arguments, "listops", kind, seed, (vocabulary, 10), batches, tests)


def read(arguments: argparse.Namespace) -> None:
    """Finished runs."""
    for kind in KINDS:
        for seed, path in enumerate(getattr(arguments, kind)):
            if arguments.command == "roles":
                found = predictions.role_points(arguments.gold, path, kind, seed)
            else:
                found = predictions.translation_points(
                    arguments.gold, path, kind, seed, lowercase=arguments.lowercase
                )
            points.add(arguments.out, found)


def write_report(folder: Path) -> None:
    """Print the tables and draw the figures of all points."""
    found = points.read(folder)
    for name in sorted({point.experiment for point in found}):
        chosen = [point for point in found if point.experiment == name]
        figure = folder / f"{name.replace(', ', '-').replace(' ', '-')}.svg"
        figure.write_text(report.figure(chosen), encoding="utf8")
        print(report.table(chosen))


def _runs(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    seeds = arguments.seeds or range(2 if arguments.quick else 5)
    return ((kind, seed) for seed in seeds for kind in arguments.kinds)


def _measure(
    arguments: argparse.Namespace,
    experiment: str,
    kind: str,
    seed: int,
    sizes: tuple[int, int],
    batches: Iterator[Sequence[Example]],
    tests: dict[int, list[Example]],
) -> None:
    """Train one model and ask it; what stands in the file is not measured again."""
    updates = arguments.updates or (QUICK[arguments.command] if arguments.quick else UPDATES)
    budget = Budget(minutes=arguments.minutes) if arguments.minutes else Budget(updates)
    done = [point for point in points.read(arguments.out) if point.experiment == experiment]
    if any(point.facts["budget"] != str(budget) for point in done):
        raise SystemExit(
            f"{arguments.out} holds points of {experiment} with another budget; name another --out"
        )
    if (kind, seed) in {(point.kind, point.seed) for point in done}:
        return
    torch.manual_seed(seed)
    model = Labeller(*sizes, SIZES, kind)
    facts = train(model, batches, budget) | {"budget": str(budget)}
    found = [
        Point(experiment, kind, seed, bucket, answers(model, examples), facts=facts)
        for bucket, examples in tests.items()
    ]
    points.add(arguments.out, found)
    print(f"{experiment}, {kind}, seed {seed}: {facts}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
