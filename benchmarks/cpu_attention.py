"""Attention on a CPU, ours against its peers, in one interleaved run.

    python benchmarks/cpu_attention.py                       all items, less than ten minutes
    python benchmarks/cpu_attention.py --only dense ragged   items whose name or group holds one of these
    python benchmarks/cpu_attention.py --dtype bfloat16      ours and the peers' arrays in bfloat16 or float16
    python benchmarks/cpu_attention.py --threads 1 2         each number of threads in a process of its own
    python benchmarks/cpu_attention.py sweep                 many shapes against SDPA: the worst ratios, and their spread
    python benchmarks/cpu_attention.py growth                time and peak memory by length, and their exponents

Each cell is a peer's time divided by ours, both the median over rounds in which the contenders take turns; nobody is timed
who does not compute what ours computes. The share of the peak counts the arithmetic of the kept pairs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main() -> int:
    """Run each number of threads in a fresh process, and gather what they wrote."""
    arguments = parse(sys.argv[1:])
    if arguments.command == "point":
        return point(arguments)
    if arguments.inside:
        return measure(arguments)
    runs, worst = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for threads in arguments.threads:
            written = Path(folder) / f"{threads}.json"
            inside = ["--threads", str(threads), "--json", str(written), "--inside"]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], *inside], check=False, env=environment
            )
            if done.returncode < 0:
                print(f"the run of {threads} threads was ended by signal {-done.returncode}", file=sys.stderr)
            worst = max(worst, abs(done.returncode))
            if written.exists():
                runs.append(json.loads(written.read_text(encoding="utf8")))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(runs, indent=1), encoding="utf8")
    return worst


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = ("compare", "sweep", "growth", "point")
    parser.add_argument("command", nargs="?", choices=commands, default="compare", metavar="sweep | growth")
    parser.add_argument("--only", nargs="+", default=[], help="items whose name or group holds one of these")
    parser.add_argument("--list", action="store_true", help="name the items and stop")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, and a seventh of the sweep: noisier"
    )
    parser.add_argument("--long", action="store_true", help="also what takes minutes")
    parser.add_argument("--threads", type=int, nargs="+", default=[_cores()], help="default: all cores")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--backend", help="a backend of regard by name; default: what it chooses")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="folders of train.jsonl.gz, or such files"
    )
    parser.add_argument("--json", type=Path, help="write everything to this file too")
    parser.add_argument("--contender", choices=("ours", "sdpa"), default="ours", help="growth: whose")
    parser.add_argument(
        "--patience", type=float, default=60, help="growth: seconds a point may be expected to take"
    )
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def measure(arguments: argparse.Namespace) -> int:
    """The run of one number of threads: print as it goes, then write what was measured."""
    import torch
    from cpu_attention import clock, growth, sweep, table

    torch.set_num_threads(arguments.threads[0])
    if arguments.list:
        print("\n".join(f"{item.group:8} {item.name}" for item in chosen(arguments)))
        return 0
    facts = table.machine(arguments.backend)
    if facts["backend"] is None:
        print(f"regard has no backend {arguments.backend!r} for torch arrays here", file=sys.stderr)
        return 2
    facts["dtype"] = arguments.dtype
    print(table.headline(facts), flush=True)
    rows: list[Any] = []
    if arguments.command == "growth":
        facts["points"] = growth.growth(
            arguments.contender, arguments.backend, arguments.patience, growth.LENGTHS, arguments.dtype
        )
    elif arguments.command == "sweep":
        rows = sweep.sweep(clock.SWEEP, arguments.backend, 7 if arguments.quick else 1, arguments.dtype)
        print(sweep.report(rows))
    else:
        rows = compare_all(arguments)
    facts["rows"] = [{**asdict(row), "ratios": row.ratios} for row in rows]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(facts), encoding="utf8")
    return int(any(row.is_wrong for row in rows))


def compare_all(arguments: argparse.Namespace) -> list[Any]:
    """Measure and print the chosen items, group by group."""
    import logging

    from cpu_attention import clock, table
    from cpu_attention.compare import compare

    from regard import BackendError

    # That jagged tensors refuse causality is said in the table.
    for name in ("torch.nested._internal.sdpa", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    pace = clock.QUICK if arguments.quick else clock.Pace()
    items = chosen(arguments)
    width = max((len(item.name) for item in items), default=0)
    rows: list[Any] = []
    for group in dict.fromkeys(item.group for item in items):
        print(table.group_header(group, width))
        measured = []
        for item in items:
            if item.group == group:
                try:
                    found = compare(item, pace, arguments.backend, arguments.dtype)
                except BackendError as error:
                    print(f"{item.name:{width}} {error}", flush=True)
                    continue
                measured += found
                print(*(table.line(row, width) for row in found), sep="\n", flush=True)
        for note in table.notes(measured):
            print(note, flush=True)
        rows += measured
    return rows


def chosen(arguments: argparse.Namespace) -> list[Any]:
    """The items of this run."""
    from cpu_attention.items import default_items
    from cpu_attention.sentences import corpora

    return [
        item
        for item in default_items(corpora(arguments.data))
        if (arguments.long or not item.long)
        and (not arguments.only or any(word in item.name or word in item.group for word in arguments.only))
    ]


def point(arguments: argparse.Namespace) -> int:
    """One point of `growth`, in this process."""
    from cpu_attention.growth import measure_point

    mask, length = arguments.point
    found = measure_point(arguments.contender, mask, int(length), arguments.backend, arguments.dtype)
    print(json.dumps(found))
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
